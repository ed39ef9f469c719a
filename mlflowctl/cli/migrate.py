"""``mlflowctl migrate`` and the commands below it: ``verify``, ``status``, ``abort``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlflowctl.cli import params, run
from mlflowctl.config import options, secrets
from mlflowctl.config.layers import Layer
from mlflowctl.core.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlflowctl.cli.run import Document, Session
    from mlflowctl.config.options import Option

_HELP = """Bring a store into a database, whole and proven.

The source is only read. The target must be new, empty, or one that this same command has begun: the same line again
carries on, or says that nothing is left. Every row is compared at the end.
"""
_EPILOG = "First look, then do: mlflowctl migrate --from ./mlruns --dry-run"
_VERIFY_HELP = """Compare two stores row by row; write nothing.

Exit code 11 when they differ. With -o json or yaml all differing rows are named, else the first of them.
"""

_STATUS_HELP = (
    """Tell what stands at a target: nothing, a finished or unfinished migration, other data; write nothing."""
)
_ABORT_HELP = """Remove what an unfinished migration made in a target, and nothing else.

With --forget, remove mlflowctl's own table from a finished target too.
"""

STATUS: tuple[Option, ...] = (options.TO, options.TO_PASSWORD, options.AUTH_TO, options.AUTH_TO_PASSWORD)
VERIFY: tuple[Option, ...] = (
    options.FROM,
    options.TO,
    options.FROM_PASSWORD,
    options.TO_PASSWORD,
    options.AUTH_FROM,
    options.AUTH_TO,
    options.AUTH_FROM_PASSWORD,
    options.AUTH_TO_PASSWORD,
)

_EMPTY_MIGRATE: dict[str, Any] = {
    "exit_code": 0,
    "error": None,
    "resumable": False,
    "status": "refused",
    "source": {"uri": None, "kind": None, "revision": None, "snapshot": "none"},
    "target": {"uri": None, "kind": None, "revision": None, "mlflow_version": None},
    "tables": [],
    "rejects": {"count": 0, "file": None, "by_rule": {}},
    "renumbered": {"experiments": 0, "file": None},
    "not_carried": [],
    "artifacts": {"under_source": 0, "bytes": 0, "mapped": []},
    "verify": None,
    "seconds": 0.0,
    "cpu_seconds": 0.0,
    "peak_rss_bytes": 0,
}
_EMPTY_VERIFY: dict[str, Any] = {
    "exit_code": 0,
    "error": None,
    "equal": False,
    "tables": [],
    "differences": [],
    "truncated": False,
}
_EMPTY_STATUS: dict[str, Any] = {
    "exit_code": 0,
    "error": None,
    "status": "unknown",
    "target": {"uri": None, "kind": None},
    "source": None,
    "started": None,
    "finished": None,
    "phase": None,
    "running": False,
    "owner": None,
    "chunks": {"done": 0, "total": 0, "rows": 0},
    "tables": [],
    "reason": None,
    "next": None,
}
_EMPTY_ABORT: dict[str, Any] = {
    "exit_code": 0,
    "error": None,
    "status": "nothing",
    "target": {"uri": None, "kind": None},
    "removed": [],
}


def command() -> Any:
    """The command, for the table of ``main``."""
    verify = params.leaf("verify", lambda given: run.execute(VERIFY_COMMAND, given), VERIFY, _VERIFY_HELP)
    return params.group(
        "migrate",
        lambda given: run.execute(MIGRATE_COMMAND, given),
        options.MIGRATE,
        _HELP,
        {
            "verify": verify,
            "status": params.leaf("status", lambda given: run.execute(STATUS_COMMAND, given), STATUS, _STATUS_HELP),
            "abort": params.leaf("abort", lambda given: run.execute(ABORT_COMMAND, given), options.ABORT, _ABORT_HELP),
        },
        epilog=_EPILOG,
        subcommand_metavar="[verify|status|abort]",
    )


def migrate(session: Session) -> Document:
    """Run a migration."""
    source, target, auth_source, auth_target = _stores(session)
    settings = session.settings
    from mlflowctl.migrate import api
    from mlflowctl.migrate import run as engine

    result = session.drive(
        engine.migrate(
            api.MigrateSettings(
                source=source,
                target=target,
                dry_run=settings[options.DRY_RUN],
                scan=settings[options.SCAN],
                target_version=settings[options.TARGET_VERSION],
                jobs=settings[options.JOBS],
                map_artifacts=settings[options.MAP_ARTIFACTS],
                reroot_artifacts=settings[options.REROOT_ARTIFACTS],
                experiment_ids=settings[options.EXPERIMENT_IDS],
                auth_source=auth_source,
                auth_target=auth_target,
                upgrade=not settings[options.NO_UPGRADE],
                on_bad_row=settings[options.ON_BAD_ROW],
                only=settings[options.ONLY],
                exclude=settings[options.EXCLUDE],
                since=settings[options.SINCE],
                rejects_file=settings[options.REJECTS],
                retry_seconds=settings[options.RETRY_SECONDS],
            )
        )
    )
    document: Document = result.document()
    return document


def verify(session: Session) -> Document:
    """Run a verification."""
    source, target, auth_source, auth_target = _stores(session)
    from mlflowctl.migrate import api
    from mlflowctl.migrate import verify as engine

    result = session.drive(
        engine.verify(
            api.VerifySettings(
                source=source,
                target=target,
                auth_source=auth_source,
                auth_target=auth_target,
                all_differences=session.output != "table",
            )
        )
    )
    document: Document = result.document()
    return document


def status(session: Session) -> Document:
    """Look at a target."""
    from mlflowctl.migrate import stand

    target, auth = _targets(session)
    document = stand.status(target)
    if auth is not None:
        document["auth"] = stand.status(auth, "auth")
    return document


def abort(session: Session) -> Document:
    """Remove an unfinished migration."""
    from mlflowctl.migrate import stand

    target, auth = _targets(session)
    forget = session.settings[options.FORGET]
    question = stand.what_abort_removes(target, forget=forget)
    if question is not None:
        # A script that says abort means it; the source has every row, and a target that was put to use is refused.
        session.confirm(question, unasked=True)
    document = stand.abort(target, forget=forget)
    if auth is not None:
        document["auth"] = stand.abort(auth, "auth", forget=forget)
    return document


MIGRATE_COMMAND = run.Command("mlflowctl.migrate.result/v1", migrate, _EMPTY_MIGRATE)
VERIFY_COMMAND = run.Command("mlflowctl.verify.result/v1", verify, _EMPTY_VERIFY)
STATUS_COMMAND = run.Command("mlflowctl.migrate.status/v1", status, _EMPTY_STATUS)
ABORT_COMMAND = run.Command("mlflowctl.migrate.abort/v1", abort, _EMPTY_ABORT)


def _targets(session: Session) -> tuple[str, str | None]:
    target = _store(session, options.TO, options.TO_PASSWORD)
    assert target is not None
    return target, _store(session, options.AUTH_TO, options.AUTH_TO_PASSWORD)


def _stores(session: Session) -> tuple[str, str, str | None, str | None]:
    """Source, target, and the same of users and permissions, with their secrets: from here on a URI is complete."""
    settings = session.settings
    if settings[options.FROM] is None:
        raise UsageError(
            "No source is named.",
            next_step="Add --from SRC: a folder such as ./mlruns, or a URI such as sqlite:///old.db.",
            kind="no_source",
        )
    for one, other in ((options.AUTH_FROM, options.AUTH_TO), (options.AUTH_TO, options.AUTH_FROM)):
        if settings[one] is not None and settings[other] is None:
            raise UsageError(
                f"{one.flag} needs {other.flag}.",
                where=settings.origin(one),
                next_step=f"Add {other.flag}, or leave {one.flag} out.",
            )
    if settings[options.NO_UPGRADE] and settings[options.TARGET_VERSION] is not None:
        raise UsageError(
            "--no-upgrade and --target-version exclude each other.",
            where=f"{settings.origin(options.NO_UPGRADE)}, {settings.origin(options.TARGET_VERSION)}",
            next_step="Keep one of them.",
        )
    source = _store(session, options.FROM, options.FROM_PASSWORD)
    target = _store(session, options.TO, options.TO_PASSWORD)
    assert source is not None
    assert target is not None
    return (
        source,
        target,
        _store(session, options.AUTH_FROM, options.AUTH_FROM_PASSWORD),
        _store(session, options.AUTH_TO, options.AUTH_TO_PASSWORD),
    )


def _store(session: Session, place: Option, password: Option) -> str | None:
    settings = session.settings
    environ: Mapping[str, str] = settings.environ
    if settings[place] is None:
        return None
    uri = secrets.resolve_uri(settings[place], environ)
    reference = settings[password]
    # A password that was configured for another store is no reason to refuse a folder named on the command line.
    if reference is None or (
        settings.layer(place) < settings.layer(password)
        and settings.layer(place) is Layer.FLAG
        and not _takes_password(uri)
    ):
        return uri
    return secrets.with_password(uri, secrets.resolve(reference, environ))


def _takes_password(uri: str) -> bool:
    return "://" in uri and not uri.startswith(("file:", "sqlite"))
