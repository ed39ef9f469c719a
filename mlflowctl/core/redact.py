"""Keep secrets out of everything that is printed or written.

Two nets, one behind the other. The first knows what secrets look like: the password of a URL, ``password=…``, bearer
tokens, AWS keys. The second knows the secrets of this very process: whoever learns one calls ``register_secret``, and
it is replaced wherever it turns up, in whatever shape a driver's error text brings it.

Where a text can be read in two ways, the reading that hides more wins.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote, quote_plus, unquote

MASK = "***"

_URI = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.\-]*)://(?P<rest>\S+)")
_DATABASES = ("postgres", "mysql", "mariadb", "mssql", "oracle", "mongodb", "redis")
_PORT = re.compile(r"\d{1,5}(?=$|[/?#'\"),\]}>])")
_KEY = r"[\w.\-]*(?:password|passwd|passphrase|pwd|secret|token|api[_\-]?key|access[_\-]?key|credential)[\w.\-]*"
_QUOTED = r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\""
# key=value as in query strings, libpq's connection strings and shell assignments; the value may be quoted.
_ASSIGNED = re.compile(rf"(?i)(?P<key>\b{_KEY})(?P<sep>\s*=\s*)(?P<value>{_QUOTED}|[^\s&;,'\")\]}}]+)")
# "key": "value" as in JSON and in Python's repr of a dict.
_MEMBER = re.compile(rf"(?i)(?P<key>(?P<q>['\"]){_KEY}(?P=q)\s*:\s*)(?P<value>{_QUOTED})")
_HEADER = re.compile(r"(?i)\b(?P<kind>bearer|basic)\s+(?P<value>[A-Za-z0-9\-._~+/]{8,}=*)")
_AWS_ID = re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b")
# Words that stand in every report anyway: hiding them would hide nothing and make the report unreadable.
_EVERYDAY = frozenset(
    (
        *("admin", "database", "default", "false", "guest", "localhost", "mariadb", "mlflow", "mlflowctl", "mysql"),
        *("none", "null", "password", "postgres", "postgresql", "public", "root", "secret", "server", "sqlite"),
        *("test", "true", "user"),
    )
)

_lock = threading.Lock()
_secrets: dict[str, re.Pattern[str]] = {}
_combined: re.Pattern[str] | None = None


def register_secret(value: str, *, known: Iterable[str] = ()) -> None:
    """Hide ``value`` from now on, in each shape in which it may turn up.

    Args:
        value: the secret itself.
        known: words that are printed anyway (user, host, database of the same URI). A secret that equals one of them,
            or an everyday word, cannot be hidden without making every report unreadable, and is left alone outside of
            URIs.
    """
    global _combined
    if len(value) < 4 or value.casefold() in _EVERYDAY or value.casefold() in {word.casefold() for word in known}:
        return
    shapes = {value, quote(value, safe=""), quote(value), quote_plus(value), repr(value)[1:-1], json.dumps(value)[1:-1]}
    with _lock:
        for shape in shapes:
            text = re.escape(shape)
            if len(shape) < 8:  # a short secret may be part of an innocent word
                text = rf"(?<![A-Za-z0-9]){text}(?![A-Za-z0-9])"
            _secrets[shape] = re.compile(text)
        ordered = sorted(_secrets, key=len, reverse=True)
        _combined = re.compile("|".join(_secrets[shape].pattern for shape in ordered))


def forget_secrets() -> None:
    """Empty the registry (for tests: a process keeps its secrets to its end)."""
    global _combined
    with _lock:
        _secrets.clear()
        _combined = None


def register_uri(uri: str) -> None:
    """Hide the password of ``uri`` from now on."""
    match = _URI.fullmatch(uri.strip())
    if match is None:
        return
    user, password, place = _user_info(match["scheme"], match["rest"])
    if not password:
        return
    known = [user or "", *re.split(r"[:/?#@,=&]+", place)]
    register_secret(password, known=known)
    register_secret(unquote(password), known=known)


def redact_uri(uri: str) -> str:
    """``uri`` without its password. Anything that is no URI comes back as ``redact_text`` leaves it."""
    match = _URI.fullmatch(uri.strip()) if "\n" not in uri else None
    if match is None and "://" in uri:  # blanks in a password: no URI by the book, but a secret all the same
        scheme, _, rest = uri.strip().partition("://")
        if re.fullmatch(r"[A-Za-z][A-Za-z0-9+.\-]*", scheme):
            return _known(_assigned(_scrub_uri(scheme, rest)))
    return redact_text(uri)


def redact_text(text: str) -> str:
    """``text`` with every secret in it replaced by ``***``."""
    text = _known(text)
    if "://" in text:
        text = _URI.sub(lambda match: _scrub_uri(match["scheme"], match["rest"]), text)
    text = _assigned(text)
    text = _HEADER.sub(lambda match: f"{match['kind']} {MASK}", text)
    return _AWS_ID.sub(MASK, text)


def redact_value(value: Any) -> Any:
    """A JSON-like value with every text in it redacted; keys stay as they are."""
    if isinstance(value, str):
        return redact_text(value)
    if isinstance(value, Mapping):
        return {key: redact_value(member) for key, member in value.items()}
    if isinstance(value, (list, tuple)):
        return [redact_value(member) for member in value]
    return value


def _known(text: str) -> str:
    pattern = _combined
    return text if pattern is None else pattern.sub(MASK, text)


def _assigned(text: str) -> str:
    if "=" in text:
        text = _ASSIGNED.sub(lambda match: f"{match['key']}{match['sep']}{MASK}", text)
    if ":" in text:
        text = _MEMBER.sub(lambda match: f"{match['key']}{match['value'][0]}{MASK}{match['value'][0]}", text)
    return text


def _scrub_uri(scheme: str, rest: str) -> str:
    user, password, place = _user_info(scheme, rest)
    if user is None:
        return f"{scheme}://{rest}"
    if password is None:
        # For a web server a lone user is usually a token; for a database it is just the user.
        shown = MASK if scheme.lower().startswith("http") else user
        return f"{scheme}://{shown}@{place}"
    return f"{scheme}://{user}:{MASK}@{place}"


def _user_info(scheme: str, rest: str) -> tuple[str | None, str | None, str]:
    """User, password and the remainder of what follows ``://``.

    People forget to percent-encode ``@``, ``/``, ``#`` and ``?`` in passwords, so the user info reaches to the last
    ``@`` that can end it, not to the first.
    """
    if rest.startswith("/") or "@" not in rest:
        return None, None, rest
    head, question, query = rest.partition("?")
    if "@" in head:
        info, _, place = head.rpartition("@")
        place += question + query
    else:
        info, _, place = rest.rpartition("@")
    user, colon, password = info.partition(":")
    if re.search(r"[/?#]", user):  # the @ stands in a path or a query
        return None, None, rest
    if not colon:
        return user, None, place
    if not scheme.lower().startswith(_DATABASES) and _PORT.match(password):
        return None, None, rest  # host:port/path@something
    return user, password, place
