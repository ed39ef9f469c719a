"""References to secrets."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflowctl.config import secrets
from mlflowctl.core import redact
from mlflowctl.core.errors import ConfigError


@pytest.fixture(autouse=True)
def _empty_registry() -> Iterator[None]:
    redact.forget_secrets()
    yield
    redact.forget_secrets()


def test_environment() -> None:
    assert secrets.resolve("env://PW", {"PW": "hunter2hunter2"}) == "hunter2hunter2"
    assert redact.redact_text("x hunter2hunter2 y") == "x *** y"
    assert secrets.resolve("env://PW#b", {"PW": '{"a": 1, "b": "zwei"}'}) == "zwei"


@pytest.mark.parametrize(
    ("reference", "environ", "words"),
    [
        ("env://PW", {}, "not set"),
        ("env://PW", {"PW": ""}, "empty"),
        ("env://PW#a", {"PW": "x"}, "not JSON"),
        ("env://PW#a", {"PW": "{}"}, "no field"),
        ("vault://secret/x", {}, "names no field"),
        ("file:///nowhere/at/all", {}, "No such file"),
    ],
)
def test_references_that_lead_nowhere(reference: str, environ: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        secrets.resolve(reference, environ)
    assert words in (caught.value.why or "")
    assert caught.value.where == reference
    assert caught.value.exit_code == 3


def test_file(tmp_path: Path) -> None:
    (tmp_path / "pw").write_text("two words \n")
    assert secrets.resolve(f"file://{tmp_path}/pw") == "two words "
    (tmp_path / "pw").write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="cannot be read"):
        secrets.resolve(f"file://{tmp_path}/pw")


def test_a_literal_is_itself() -> None:
    assert secrets.resolve("hunter2hunter2") == "hunter2hunter2"


def test_a_store_uri_may_be_a_reference(tmp_path: Path) -> None:
    uri = "postgresql://ada:hunter2hunter2@db/ml"
    assert secrets.resolve_uri("env://URI", {"URI": uri}) == uri
    assert redact.redact_text("hunter2hunter2") == "***"
    (tmp_path / "uri").write_text(uri + "\n")
    assert secrets.resolve_uri(f"file://{tmp_path}/uri") == uri


def test_a_file_uri_that_is_a_store_stays_one(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"SQLite format 3\x00rest")
    (tmp_path / "big").write_bytes(b"x" * 100_000)
    for name in ("", "/mlflow.db", "/big", "/absent"):
        uri = f"file://{tmp_path}{name}"
        assert secrets.resolve_uri(uri) == uri


@pytest.mark.parametrize("uri", ["./mlruns", "sqlite:///mlflow.db", "sqlite:////a.db", "file:///x", "plain"])
def test_stores_that_take_no_password(uri: str) -> None:
    with pytest.raises(ConfigError, match="takes no password"):
        secrets.with_password(uri, "x")


def test_a_password_needs_a_user() -> None:
    with pytest.raises(ConfigError, match="needs a user"):
        secrets.with_password("postgresql://db/ml", "x")


@given(st.text(st.characters(codec="utf-8"), min_size=1))
def test_any_password_arrives(password: str) -> None:
    uri = secrets.with_password("postgresql+psycopg://ada:old@db:5432/ml?sslmode=require", password)
    parts = urlsplit(uri)
    assert unquote(parts.password or "") == password
    assert (parts.username, parts.hostname, parts.port, parts.path, parts.query) == (
        "ada",
        "db",
        5432,
        "/ml",
        "sslmode=require",
    )
    assert redact.redact_uri(uri) == "postgresql+psycopg://ada:***@db:5432/ml?sslmode=require"


class _Aws:
    def __init__(self, service: str) -> None:
        self.service = service

    def get_parameter(self, *, Name: str, WithDecryption: bool) -> Any:  # noqa: N803
        assert WithDecryption
        if Name != "/prod/pw":
            raise RuntimeError("ParameterNotFound:  no\nsuch thing")
        return {"Parameter": {"Value": "from-ssm-1"}}

    def get_secret_value(self, *, SecretId: str) -> Any:  # noqa: N803
        if SecretId == "binary":
            return {"SecretBinary": b"x"}
        return {"SecretString": json.dumps({"password": "from-sm-1"})}


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("boto3")
    module.client = _Aws  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "boto3", module)


@pytest.mark.usefixtures("aws")
def test_aws() -> None:
    assert secrets.resolve("ssm:///prod/pw") == "from-ssm-1"
    assert secrets.resolve("secretsmanager://arn:aws:x#password") == "from-sm-1"
    with pytest.raises(ConfigError) as caught:
        secrets.resolve("ssm://other")
    assert caught.value.why == "ParameterNotFound: no such thing"
    with pytest.raises(ConfigError, match="cannot be read"):
        secrets.resolve("secretsmanager://binary")
    with pytest.raises(ConfigError, match="cannot be read"):
        secrets.resolve("secretsmanager://arn:aws:x#user")


class _Vault:
    def __init__(self, **words: Any) -> None:
        self.words = words

    def read(self, path: str) -> Any:
        return {
            "secret/data/ml": {"data": {"data": {"password": "from-v2"}, "metadata": {}}},
            "kv1/ml": {"data": {"password": "from-v1"}},
        }.get(path)


def test_vault(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("hvac")
    module.Client = _Vault  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "hvac", module)
    assert secrets.resolve("vault://secret/ml#password", {}) == "from-v2"
    assert secrets.resolve("vault://secret/data/ml#password", {}) == "from-v2"
    assert secrets.resolve("vault://kv1/ml#password", {}) == "from-v1"
    for reference in ("vault://kv1/ml#user", "vault://kv1/none#password"):
        with pytest.raises(ConfigError, match="cannot be read"):
            secrets.resolve(reference, {})


def test_a_missing_client_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hvac", None)
    with pytest.raises(ConfigError) as caught:
        secrets.resolve("vault://a/b#c", {})
    assert caught.value.next_step == "pip install 'mlflowctl[vault]'"
