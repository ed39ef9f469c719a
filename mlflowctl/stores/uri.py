"""Store URIs: which kind of store a text names, and where it is."""

from __future__ import annotations

import difflib
import os
import re
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlencode, urlsplit

from mlflowctl.core.errors import MlflowctlError, SourceError, TargetError, UsageError
from mlflowctl.core.redact import redact_uri

_SQLITE_MAGIC = b"SQLite format 3\x00"
_SCHEME = re.compile(r"^([a-zA-Z][a-zA-Z0-9+.\-]*):")
_DIALECTS = {"postgresql": "postgresql", "postgres": "postgresql", "mysql": "mysql", "mariadb": "mysql"}

_HOST_WORDS = ("host", "hostaddr", "port", "user", "password", "passfile", "service")
# What libpq takes from a URI; it serves mlflowctl's driver and MLflow's alike.
_LIBPQ_WORDS = frozenset(
    (
        *_HOST_WORDS,
        *("options", "application_name", "fallback_application_name", "client_encoding", "connect_timeout"),
        *("keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout"),
        *("sslmode", "sslnegotiation", "sslcompression", "sslcert", "sslkey", "sslpassword", "sslcertmode"),
        *("sslrootcert", "sslcrl", "sslcrldir", "sslsni", "ssl_min_protocol_version", "ssl_max_protocol_version"),
        *("channel_binding", "require_auth", "requirepeer", "gssencmode", "gsslib", "gssdelegation", "krbsrvname"),
        *("target_session_attrs", "load_balance_hosts"),
    )
)
# How people ask for a schema; libpq and SQLAlchemy know none of these, and both know options.
_SCHEMA_WORDS = ("schema", "search_path", "searchpath", "current_schema", "currentschema")
_MYSQL_NUMBERS = ("connect_timeout", "read_timeout", "write_timeout")
# A host that is gone without a word is noticed within about a minute, not after the two hours of the system's own
# keepalive. A server that is busy answers all the same: its system does.
KEEPALIVE_IDLE, KEEPALIVE_INTERVAL, KEEPALIVE_COUNT, UNANSWERED_SECONDS = 30, 10, 3, 60
LIBPQ_PATIENCE = {
    "connect_timeout": "15",
    "keepalives_idle": str(KEEPALIVE_IDLE),
    "keepalives_interval": str(KEEPALIVE_INTERVAL),
    "keepalives_count": str(KEEPALIVE_COUNT),
    "tcp_user_timeout": str(UNANSWERED_SECONDS * 1000),
}
_MYSQL_PLAIN = ("unix_socket", "read_default_file", "read_default_group")
_MYSQL_FIXED = {
    "charset": ("utf8mb4", "utf8mb3", "utf8"),
    "use_unicode": ("1", "true"),
    "binary_prefix": ("1", "true"),
    "local_infile": ("1", "true"),
}
_MYSQL_TLS_FILES = ("ssl_ca", "ssl_capath", "ssl_cert", "ssl_key", "ssl_cipher")
_MYSQL_TLS_SWITCHES = (
    *("ssl", "ssl_disabled", "ssl_check_hostname"),
    *("ssl_verify_cert", "ssl_verify_identity", "ssl_verify_server_cert"),
)
_MYSQL_MODES = ("disabled", "preferred", "required", "verify_ca", "verify_identity")
_MYSQL_WORDS = frozenset(
    (*_MYSQL_NUMBERS, *_MYSQL_PLAIN, *_MYSQL_FIXED, *_MYSQL_TLS_FILES, *_MYSQL_TLS_SWITCHES, "ssl_mode")
)
_YES, _NO = ("1", "true", "yes", "on"), ("0", "false", "no", "off")

