"""Store URIs: mlflowctl's own driver and MLflow's SQLAlchemy are told the same, and nothing is dropped in silence."""

from __future__ import annotations

import ssl
from typing import Any
from urllib.parse import quote

import pytest
from sqlalchemy.engine import make_url

from mlflowctl.core.errors import SourceError, TargetError
from mlflowctl.stores.uri import LIBPQ_PATIENCE, StoreUri, application_name, parse_uri

MYSQL = "mysql+pymysql://u:p%40ss@h:3307/db"
POSTGRES = "postgresql+psycopg2://u:p%40ss@h:5433/db"


def parsed(text: str, side: str = "source") -> StoreUri:
    return parse_uri(text, side=side)


def of_sqlalchemy(uri: StoreUri) -> dict[str, Any]:
    """What SQLAlchemy gives the driver."""
    url = make_url(uri.sqlalchemy())
    positional, keywords = url.get_dialect()().create_connect_args(url)
    assert not positional
    return dict(keywords)


def of_libpq(uri: StoreUri) -> dict[str, Any]:
    """What libpq itself makes of the URI."""
    from psycopg.conninfo import conninfo_to_dict

    return dict(conninfo_to_dict(uri.libpq()))


def refused(text: str) -> SourceError:
    with pytest.raises(SourceError) as caught:
        parsed(text)
    assert caught.value.kind == "bad_uri"
    assert "p%40ss" not in str(caught.value.document())
    assert "p@ss" not in str(caught.value.document())
    return caught.value


# -- PostgreSQL ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", {}),
        (
            "sslmode=verify-full&sslrootcert=/etc/my%20ca.pem",
            {"sslmode": "verify-full", "sslrootcert": "/etc/my ca.pem"},
        ),
        (
            "sslmode=require&sslcert=/c.pem&sslkey=/k.pem",
            {"sslmode": "require", "sslcert": "/c.pem", "sslkey": "/k.pem"},
        ),
        ("ssl=true", {"sslmode": "require"}),
        ("ssl=false", {"sslmode": "disable"}),
        ("options=-csearch_path%3Dmlf", {"options": "-csearch_path=mlf"}),
        ("options=-csearch_path=mlf", {"options": "-csearch_path=mlf"}),
        ("options=-c+search_path%3Dmlf", {"options": "-c search_path=mlf"}),
        ("options=-c%20search_path%3Dmlf,public", {"options": "-c search_path=mlf,public"}),
        ("schema=mlf", {"options": "-csearch_path=mlf"}),
        ("currentSchema=mlf", {"options": "-csearch_path=mlf"}),
        ("search_path=mlf,public", {"options": "-csearch_path=mlf,public"}),
        ("schema=Team+A", {"options": r'-csearch_path="Team\ A"'}),
        ("options=-cstatement_timeout%3D0&schema=mlf", {"options": "-cstatement_timeout=0 -csearch_path=mlf"}),
        ("connect_timeout=5&client_encoding=utf8", {"connect_timeout": "5", "client_encoding": "utf8"}),
    ],
)
def test_libpq_and_sqlalchemy_read_the_same(query: str, expected: dict[str, str]) -> None:
    uri = parsed(f"{POSTGRES}?{query}" if query else POSTGRES)
    login = {"user": "u", "password": "p@ss", "host": "h", "port": "5433", "dbname": "db"}
    wanted = {**login, "fallback_application_name": application_name(), **LIBPQ_PATIENCE, **expected}
    assert {k: str(v) for k, v in of_libpq(uri).items()} == wanted
    assert {k: str(v) for k, v in of_sqlalchemy(uri).items()} == wanted


def test_a_schema_word_is_printed_as_mlflow_understands_it() -> None:
    uri = parsed(f"{POSTGRES}?sslmode=require&schema=mlf")
    assert uri.redacted == "postgresql+psycopg2://u:***@h:5433/db?sslmode=require&options=-csearch_path%3Dmlf"
    assert uri.identity == parsed("postgresql://h:5433/db?options=-c%20search_path%3Dmlf").identity
    assert uri.identity != parsed("postgresql://h:5433/db").identity


