"""Opens a source of any kind as a ``Reader``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlflowctl.core.errors import SourceError

if TYPE_CHECKING:
    from mlflowctl.stores.api import Reader
    from mlflowctl.stores.schema import Chain
    from mlflowctl.stores.uri import StoreUri


def open_reader(uri: StoreUri, chain: Chain = "tracking") -> Reader:
    """Open one chain of the store at ``uri`` read-only, at one instant.

    Raises:
        SourceError: the store is not there, cannot be read, or is of an unknown kind or revision.
    """
    if uri.kind == "files":
        if chain != "tracking":
            raise SourceError(
                "A folder holds no users and permissions.",
                where=uri.redacted,
                next_step="Name the basic-auth database with --auth-from.",
                kind="not_a_store",
            )
        from mlflowctl.stores.files import open_files

        assert uri.path is not None
        reader: Reader = open_files(uri.path)
        return reader
    from mlflowctl.stores.sql.reader import SqlReader

    if uri.kind == "sqlite":
        from mlflowctl.stores.sql import sqlite

        backend, notes = sqlite.open_source(uri)
        try:
            return SqlReader(backend, chain, notes=notes)
        except BaseException:
            backend.close()
            raise
    if uri.kind == "postgresql":
        from mlflowctl.stores.sql.postgresql import PostgresBackend

        server: PostgresBackend | MysqlBackend = PostgresBackend(uri, side="source")
    else:
        from mlflowctl.stores.sql.mysql import MysqlBackend

        server = MysqlBackend(uri, side="source")
    try:
        return SqlReader(server, chain)
    except BaseException:
        server.close()
        raise


if TYPE_CHECKING:
    from mlflowctl.stores.sql.mysql import MysqlBackend
    from mlflowctl.stores.sql.postgresql import PostgresBackend
