"""No secret survives, and what is no secret does."""

from __future__ import annotations

import json
import logging
import string
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mlflowctl.core import redact
from mlflowctl.core.logfile import LogFile, RedactingFormatter
from mlflowctl.core.redact import redact_text, redact_uri, redact_value, register_secret, register_uri


@pytest.fixture(autouse=True)
def _empty_registry() -> Iterator[None]:
    redact.forget_secrets()
    yield
    redact.forget_secrets()


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("postgresql://ada:s3cret@db:5432/ml", "postgresql://ada:***@db:5432/ml"),
        ("postgresql+psycopg://ada:a@b@db/ml", "postgresql+psycopg://ada:***@db/ml"),
        ("mysql+pymysql://ada:pa/ss@db/ml", "mysql+pymysql://ada:***@db/ml"),
        ("mysql://ada:pa?ss#1@db/ml", "mysql://ada:***@db/ml"),
        ("mysql://ada:pa ss@db/ml", "mysql://ada:***@db/ml"),
        ("postgresql://ada:x@db/ml?user=a@b", "postgresql://ada:***@db/ml?user=a@b"),
        ("postgresql://:x@db/ml", "postgresql://:***@db/ml"),
        ("postgresql://ada@db/ml", "postgresql://ada@db/ml"),
        ("postgresql://ada@/ml?host=/run/pg", "postgresql://ada@/ml?host=/run/pg"),
        ("postgresql:///ml?host=/run/pg&password=x1y2", "postgresql:///ml?host=/run/pg&password=***"),
        ("postgresql://db/ml?sslpassword=abc&sslmode=require", "postgresql://db/ml?sslpassword=***&sslmode=require"),
        ("https://ghp_token123@host/path", "https://***@host/path"),
        ("https://ada:pw@host/path", "https://ada:***@host/path"),
        ("http://localhost:5000/@me", "http://localhost:5000/@me"),
        ("http://localhost:5000", "http://localhost:5000"),
        ("sqlite:///mlflow.db", "sqlite:///mlflow.db"),
        ("sqlite:////srv/a:b@c/mlflow.db", "sqlite:////srv/a:b@c/mlflow.db"),
        ("file:///C:/Users/a@b/mlruns", "file:///C:/Users/a@b/mlruns"),
        ("s3://bucket/path@x:y", "s3://bucket/path@x:y"),
        ("./mlruns", "./mlruns"),
        ("https://bucket.s3/x?X-Amz-Security-Token=abc&y=1", "https://bucket.s3/x?X-Amz-Security-Token=***&y=1"),
    ],
)
def test_uri(uri: str, expected: str) -> None:
    assert redact_uri(uri) == expected
    assert redact_uri(redact_uri(uri)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cannot open postgresql://a:b1@h/d: refused", "cannot open postgresql://a:***@h/d: refused"),
        ('"mysql://a:b1@h/d"', '"mysql://a:***@h/d"'),
        ("host=h user=u password=geheim dbname=d", "host=h user=u password=*** dbname=d"),
        ("host=h password='ge heim' dbname=d", "host=h password=*** dbname=d"),
        ('{"password": "geheim", "user": "u"}', '{"password": "***", "user": "u"}'),
        ("{'api_key': 'geheim'}", "{'api_key': '***'}"),
        ("Authorization: Bearer abcdef123456", "Authorization: Bearer ***"),
        ("Authorization: Basic QWxhZGRpbjpvcGVu", "Authorization: Basic ***"),
        ("key AKIAIOSFODNN7EXAMPLE used", "key *** used"),
        ("aws_secret_access_key = wJalrXUtnFEMI/K7MDENG", "aws_secret_access_key = ***"),
        ('password authentication failed for user "ada"', 'password authentication failed for user "ada"'),
        ("secrets: 4 rows", "secrets: 4 rows"),
        ("a basic check of the tokens", "a basic check of the tokens"),
        (
            "mlflow server --backend-store-uri sqlite:///mlflow.db",
            "mlflow server --backend-store-uri sqlite:///mlflow.db",
        ),
    ],
)
def test_text(text: str, expected: str) -> None:
    assert redact_text(text) == expected


# What can stand in a password: everything a keyboard has. Letters and digits that also stand in the frame would be
# found in it by chance, so each password begins with a mark that stands nowhere else.
_PASSWORDS = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Z")), min_size=1).map(
    lambda t: f"Zq9{t}"
)