def test_several_hosts_and_sockets() -> None:
    uri = parsed("postgresql://u@/db?host=a:1&host=b:2")
    assert (of_libpq(uri)["host"], of_libpq(uri)["port"]) == ("a,b", "1,2")
    assert (of_sqlalchemy(uri)["host"], str(of_sqlalchemy(uri)["port"])) == ("a,b", "1,2")
    uri = parsed("postgresql://u@/db?host=/var/run/postgresql&port=6543")
    assert of_libpq(uri)["host"] == of_sqlalchemy(uri)["host"] == "/var/run/postgresql"


def test_a_silent_host_is_noticed_as_early_as_the_uri_wants() -> None:
    uri = parsed(f"{POSTGRES}?tcp_user_timeout=0&keepalives_idle=5")
    assert (of_libpq(uri)["tcp_user_timeout"], of_libpq(uri)["keepalives_idle"]) == ("0", "5")
    assert of_libpq(uri)["keepalives_interval"] == LIBPQ_PATIENCE["keepalives_interval"]


def test_a_password_with_every_character_arrives() -> None:
    secret = "a@b:c/d?e#f%g+h i&=ü"
    uri = parsed(f"postgresql://us%40er:{quote(secret, safe='')}@h/db?sslmode=require")
    assert of_libpq(uri)["password"] == of_sqlalchemy(uri)["password"] == secret
    assert of_libpq(uri)["user"] == of_sqlalchemy(uri)["user"] == "us@er"
    uri = parsed(f"mysql://us%40er:{quote(secret, safe='')}@h/db")
    assert uri.mysql_arguments()["password"] == of_sqlalchemy(uri)["password"] == secret


def test_an_application_name_of_ones_own_is_kept() -> None:
    found = of_libpq(parsed(f"{POSTGRES}?application_name=mine"))
    assert found["application_name"] == "mine"
    assert "fallback_application_name" not in found


@pytest.mark.parametrize(
    ("query", "why", "hint"),
    [
        ("sslmod=require", "'sslmod'", "sslmode"),
        ("ssl_ca=/ca.pem", "'ssl_ca'", "Leave it out"),
        ("prepare_threshold=0", "'prepare_threshold'", "Leave it out"),
        ("dbname=other", "dbname", "after the host"),
        ("client_encoding=latin1", "UTF-8", "Leave client_encoding out"),
        ("sslmode=require&sslmode=disable", "twice", "once"),
        ("ssl=true&sslmode=disable", "twice", "once"),
        ("ssl=maybe", "'maybe'", "sslmode"),
        ("schema=a&options=-csearch_path%3Db", "schema", "once"),
        ("schema=a&search_path=b", "search_path", "once"),
        ("schema=", "schema", "once"),
    ],
)
def test_postgresql_parameters_that_cannot_be_used_are_named(query: str, why: str, hint: str) -> None:
    bad = refused(f"{POSTGRES}?{query}")
    assert why in (bad.why or "")
    assert hint in (bad.next_step or "")


# -- MySQL ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", None),
        ("ssl_mode=PREFERRED", None),
        ("ssl-mode=REQUIRED", {"check_hostname": False}),
        ("ssl_mode=required", {"check_hostname": False}),
        ("sslMode=VERIFY_CA&ssl_ca=/ca", {"ca": "/ca", "check_hostname": False}),
        ("ssl=true", {"check_hostname": False}),
        ("ssl_ca=/ca", {"ca": "/ca", "check_hostname": True}),
        ("ssl-ca=/ca&ssl-mode=REQUIRED", {"ca": "/ca", "check_hostname": False}),
        ("ssl_ca=/ca&ssl_check_hostname=false", {"ca": "/ca", "check_hostname": False}),
        ("ssl_ca=/ca&ssl_verify_cert=true", {"ca": "/ca", "check_hostname": False}),
        ("ssl_ca=/ca&ssl_verify_cert=true&ssl_verify_identity=true", {"ca": "/ca", "check_hostname": True}),
        ("ssl_ca=/ca&ssl_verify_cert=false", {"check_hostname": False}),
        ("ssl-mode=VERIFY-IDENTITY&ssl-ca=/ca", {"ca": "/ca", "check_hostname": True}),
        ("ssl_cert=/c&ssl_key=/k", {"cert": "/c", "key": "/k", "check_hostname": False}),
        ("ssl_ca=/ca&ssl_cert=/c&ssl_key=/k", {"ca": "/ca", "cert": "/c", "key": "/k", "check_hostname": True}),
        ("ssl_capath=/cas&ssl_mode=VERIFY_CA", {"capath": "/cas", "check_hostname": False}),
    ],
)
def test_pymysql_and_sqlalchemy_get_the_same_tls(query: str, expected: dict[str, Any] | None) -> None:
    uri = parsed(f"{MYSQL}?{query}" if query else MYSQL)
    assert uri.mysql_arguments().get("ssl") == expected
    assert of_sqlalchemy(uri).get("ssl") == expected
    assert uri.requires_tls == (expected is not None)
    assert not [k for k in of_sqlalchemy(uri) if k.startswith("ssl_")]