MysqlTls = Mapping[str, "str | bool"]


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
            (key, re.sub(r"-c\s+", "-c", value) if key == "options" else value)
            for key, value in parse_qsl(parts.query)
            if key in ("host", "port", "options", "unix_socket")
        )
        return f"{self.kind}://{where}{parts.path}" + (f"?{urlencode(place)}" if place else "")

    def libpq(self) -> str:
        """The URI as libpq reads it: no driver suffix, every special character encoded."""
        parts = urlsplit(self.text)
        return self._assembled("postgresql", parts, quote(_database(parts), safe=""), self._libpq_words(parts))

    def sqlalchemy(self) -> str:
        """The URI with the driver that mlflowctl's extras install, for MLflow's own code in a child process.

        It asks for the same TLS, schema and timeouts as mlflowctl's own connection.
        """
        if self.kind == "sqlite":
            return f"sqlite:///{self.path}"
        parts = urlsplit(self.text)
        if self.kind == "postgresql":
            return self._assembled("postgresql+psycopg", parts, _database(parts), self._libpq_words(parts))
        return self._assembled("mysql+pymysql", parts, _database(parts), self._mysql_words(parts))

    def _assembled(self, scheme: str, parts: SplitResult, database: str, words: Mapping[str, str]) -> str:
        """A URI that every reader takes apart in the same way: ``+`` and a second ``=`` are read in two ways."""
        info, at, place = parts.netloc.rpartition("@")
        user, colon, password = info.partition(":")
        login = quote(unquote(user), safe="") + (f":{quote(unquote(password), safe='')}" if colon else "")
        query = "&".join(f"{key}={quote(value, safe='/,')}" for key, value in words.items())
        return f"{scheme}://{login}{at}{place}/{database}" + (f"?{query}" if query else "")

    def _libpq_words(self, parts: SplitResult) -> dict[str, str]:
        words: dict[str, str] = {}
        hosts = []
        for key, value in _pairs(parts):
            if key == "ssl":  # JDBC's word, which libpq knows and psycopg does not
                words["sslmode"] = "require" if value.lower() in _YES else "disable"
            elif key == "host":
                hosts.append(value)
            else:
                words[key] = value
        if hosts:
            # SQLAlchemy's host=a:1&host=b:2 is libpq's host=a,b&port=1,2.
            split = [(h, "") if h.startswith("/") or "," in h else h.partition(":")[::2] for h in hosts]
            words["host"] = ",".join(host for host, _ in split)
            if any(port for _, port in split):
                words["port"] = ",".join(port for _, port in split)
        if "application_name" not in words:
            words.setdefault("fallback_application_name", application_name())
        return {**words, **{key: value for key, value in LIBPQ_PATIENCE.items() if key not in words}}

    def _mysql_words(self, parts: SplitResult) -> dict[str, str]:
        query = {_mysql_word(key): value for key, value in _pairs(parts)}
        words = {key: query[key] for key in (*_MYSQL_PLAIN, *_MYSQL_NUMBERS) if key in query}
        tls = mysql_tls(query)
        if tls is None:
            return {**words, "ssl_disabled": "true"}
        return words | {f"ssl_{k}": str(v).lower() if isinstance(v, bool) else v for k, v in tls.items()}

    def mysql_arguments(self) -> dict[str, object]:
        """Keyword arguments of ``pymysql.connect``."""
        parts = urlsplit(self.text)
        query = {_mysql_word(key): value for key, value in _pairs(parts)}
        arguments: dict[str, object] = {
            "host": parts.hostname or "localhost",
            "port": parts.port or 3306,
            "user": unquote(parts.username) if parts.username else None,
            "password": unquote(parts.password) if parts.password else "",
            "database": _database(parts) or None,
        }
        arguments.update({key: query[key] for key in _MYSQL_PLAIN if key in query})
        arguments.update({key: int(query[key]) for key in _MYSQL_NUMBERS if key in query})
        tls = mysql_tls(query)
        if tls is None:
            arguments["ssl_disabled"] = True
        elif tls:
            # The very dictionary that SQLAlchemy makes of the words above, so that both connections check the same.
            arguments["ssl"] = dict(tls)
        return arguments

    @property
    def requires_tls(self) -> bool:
        """Whether a connection in the clear is not what the URI asks for (libpq sees to that itself)."""
        if self.kind != "mysql":
            return False
        return bool(mysql_tls({_mysql_word(key): value for key, value in _pairs(urlsplit(self.text))}))


def application_name() -> str:
    """The name under which this process's own sessions show in a PostgreSQL server's list."""
    return f"mlflowctl {os.getpid()}@{socket.gethostname()}"


