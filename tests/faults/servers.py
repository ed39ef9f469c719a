"""Places for targets: new, empty databases of each kind, as many as a test wants."""

from __future__ import annotations

import re
import uuid
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.fingerprint import connect_mysql

KINDS = ("sqlite", "postgresql", "mysql")


@dataclass
class Places:
    """Hands out new, empty targets and takes them away again.

    Args:
        folder: for SQLite files; every target gets a folder of its own, so that what is left beside it shows.
        postgres: the folder of a running PostgreSQL's socket.
        mysql: the socket of a running MariaDB.
    """

    folder: Path
    postgres: str | None = None
    mysql: str | None = None
    _made: list[str] = field(default_factory=list)

    def new(self, kind: str) -> str:
        """The SQLAlchemy URL of a new, empty target."""
        name = f"k{uuid.uuid4().hex[:12]}"
        if kind == "sqlite":
            place = self.folder / name
            place.mkdir(parents=True)
            return f"sqlite:///{place}/target.db"
        if kind == "postgresql":
            self._postgres(f"CREATE DATABASE {name}")
            url = f"postgresql+psycopg://postgres@/{name}?host={self.postgres}"
        else:
            self._mysql(f"CREATE DATABASE {name} CHARACTER SET utf8mb4")
            url = f"mysql+pymysql://root@localhost/{name}?unix_socket={self.mysql}"
        self._made.append(url)
        return url

    def drop(self, url: str) -> None:
        """Take a server's database away, with everybody who still uses it."""
        if url in self._made:
            self._made.remove(url)
            name = re.split(r"[/?]", url.split("://", 1)[1])[1]
            if url.startswith("postgres"):
                self._postgres(f"DROP DATABASE {name} WITH (FORCE)")
            else:
                self._mysql(f"DROP DATABASE {name}")

    def close(self) -> None:
        for url in list(self._made):
            self.drop(url)

    def _postgres(self, sql: str) -> None:
        import psycopg

        with psycopg.connect(f"postgresql://postgres@/postgres?host={self.postgres}", autocommit=True) as connection:
            connection.execute(sql)  # type: ignore[arg-type]

    def _mysql(self, sql: str) -> None:
        url = f"mysql://root@localhost/?unix_socket={self.mysql}"
        with closing(connect_mysql(url, autocommit=True)) as connection, connection.cursor() as cursor:
            # A killed client's session may hold the database's locks for a moment more.
            cursor.execute("SET SESSION lock_wait_timeout = 60")
            cursor.execute(sql)