def test_tls_switched_off() -> None:
    for query in ("ssl_disabled=true", "ssl-mode=DISABLED", "ssl=false"):
        uri = parsed(f"{MYSQL}?{query}")
        assert uri.mysql_arguments()["ssl_disabled"] is True
        assert of_sqlalchemy(uri)["ssl_disabled"] == "true"
        assert not uri.requires_tls
    assert "ssl_disabled" not in parsed(f"{MYSQL}?ssl_disabled=false").mysql_arguments()


def test_to_verify_without_an_authority_the_systems_own_list_serves() -> None:
    system = ssl.get_default_verify_paths()
    if not (system.cafile or system.capath):
        refused(f"{MYSQL}?ssl_mode=VERIFY_IDENTITY")
        return
    uri = parsed(f"{MYSQL}?ssl_mode=VERIFY_IDENTITY")
    place = {"ca": system.cafile} if system.cafile else {"capath": system.capath}
    assert uri.mysql_arguments()["ssl"] == of_sqlalchemy(uri)["ssl"] == {**place, "check_hostname": True}


def test_what_mlflows_environment_names_counts_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_MYSQL_SSL_CA", "/env-ca")
    uri = parsed(MYSQL)
    assert uri.mysql_arguments()["ssl"] == of_sqlalchemy(uri)["ssl"] == {"ca": "/env-ca", "check_hostname": False}
    assert parsed(f"{MYSQL}?ssl_ca=/ca").mysql_arguments()["ssl"] == {"ca": "/ca", "check_hostname": True}
    assert parsed(f"{MYSQL}?ssl_mode=DISABLED").mysql_arguments()["ssl_disabled"] is True


def test_the_other_mysql_parameters_reach_both() -> None:
    uri = parsed(
        f"{MYSQL}?unix_socket=/run/my+sql%2Fs.sock&connect_timeout=7&charset=utf8mb4&read_default_file=/my.cnf"
    )
    own, theirs = uri.mysql_arguments(), of_sqlalchemy(uri)
    for key, value in {
        "unix_socket": "/run/my sql/s.sock",
        "connect_timeout": 7,
        "read_default_file": "/my.cnf",
        "user": "u",
        "password": "p@ss",
        "host": "h",
        "port": 3307,
        "database": "db",
    }.items():
        assert own[key] == theirs[key] == value


@pytest.mark.parametrize(
    ("query", "why", "hint"),
    [
        ("sslmode=require", "ssl_mode is one of DISABLED", "VERIFY_IDENTITY"),
        ("ssl_mode=DISABLED&ssl_ca=/ca", "TLS is switched off", "Leave one of them out"),
        ("ssl_disabled=true&ssl_verify_identity=true", "ssl_verify_identity", "Leave one of them out"),
        ("ssl_verify_cert=perhaps", "'perhaps'", "Leave one of them out"),
        ("ssl_key_password=s3cretwords", "password of a key", "unencrypted"),
        ("sslrootcert=/ca", "'sslrootcert'", "Leave it out"),
        ("unixsocket=/s", "'unixsocket'", "unix_socket"),
        ("charset=latin1", "charset", "Leave charset out"),
        ("local_infile=0", "local_infile", "Leave local_infile out"),
        ("connect_timeout=soon", "'soon'", "connect_timeout=30"),
        ("ssl_ca=/a&ssl-ca=/b", "twice", "once"),
        ("useSSL=true", "'useSSL'", "Leave it out"),
    ],
)
def test_mysql_parameters_that_cannot_be_used_are_named(query: str, why: str, hint: str) -> None:
    bad = refused(f"{MYSQL}?{query}")
    assert why in (bad.why or "")
    assert hint in (bad.next_step or "")
    assert "s3cretwords" not in str(bad.document())


def test_the_sides_error_is_raised() -> None:
    with pytest.raises(TargetError):
        parsed(f"{MYSQL}?nonsense=1", side="target")