def mysql_tls(query: Mapping[str, str]) -> MysqlTls | None:
    """What PyMySQL and SQLAlchemy are both told about TLS.

    Args:
        query: the URI's parameters, named with underscores. A certificate authority that MLflow's environment names
            (MLFLOW_MYSQL_SSL_CA, _CERT, _KEY) counts where the URI names none.

    Returns:
        PyMySQL's ``ssl`` dictionary; empty where the URI leaves it to the driver; None where TLS is switched off.

    Raises:
        ValueError: words that contradict each other, or are no words; in words for people.
    """
    mode = query.get("ssl_mode", "").lower().replace("-", "_")
    if mode and mode not in _MYSQL_MODES:
        raise ValueError(f"ssl_mode is one of {', '.join(m.upper() for m in _MYSQL_MODES)}, not {query['ssl_mode']!r}.")
    switches = {key: _switch(key, query[key]) for key in _MYSQL_TLS_SWITCHES if key in query}
    files = {key.removeprefix("ssl_"): query[key] for key in _MYSQL_TLS_FILES if query.get(key)}
    off = mode == "disabled" or switches.get("ssl_disabled") or switches.get("ssl") is False
    asked = [s for s in switches if switches[s] and s != "ssl_disabled"]
    if off:
        if files or asked or (mode and mode != "disabled"):
            both = sorted(
                [*(f"ssl_{f}" for f in files), *asked, *(["ssl_mode"] if mode != "disabled" and mode else [])]
            )
            raise ValueError(f"TLS is switched off, and {', '.join(both)} asks for it.")
        return None
    from_environment = False
    for part in ("ca", "cert", "key"):
        value = os.environ.get(f"MLFLOW_MYSQL_SSL_{part.upper()}")
        if value and part not in files:
            files[part] = value
            from_environment = from_environment or part == "ca"
    identity = [
        switches[s] for s in ("ssl_verify_identity", "ssl_verify_server_cert", "ssl_check_hostname") if s in switches
    ]
    verify = switches.get("ssl_verify_cert")
    check_identity = mode == "verify_identity" or any(identity)
    check_chain = check_identity or mode == "verify_ca" or bool(verify)
    if not check_chain and not files and mode != "required" and not switches.get("ssl"):
        return {}
    authority = "ca" in files or "capath" in files
    if authority and verify is False and not check_chain:
        files = {k: v for k, v in files.items() if k not in ("ca", "capath")}
        authority = False
    if check_chain and not authority:
        system = ssl.get_default_verify_paths()
        if system.cafile:
            files["ca"] = system.cafile
        elif system.capath:
            files["capath"] = system.capath
        else:
            raise ValueError("A certificate can be verified only with ssl_ca=FILE: this system has no list of its own.")
        authority = True
    # As SQLAlchemy reads it, an authority alone means that the host's name is checked too; MySQL's own words
    # REQUIRED and VERIFY_CA, and the bare ssl_verify_cert, do not ask for that.
    strict = check_identity or (authority and not mode and verify is None and not identity and not from_environment)
    return {**files, "check_hostname": strict}


def _switch(key: str, value: str) -> bool:
    if value.lower() in _YES:
        return True
    if value.lower() in _NO:
        return False
    raise ValueError(f"{key} is true or false, not {value!r}.")


def _mysql_word(key: str) -> str:
    """MySQL writes ssl-mode, its drivers ssl_mode."""
    word = key.replace("-", "_")
    return "ssl_mode" if word.lower() in ("ssl_mode", "sslmode") else word


def _pairs(parts: SplitResult) -> list[tuple[str, str]]:
    return parse_qsl(parts.query, keep_blank_values=True)


def _database(parts: SplitResult) -> str:
    return unquote(parts.path.lstrip("/"))


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
    if kind == "postgresql":
        text = _with_schema_option(text, parts, error)
        parts = urlsplit(text)
    problem = _postgresql_problem(parts) if kind == "postgresql" else _mysql_problem(parts)
    if problem:
        why, next_step = problem
        raise error(
            "The URI's parameters cannot be used.", where=redact_uri(text), why=why, next_step=next_step, kind="bad_uri"
        )
    return StoreUri(kind, text)


