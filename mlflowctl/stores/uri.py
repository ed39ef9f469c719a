"""Store URIs: which kind of store a text names, and where it is."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from mlflowctl.core.errors import MlflowctlError, SourceError, TargetError, UsageError
from mlflowctl.core.redact import redact_uri

_SQLITE_MAGIC = b"SQLite format 3\x00"
_SCHEME = re.compile(r"^([a-zA-Z][a-zA-Z0-9+.\-]*):")
_DIALECTS = {"postgresql": "postgresql", "postgres": "postgresql", "mysql": "mysql", "mariadb": "mysql"}


@dataclass(frozen=True, slots=True)
class StoreUri:
    """A store's place. ``text`` holds the password; ``redacted`` is for everything that is printed or written."""

    kind: str
    """files, sqlite, postgresql, mysql"""
    text: str
    path: Path | None = None

    @property
    def redacted(self) -> str:
        return redact_uri(self.text)

    @property
    def identity(self) -> str:
        """The same for two spellings of one place, and free of passwords: what a journal records."""
        if self.path is not None:
            return f"{self.kind}:{self.path.resolve()}"
        parts = urlsplit(self.text)
        where = (parts.hostname or "") + (f":{parts.port}" if parts.port else "")
        place = sorted(
            (key, value) for key, value in parse_qsl(parts.query) if key in ("host", "port", "options", "unix_socket")
        )
        return f"{self.kind}://{where}{parts.path}" + (f"?{urlencode(place)}" if place else "")

    def libpq(self) -> str:
        """The URI as libpq reads it: no driver suffix."""
        return re.sub(r"^[a-zA-Z0-9+]+://", "postgresql://", self.text, count=1)

    def sqlalchemy(self) -> str:
        """The URI with the driver that mlflowctl's extras install, for MLflow's own code in a child process."""
        if self.kind == "sqlite":
            return f"sqlite:///{self.path}"
        driver = "postgresql+psycopg" if self.kind == "postgresql" else "mysql+pymysql"
        return re.sub(r"^[a-zA-Z0-9+]+://", f"{driver}://", self.text, count=1)

    def mysql_arguments(self) -> dict[str, object]:
        """Keyword arguments of ``pymysql.connect``."""
        parts = urlsplit(self.text)
        query = dict(parse_qsl(parts.query))
        arguments: dict[str, object] = {
            "host": parts.hostname or "localhost",
            "port": parts.port or 3306,
            "user": unquote(parts.username) if parts.username else None,
            "password": unquote(parts.password) if parts.password else "",
            "database": unquote(parts.path.lstrip("/")) or None,
        }
        if "unix_socket" in query:
            arguments["unix_socket"] = query["unix_socket"]
        for key in ("ssl_ca", "ssl_cert", "ssl_key"):
            if key in query:
                arguments[key] = query[key]
        if query.get("ssl_verify_cert", "").lower() in ("1", "true"):
            arguments["ssl_verify_cert"] = True
        if query.get("ssl_verify_identity", "").lower() in ("1", "true"):
            arguments["ssl_verify_identity"] = True
        return arguments


def parse_uri(text: str, *, side: str) -> StoreUri:
    """Read a store's URI or path.

    Args:
        text: ``./mlruns``, ``file:///…``, ``sqlite:///…``, ``postgresql://…``, ``mysql://…`` (with or without a
            driver suffix), or the path of a SQLite file.
        side: ``source`` or ``target``: decides the error's exit code.

    Raises:
        UsageError: nothing was named.
        SourceError, TargetError: a kind of store that mlflowctl cannot read or write (yet), said which and why.
    """
    error: type[MlflowctlError] = SourceError if side == "source" else TargetError
    if not text.strip():
        flag = "--from" if side == "source" else "--to"
        raise UsageError(f"No {side} is named.", next_step=f"Name it: {flag} URI")
    match = _SCHEME.match(text)
    scheme = match.group(1).lower() if match else ""
    if len(scheme) <= 1:  # a plain path, or a Windows drive
        return _from_path(Path(text).expanduser(), text)
    base = scheme.split("+", 1)[0]
    if base == "file":
        return _from_path(Path(unquote(urlsplit(text).path) or unquote(text.split(":", 1)[1])), text)
    if base == "sqlite":
        return _sqlite(text, error)
    if base in _DIALECTS:
        return _server(_DIALECTS[base], text, error)
    if base == "mssql":
        why = "MLflow's schema on SQL Server has no bulk path here that can be proven; it is not supported."
    elif base in ("http", "https"):
        why = "Reading or writing through a tracking server is not built yet; name the server's database instead."
    else:
        why = f"mlflowctl knows no store of the scheme {scheme!r}."
    raise error(
        f"The {side} cannot be used.",
        where=redact_uri(text),
        why=why,
        next_step="Use a folder, sqlite:///FILE, postgresql://… or mysql://….",
        kind="unsupported_store",
    )


def _from_path(path: Path, text: str) -> StoreUri:
    if path.is_file():
        with path.open("rb") as stream:
            if stream.read(16) == _SQLITE_MAGIC:
                return StoreUri("sqlite", f"sqlite:///{path}", path)
    return StoreUri("files", text, path)


def _sqlite(text: str, error: type[MlflowctlError]) -> StoreUri:
    match = re.match(r"^sqlite(?:\+\w+)?://(/?)([^?]*)", text)
    path = match.group(2) if match else ""
    if not path or path == ":memory:" or not (match and match.group(1)):
        raise error(
            "That SQLite URI names no file.",
            where=text,
            next_step="Write sqlite:///relative.db or sqlite:////absolute/path.db",
            kind="bad_uri",
        )
    return StoreUri("sqlite", f"sqlite:///{path}", Path(path))


def _server(kind: str, text: str, error: type[MlflowctlError]) -> StoreUri:
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError as bad:
        raise error("That URI cannot be read.", where=redact_uri(text), why=str(bad), kind="bad_uri") from None
    if not parts.path.strip("/"):
        raise error(
            "That URI names no database.",
            where=redact_uri(text),
            next_step=f"Write {kind}://USER@HOST/DATABASE",
            kind="bad_uri",
        )
    return StoreUri(kind, text)


def quoted_path(path: Path) -> str:
    """``path`` as the path part of a ``file:`` URI."""
    return quote(str(path))