@given(password=_PASSWORDS)
def test_no_encoded_password_survives_in_any_text(password: str) -> None:
    encoded = quote(password, safe="")
    text = f"Error at postgresql://ada:{encoded}@db/ml, see 'mysql://x:{encoded}@h/d' (twice)"
    assert "Zq9" not in redact_text(text)
    assert "Zq9" not in redact_uri(f"postgresql+psycopg://ada:{encoded}@db/ml")


@given(password=_PASSWORDS, scheme=st.sampled_from(["postgresql", "mysql+pymysql", "mssql", "https"]))
def test_no_raw_password_survives_in_a_uri(password: str, scheme: str) -> None:
    # "a@b?c" as typed has two readings; the other one is a host with a query, which must stay readable.
    assume(not ("@" in password and "?" in password))
    assume(scheme != "https" or not any(mark in password for mark in "/?#"))
    shown = redact_uri(f"{scheme}://ada:{password}@db.example/ml?sslmode=require")
    assert "Zq9" not in shown
    assert shown == f"{scheme}://ada:***@db.example/ml?sslmode=require"


@given(password=_PASSWORDS, before=st.text(string.printable), after=st.text(string.printable))
def test_no_registered_secret_survives_in_any_shape(password: str, before: str, after: str) -> None:
    redact.forget_secrets()
    password += "x" * 8
    register_secret(password)
    for shape in (password, quote(password, safe=""), repr(password), json.dumps(password)):
        assert password not in redact_text(f"{before} {shape} {after}")
        assert shape not in redact_text(f"{before} {shape} {after}")


def test_a_registered_uri_hides_its_password_everywhere() -> None:
    register_uri("postgresql://ada:corr%20horse@db/ml")
    assert redact_text("FATAL: bad password 'corr horse' for ada") == "FATAL: bad password '***' for ada"


def test_everyday_words_stay_readable() -> None:
    register_uri("postgresql://mlflow:mlflow@db/mlflow")
    register_uri("postgresql://ada:ada1@ada1/x")
    assert redact_text("mlflow server on ada1") == "mlflow server on ada1"
    assert redact_uri("postgresql://mlflow:mlflow@db/mlflow") == "postgresql://mlflow:***@db/mlflow"


def test_a_short_secret_is_hidden_as_a_word_only() -> None:
    register_secret("abcd")
    assert redact_text("abcd abcde x'abcd'") == "*** abcde x'***'"


def test_a_document_keeps_its_keys() -> None:
    register_secret("hunter2hunter2")
    document = {"hunter2hunter2": ["postgresql://a:b@h/d", {"n": 1, "x": None, "t": "hunter2hunter2"}]}
    assert redact_value(document) == {"hunter2hunter2": ["postgresql://a:***@h/d", {"n": 1, "x": None, "t": "***"}]}


def test_tracebacks_in_the_log_hold_no_secret(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "x.log"
    with LogFile(path) as log:
        with pytest.raises(ValueError) as caught:
            raise ValueError("cannot reach postgresql://ada:s3cret-pw@db/ml")
        assert log.traceback("unexpected", caught.value) == path
    text = path.read_text()
    assert "Traceback" in text
    assert "postgresql://ada:***@db/ml" in text
    assert "s3cret" not in text
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_default_log_appears_only_with_an_error(tmp_path: Path) -> None:
    environ = {"XDG_STATE_HOME": str(tmp_path)}
    with LogFile(environ=environ) as log:
        logging.getLogger("mlflowctl.x").info("step one")
    assert not list(tmp_path.rglob("*.log"))
    with LogFile(environ=environ) as log:
        logging.getLogger("mlflowctl.x").info("step one")
        log.traceback("unexpected", ValueError("x"))
    (path,) = tmp_path.rglob("*.log")
    assert path == log.path
    assert "step one" in path.read_text()


def test_a_log_that_cannot_be_written_is_no_second_failure(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with LogFile(tmp_path / "file" / "x.log") as log:
        assert log.traceback("unexpected", ValueError("x")) is None


def test_times_in_the_log_are_utc() -> None:
    record = logging.LogRecord("n", logging.INFO, "p", 1, "m", None, None)
    record.created = 0.0
    assert RedactingFormatter().format(record).startswith("1970-01-01T00:00:00.000+00:00 INFO n: m")