def _with_schema_option(text: str, parts: SplitResult, error: type[MlflowctlError]) -> str:
    """The URI with ``schema=NAME`` written as MLflow understands it, so that it can be handed on as it is printed."""
    pairs = _pairs(parts)
    named = [(key, value) for key, value in pairs if key.lower() in _SCHEMA_WORDS]
    if not named:
        return text
    options = [value for key, value in pairs if key == "options"]
    if len(named) > 1 or any("search_path" in value for value in options) or not named[0][1].strip():
        raise error(
            "The URI does not say which schema is meant.",
            where=redact_uri(text),
            why=f"It names {', '.join(key for key, _ in named)}{' and options' if options else ''}.",
            next_step="Name the schema once: options=-csearch_path%3DNAME",
            kind="bad_uri",
        )
    name = named[0][1].strip()
    if "," not in name and not name.startswith('"') and not re.fullmatch(r"[a-z_][a-z0-9_$]*", name):
        name = '"' + name.replace('"', '""') + '"'
    option = "-csearch_path=" + re.sub(r"([\\\s])", r"\\\1", name)
    left = [(key, value) for key, value in pairs if key.lower() not in _SCHEMA_WORDS and key != "options"]
    query = urlencode([*left, ("options", " ".join([*options, option]))], quote_via=quote, safe="/,")
    return parts._replace(query=query).geturl()


def _postgresql_problem(parts: SplitResult) -> tuple[str, str] | None:
    """Why the parameters cannot be used, and what to do; nothing is dropped in silence."""
    seen: set[str] = set()
    for key, value in _pairs(parts):
        if key == "dbname":
            return (
                "dbname names the database a second time.",
                "Write it after the host: postgresql://USER@HOST/DATABASE",
            )
        if key == "ssl":
            if value.lower() not in (*_YES, *_NO):
                return f"ssl is true or false, not {value!r}.", "Write sslmode=require, verify-ca or verify-full."
            key = "sslmode"
        elif key not in _LIBPQ_WORDS:
            return f"PostgreSQL's drivers know no parameter {key!r}.", _instead(key, _LIBPQ_WORDS)
        if key == "client_encoding" and re.sub(r"[^a-z0-9]", "", value.lower()) not in ("utf8", "auto"):
            return "mlflowctl reads and writes in UTF-8.", "Leave client_encoding out."
        if key in seen and key != "host":
            return f"{key} is named twice.", "Name it once."
        seen.add(key)
    return None


def _mysql_problem(parts: SplitResult) -> tuple[str, str] | None:
    """Why the parameters cannot be used, and what to do; nothing is dropped in silence."""
    query: dict[str, str] = {}
    for original, value in _pairs(parts):
        key = _mysql_word(original)
        if key == "ssl_key_password":
            return "MLflow's connection cannot take the password of a key.", "Name an unencrypted key with ssl_key."
        if key not in _MYSQL_WORDS:
            return f"The MySQL driver is given no parameter {original!r} by mlflowctl.", _instead(key, _MYSQL_WORDS)
        if key in query:
            return f"{key} is named twice.", "Name it once."
        if key in _MYSQL_FIXED and value.lower() not in _MYSQL_FIXED[key]:
            return f"mlflowctl sets {key} itself, to {_MYSQL_FIXED[key][0]}.", f"Leave {key} out."
        if key in _MYSQL_NUMBERS and not re.fullmatch(r"[1-9]\d*", value):
            return f"{key} is a number of seconds, not {value!r}.", f"Write {key}=30, or leave it out."
        query[key] = value
    try:
        mysql_tls(query)
    except ValueError as bad:
        return str(bad), "Leave one of them out; ssl_mode=VERIFY_IDENTITY with ssl_ca=FILE is the strictest."
    return None


def _instead(key: str, known: frozenset[str]) -> str:
    near = difflib.get_close_matches(key.lower().replace("-", "_"), sorted(known), 1)
    return f"Leave it out, or write {near[0]} if that is meant." if near else "Leave it out."


def quoted_path(path: Path) -> str:
    """``path`` as the path part of a ``file:`` URI."""
    return quote(str(path))
