"""Secrets by reference, resolved at the moment of connection and hidden from then on.

``env://NAME`` · ``file://PATH`` · ``ssm://NAME`` · ``secretsmanager://ID#FIELD`` · ``vault://PATH#FIELD``
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from mlflowctl.core.errors import ConfigError
from mlflowctl.core.redact import register_secret, register_uri

_SQLITE_MAGIC = b"SQLite format 3\x00"
_LARGEST_FILE = 64 * 1024
_SPLIT = re.compile(r"(?P<kind>env|file|ssm|secretsmanager|vault)://(?P<name>[^#]+)(?:#(?P<field>.+))?", re.DOTALL)


def resolve(text: str, environ: Mapping[str, str] | None = None) -> str:
    """The secret behind a reference; any other text comes back as it is.

    Args:
        text: a reference, or a literal that came from a variable.
        environ: where ``env://`` looks; default: the process's environment.

    Raises:
        ConfigError: the reference leads nowhere. Its words name the reference, never a value.
    """
    match = _SPLIT.fullmatch(text)
    if match is None:
        value = text
    else:
        environ = os.environ if environ is None else environ
        value = _RESOLVERS[match["kind"]](text, match["name"], match["field"], environ)
        if not value:
            raise _nowhere(text, "It is empty.")
    register_secret(value)
    return value


def resolve_uri(text: str, environ: Mapping[str, str] | None = None) -> str:
    """The store URI that ``text`` is or refers to.

    ``file://`` is also how a store is named; it counts as a reference only where it names a small regular file that
    is no SQLite database.
    """
    match = _SPLIT.fullmatch(text)
    if match is not None and (match["kind"] != "file" or _is_secret_file(match["name"])):
        environ = os.environ if environ is None else environ
        text = _RESOLVERS[match["kind"]](text, match["name"], match["field"], environ).strip()
        if not text:
            raise _nowhere(match[0], "It is empty.")
    register_uri(text)
    return text


def with_password(uri: str, password: str) -> str:
    """``uri`` with ``password`` in its user info, percent-encoded; an older password is replaced.

    Raises:
        ConfigError: the URI has no place for one (a folder, a SQLite file) or names no user.
    """
    parts = urlsplit(uri)
    if not parts.scheme or not parts.netloc or parts.scheme.split("+")[0] in ("file", "sqlite"):
        raise ConfigError("That store takes no password.", where=uri, next_step="Leave the password option out.")
    info, at, place = parts.netloc.rpartition("@")
    user = info.partition(":")[0]
    if not at or not user:
        raise ConfigError(
            "A password needs a user.",
            where=parts.netloc.rpartition("@")[2],
            next_step=f"Write {parts.scheme}://USER@HOST/...",
        )
    known = [unquote(user), *re.split(r"[:/]", place), parts.path.strip("/")]
    register_secret(password, known=known)
    return parts._replace(netloc=f"{user}:{quote(password, safe='')}@{place}").geturl()


def _nowhere(reference: str, why: str, next_step: str | None = None) -> ConfigError:
    return ConfigError(
        "A secret cannot be read.", where=reference, why=why, next_step=next_step, kind="secret_unavailable"
    )


def _path(name: str) -> Path:
    return Path(unquote(name)).expanduser()


def _is_secret_file(name: str) -> bool:
    path = _path(name)
    try:
        if not path.is_file() or path.stat().st_size > _LARGEST_FILE:
            return False
        with path.open("rb") as stream:
            return stream.read(16) != _SQLITE_MAGIC
    except OSError:
        return False


def _from_environment(reference: str, name: str, field: str | None, environ: Mapping[str, str]) -> str:
    value = environ.get(name)
    if value is None:
        raise _nowhere(reference, f"The variable {name} is not set.", f"export {name}=... and run the same command.")
    return _field(reference, value, field)


def _from_file(reference: str, name: str, field: str | None, _: Mapping[str, str]) -> str:
    try:
        text = _path(name).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise _nowhere(reference, "The file is not UTF-8 text.") from None
    except OSError as bad:
        raise _nowhere(reference, f"{bad.strerror}.") from None
    return _field(reference, text.rstrip("\r\n"), field)


def _from_ssm(reference: str, name: str, field: str | None, _: Mapping[str, str]) -> str:
    client = _aws(reference, "ssm")
    try:
        # The name of a parameter in a hierarchy begins with a slash: ssm:///prod/mlflow/password.
        value = client.get_parameter(Name=name, WithDecryption=True)["Parameter"]["Value"]
    except Exception as bad:  # noqa: BLE001 - botocore's exceptions are made at run time and share no useful base
        raise _nowhere(reference, _words(bad)) from None
    return _field(reference, str(value), field)


def _from_secretsmanager(reference: str, name: str, field: str | None, _: Mapping[str, str]) -> str:
    client = _aws(reference, "secretsmanager")
    try:
        answer = client.get_secret_value(SecretId=name)
    except Exception as bad:  # noqa: BLE001 - as above
        raise _nowhere(reference, _words(bad)) from None
    value = answer.get("SecretString")
    if value is None:
        raise _nowhere(reference, "The secret is binary.")
    return _field(reference, str(value), field)


def _from_vault(reference: str, name: str, field: str | None, environ: Mapping[str, str]) -> str:
    if not field:
        raise _nowhere(reference, "It names no field.", "Write vault://PATH#FIELD.")
    try:
        import hvac
    except ImportError:
        raise ConfigError(
            "Vault's client is not installed.",
            where=reference,
            next_step="pip install 'mlflowctl[vault]'",
            kind="missing_driver",
        ) from None
    try:
        client = hvac.Client(
            url=environ.get("VAULT_ADDR"), token=environ.get("VAULT_TOKEN"), namespace=environ.get("VAULT_NAMESPACE")
        )
        data = _vault_data(client, name.strip("/"))
    except Exception as bad:  # noqa: BLE001 - hvac raises its own and requests' exceptions
        raise _nowhere(reference, _words(bad)) from None
    if field not in data:
        raise _nowhere(reference, f"There is no field {field!r}.")
    return str(data[field])


def _vault_data(client: Any, path: str) -> dict[str, Any]:
    """The fields of a secret in either version of Vault's key-value engine, at the path that ``vault kv get`` takes."""
    mount, _, inner = path.partition("/")
    for candidate in (path, f"{mount}/data/{inner}"):
        answer = client.read(candidate)
        if answer is not None:
            data = answer["data"]
            nested = data.get("data")
            return dict(nested) if isinstance(nested, dict) and "metadata" in data else dict(data)
    raise LookupError("There is no such secret.")


def _aws(reference: str, service: str) -> Any:
    try:
        import boto3
    except ImportError:
        raise _nowhere(reference, "boto3 is not installed.", "pip install boto3") from None
    try:
        return boto3.client(service)
    except Exception as bad:  # noqa: BLE001 - as above
        raise _nowhere(reference, _words(bad)) from None


def _field(reference: str, text: str, field: str | None) -> str:
    """One field of a JSON object, or the whole text."""
    if field is None:
        return text
    try:
        members = json.loads(text)
    except ValueError:
        raise _nowhere(reference, "The secret is not JSON, so it has no fields.") from None
    if not isinstance(members, dict) or field not in members:
        raise _nowhere(reference, f"There is no field {field!r}.")
    return str(members[field])


def _words(bad: Exception) -> str:
    return " ".join(str(bad).split()) or type(bad).__name__


_RESOLVERS: dict[str, Callable[[str, str, str | None, Mapping[str, str]], str]] = {
    "env": _from_environment,
    "file": _from_file,
    "ssm": _from_ssm,
    "secretsmanager": _from_secretsmanager,
    "vault": _from_vault,
}
