"""Tells what stands at a target, and removes what an unfinished migration made there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlflowctl.core.errors import TargetError, UsageError
from mlflowctl.migrate import resume
from mlflowctl.stores.sql.target import Target
from mlflowctl.stores.uri import parse_uri

if TYPE_CHECKING:
    from mlflowctl.stores.schema import Chain
    from mlflowctl.stores.sql.target import Standing

Document = dict[str, Any]

_NEXT = {
    "empty": None,
    "foreign": "mlflowctl writes only into a new or empty database, or one that it has begun.",
    "complete": None,
    "unfinished": "Run the same migrate command again to carry on, or: mlflowctl migrate abort --to DST",
    "busy": "Wait for it to end.",
}


def status(target_text: str, chain: Chain = "tracking") -> Document:
    """What stands at a target; nothing is changed.

    Returns:
        The ``mlflowctl.migrate.status/v1`` document without its envelope. ``status`` is empty, foreign, complete,
        unfinished, or busy (another mlflowctl is at work).

    Raises:
        TargetError: it cannot be reached.
    """
    target = _target(target_text, chain)
    document: Document = {
        "status": "empty",
        "target": {"uri": target.uri.redacted, "kind": target.kind},
        "source": None,
        "started": None,
        "finished": None,
        "phase": None,
        "running": False,
        "owner": None,
        "chunks": {"done": 0, "total": 0, "rows": 0},
        "tables": [],
        "reason": None,
    }
    try:
        target.lock()
    except TargetError as bad:
        if bad.kind != "locked":
            raise
        document.update(status="busy", running=True, reason=bad.what, next=_NEXT["busy"])
        if target.kind == "sqlite":
            return document
    try:
        standing = target.standing()
    finally:
        target.close()
    _describe(document, standing)
    document["next"] = _NEXT[str(document["status"])]
    return document


def _describe(document: Document, standing: Standing) -> None:
    if not document["running"]:
        document["status"] = standing.state
        document["reason"] = standing.reason
    document["tables"] = [{"name": name} for name in standing.tables]
    record = standing.record
    if record is None:
        return
    document.update(source=record.source, started=record.started, finished=record.finished, phase=record.phase)
    document["owner"] = record.document.get("owner")
    chunks = resume.chunks_of(record.document)
    done = {n: d for n, d in (standing.chunks or {}).items() if not n.startswith("step:")}
    rows = sum(sum(d.get("seen", {}).values()) for d in done.values())
    if record.state == "complete":
        rows = sum(entry["rows"] for entry in record.document.get("hashes", {}).values())
    document["chunks"] = {"done": sum(c.id in done for c in chunks), "total": len(chunks), "rows": rows}


def abort(target_text: str, chain: Chain = "tracking", *, forget: bool = False) -> Document:
    """Remove only what an unfinished migration made; with ``forget`` also mlflowctl's table from a finished target.

    Returns:
        The ``mlflowctl.migrate.abort/v1`` document without its envelope: ``status`` (aborted, forgotten, nothing) and
        ``removed``.

    Raises:
        TargetError: it cannot be reached, is locked, or was put to use before it was finished.
        UsageError: the target is finished and ``forget`` was not given.
    """
    target = _target(target_text, chain)
    document: Document = {
        "status": "nothing",
        "target": {"uri": target.uri.redacted, "kind": target.kind},
        "removed": [],
    }
    target.lock()
    try:
        standing = target.standing()
        leftover = target.kind == "sqlite" and target.build_file.exists()
        if standing.state == "unfinished" or leftover:
            document["removed"] = target.remove_unfinished(standing)
            document["status"] = "aborted"
        elif standing.state == "complete":
            if not forget:
                raise UsageError(
                    "The migration into this target is complete, so there is nothing to abort.",
                    where=target.uri.redacted,
                    next_step="To remove mlflowctl's own table from it, add --forget; the same command can then not be recognised.",
                    kind="complete",
                )
            target.forget()
            document["removed"] = ["table mlflowctl_migrations"]
            document["status"] = "forgotten"
    finally:
        target.close()
    return document


def what_abort_removes(target_text: str, chain: Chain = "tracking", *, forget: bool = False) -> str | None:
    """The question to ask before ``abort``; None where it removes nothing."""
    found = status(target_text, chain)
    if found["status"] in ("unfinished", "busy"):
        return (
            f"Remove what the unfinished migration of {found['source']} made in {found['target']['uri']} "
            f"({len(found['tables'])} tables, {found['chunks']['rows']} rows)?"
        )
    if found["status"] == "complete" and forget:
        return f"Remove mlflowctl's own tables from {found['target']['uri']}?"
    return None


def _target(text: str, chain: Chain) -> Target:
    uri = parse_uri(text, side="target")
    if uri.kind == "files":
        raise TargetError(
            "A folder cannot be a target.",
            where=uri.redacted,
            next_step="Name the database with --to.",
            kind="unsupported_store",
        )
    return Target(uri, chain)
