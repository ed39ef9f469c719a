"""The reports of ``migrate`` and ``migrate verify``: what a person must be able to trust at a glance."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from mlflowctl.cli.render.page import Cell, Page, duration, number, plural, size

if TYPE_CHECKING:
    from mlflowctl.cli.render.terminal import Screen

Document = dict[str, Any]

_HEADLINES: dict[str, tuple[str, str]] = {
    "verified": (
        "Verified: the target holds exactly the rows of the source; all were hashed on both sides.",
        "bold green",
    ),
    "already_complete": ("Nothing left to do: this migration is complete. Nothing was written.", "bold green"),
    "planned": ("Plan: nothing has been written.", "bold"),
    "incomplete": ("Incomplete: nothing in the target looks finished.", "bold yellow"),
    "refused": ("Refused: nothing has been written.", "bold red"),
    "failed": ("Failed.", "bold red"),
}
_VERDICTS = {
    "=": ("=", "green"),
    "-": ("-", "bold red"),
    "+": ("+", "bold red"),
    "*": ("*", "bold red"),
    "!": ("!", "bold red"),
}
_LEGEND = "= the same   - rows missing in the target   + extra rows in the target   * rows differ   ! not compared"
_LEVELS = {"stop": "bold red", "warning": "yellow", "info": "dim"}
_HASH_DIGITS = 12
_SHOWN = 20


def migration(document: Document, screen: Screen, verbosity: int) -> str:
    """The report of a migration, or its plan."""
    status = document.get("status", "failed")
    if document.get("error") and not _worth_showing(document):
        return ""
    page = Page(screen)
    words, style = _HEADLINES.get(status, (status, "bold"))
    if status == "verified":
        words = f"Verified: {_sameness(document)}"
    if status == "incomplete" and document.get("resumable"):
        words += " The same command carries on."
    page.line((words, style))
    page.gap()
    _sides(page, document)
    _plan(page, document, status)
    _tables(page, document, verbosity)
    verify = document.get("verify") or {}
    _differences(page, verify)
    _items(page, document)
    auth = document.get("auth")
    if auth and auth.get("source"):
        page.gap()
        page.line(("Users and permissions", "bold"))
        _sides(page, auth)
        _tables(page, auth, verbosity)
        _items(page, auth)
    _cost(page, document, status)
    if document.get("next_command") and status in ("verified", "already_complete"):
        page.gap()
        page.line(("Start the server on the new store:", "bold"))
        page.line("  ", (document["next_command"], "bold cyan"))
        if "***" in document["next_command"]:
            page.line(("  with the password in place of ***", "dim"))
    return page.text()


def verification(document: Document, screen: Screen, verbosity: int) -> str:
    """The report of a verification."""
    if document.get("error") and not document.get("tables"):
        return ""
    page = Page(screen)
    if document.get("equal"):
        page.line((f"Equal: {_sameness(document)}", "bold green"))
    else:
        page.line(("Different: source and target do not hold the same rows.", "bold red"))
    page.gap()
    _sides(page, document)
    _tables(page, {"verify": document}, verbosity)
    _differences(page, document)
    _explained(page, document)
    page.items("Notes", document.get("notes", []))
    return page.text()


_STANDINGS: dict[str, tuple[str, str]] = {
    "empty": ("Empty: nothing of MLflow or mlflowctl stands here.", "bold"),
    "foreign": ("Other data stands here; mlflowctl would not touch it.", "bold yellow"),
    "complete": ("Complete: a migration into this target was finished and proven.", "bold green"),
    "unfinished": ("Unfinished: a migration into this target was begun and has not ended.", "bold yellow"),
    "busy": ("Busy: another mlflowctl is writing this target.", "bold yellow"),
}


def standing(document: Document, screen: Screen, verbosity: int) -> str:
    """The report of ``migrate status``."""
    if document.get("error"):
        return ""
    page = Page(screen)
    _standing(page, document)
    if document.get("auth"):
        page.gap()
        page.line(("Users and permissions", "bold"))
        _standing(page, document["auth"])
    return page.text()


def _standing(page: Page, document: Document) -> None:
    words, style = _STANDINGS.get(document["status"], (document["status"], "bold"))
    page.line((words, style))
    page.gap()
    facts: list[list[Cell]] = [[("target", "dim"), document["target"]["uri"]]]
    facts += [
        [(name, "dim"), document[name]] for name in ("source", "started", "finished", "phase") if document.get(name)
    ]
    chunks = document["chunks"]
    if chunks["total"]:
        facts.append([("chunks", "dim"), f"{number(chunks['done'])} of {number(chunks['total'])} copied"])
    if chunks["rows"]:
        facts.append([("rows", "dim"), number(chunks["rows"])])
    owner = document.get("owner")
    if owner and document["status"] in ("unfinished", "busy"):
        word = "worked on by" if document["status"] == "busy" else "last worked on by"
        facts.append([(word, "dim"), f"process {owner['pid']} on {owner['host']}, since {owner['since']}"])
    page.table(["", ""], facts)
    page.items("Why", [document["reason"]] if document.get("reason") else [])
    page.items("Next", [document["next"]] if document.get("next") else [])


def aborted(document: Document, screen: Screen, verbosity: int) -> str:
    """The report of ``migrate abort``."""
    if document.get("error"):
        return ""
    page = Page(screen)
    words = {
        "aborted": "Removed: what the unfinished migration had made.",
        "forgotten": "Removed: mlflowctl's own table. MLflow's tables were not touched.",
        "nothing": "Nothing to remove: no migration was begun here.",
    }
    for part in (document, document.get("auth")):
        if part:
            page.line((words[part["status"]], "bold"))
            page.line("  ", (part["target"]["uri"], "dim"))
            removed = part["removed"]
            more = [f"and {number(len(removed) - _SHOWN)} more"] if len(removed) > _SHOWN else []
            page.items("Removed", [*removed[:_SHOWN], *more])
    return page.text()


def _sameness(document: Document) -> str:
    """What was proven, without claiming more: everything that is not the same row on both sides is counted."""
    compared = (document.get("verify") or document).get("tables") or []
    unproven = sum(len(table.get("uncompared_columns") or ()) for table in compared)
    exceptions = (
        (unproven, "column that MLflow's upgrade fills or rewrites"),
        ((document.get("rejects") or {}).get("count", 0), "rejected row"),
        (sum(item["rows"] for item in document.get("explained") or []), "explained row"),
        ((document.get("renumbered") or {}).get("experiments", 0), "renumbered experiment"),
        (sum(item["rows"] for item in (document.get("artifacts") or {}).get("mapped") or []), "rewritten location"),
    )
    said = [plural(count, word) for count, word in exceptions if count]
    if not said:
        return "the target holds exactly the rows of the source; all were hashed on both sides."
    return f"the target holds the rows of the source, but for {', '.join(said)} (below); all were hashed on both sides."


def _worth_showing(document: Document) -> bool:
    return bool(document.get("troubles") or document.get("tables") or document.get("verify"))


def _sides(page: Page, document: Document) -> None:
    rows = []
    for name in ("source", "target"):
        side = document.get(name) or {}
        if not side.get("uri"):
            continue
        facts = []
        if side.get("mlflow_version"):
            facts.append(f"MLflow {side['mlflow_version']}")
        if side.get("snapshot") == "multiple":
            facts.append("read at several instants")
        revision = f"revision {side['revision']}" if side.get("revision") else ""
        rows.append([(name, "dim"), side.get("kind") or "", side["uri"], revision, ", ".join(facts)])
    if rows:
        page.table([""] * 5, rows)


def _plan(page: Page, document: Document, status: str) -> None:
    plan = document.get("plan")
    if not plan or status != "planned":
        return
    facts: list[list[Cell]] = []
    if plan.get("source_versions"):
        facts.append([("source schema of", "dim"), f"MLflow {plan['source_versions']}"])
    if plan.get("revision_from") and plan.get("revision_from") == plan.get("revision_to"):
        facts.append([("upgrade", "dim"), "none: the schema stays as it is"])
    elif plan.get("upgrade_revisions"):
        steps = plural(plan["upgrade_revisions"], "revision")
        facts.append([("upgrade", "dim"), f"{steps}, {plan.get('revision_from')} to {plan.get('revision_to')}"])
    if plan.get("space_bytes") is not None:
        facts.append([("space", "dim"), f"about {size(plan['space_bytes'])}"])
    if plan.get("seconds_estimate") is not None:
        facts.append([("time", "dim"), f"about {duration(plan['seconds_estimate'])}"])
    if facts:
        page.gap()
        page.table(["", ""], facts)
    tables = [table for table in plan.get("tables", []) if table["rows"]]
    if tables:
        page.gap()
        rows = [
            [table["name"], f"{'about ' if table.get('estimated') else ''}{number(table['rows'])}"] for table in tables
        ]
        page.table(["table", "rows"], rows, right=[1])
        empty = len(plan["tables"]) - len(tables)
        if empty:
            page.line((f"and {plural(empty, 'empty table')}", "dim"))
    page.items("What will change", plan.get("transforms", []))
    _selection(page, plan.get("selection"))
    page.items(
        "How things stand on both sides",
        [
            (f"{c['side']}: {c['text']}" + (f" {c['next']}" if c.get("next") else ""), _LEVELS.get(c["level"], ""))
            for c in plan.get("circumstances") or []
        ],
    )


def _selection(page: Page, selection: Document | None) -> None:
    """What was chosen, and each object that comes along with its reason."""
    if not selection:
        return
    chosen = [plural(n, kind.rstrip("s").replace("_", " ")) for kind, n in selection.get("chosen", {}).items() if n]
    page.items("Chosen", [", ".join(chosen) or "nothing"])
    along = selection.get("along") or []
    lines: list[Cell] = [f"{item['kind']} {item['id']}: {item['why']}" for item in along[:_SHOWN]]
    more = len(along) - len(lines) + selection.get("along_more", 0)
    page.items("Comes along", [*lines, *([f"and {number(more)} more; -o json names them"] if more > 0 else [])])


def _tables(page: Page, document: Document, verbosity: int) -> None:
    """One line a table: verdict, rows and hash. What is empty on both sides is only counted, unless asked for."""
    verdicts = {table["name"]: table for table in (document.get("verify") or {}).get("tables", [])}
    written = {table["name"]: table for table in document.get("tables") or []}
    if document.get("status") in ("planned", "already_complete") or not (verdicts or written):
        return
    rows: list[list[Cell]] = []
    empty = 0
    lost = any(table.get("skipped_rows") or table.get("fixed_rows") for table in written.values())
    for name in dict.fromkeys([*written, *verdicts]):
        copied, verdict = written.get(name, {}), verdicts.get(name, {})
        source = copied.get("source_rows", verdict.get("source_rows", 0))
        target = copied.get("written_rows", verdict.get("target_rows", 0))
        sign = verdict.get("verdict", "")
        if not source and not target and sign in ("=", "") and verbosity < 1 and not verdict.get("uncompared_columns"):
            empty += 1
            continue
        row: list[Cell] = [_VERDICTS.get(sign, (sign, "")), name, number(source), number(target)]
        if lost:
            row += [number(copied.get("skipped_rows", 0)), number(copied.get("fixed_rows", 0))]
        if verdicts:
            row.append((_hashes(verdict), "dim"))
        rows.append(row)
    page.gap()
    headers = ["", "table", "source", "written" if written else "target"]
    headers += ["skipped", "fixed"] if lost else []
    headers += ["hash"] if verdicts else []
    if rows:
        page.table(headers, rows, right=range(2, 6 if lost else 4))
    if empty:
        page.line((f"and {plural(empty, 'table')}, empty on both sides", "dim"))
    uncompared = [
        f"{name}: {', '.join(table['uncompared_columns'])}"
        for name, table in verdicts.items()
        if table.get("uncompared_columns")
    ]
    if any(table.get("verdict") != "=" for table in verdicts.values()):
        page.line((_LEGEND, "dim"))
    page.items("Columns that nobody compared", uncompared)


def _hashes(verdict: Document) -> str:
    source = str(verdict.get("source_hash") or "")[:_HASH_DIGITS]
    target = str(verdict.get("target_hash") or "")[:_HASH_DIGITS]
    return source if source == target else f"{source or '-'} / {target or '-'}"


def _differences(page: Page, verify: Document) -> None:
    differences = verify.get("differences") or []
    if not differences:
        return
    lines: list[Cell] = []
    for difference in differences[:_SHOWN]:
        key = ", ".join(f"{name}={value}" for name, value in difference.get("key", {}).items())
        columns = f": {', '.join(difference['columns'])}" if difference.get("columns") else ""
        lines.append(f"{difference['kind']:<8} {difference['table']} [{key}]{columns}")
    more = len(differences) - _SHOWN
    if more > 0:
        lines.append(f"and {number(more)} more; -o json names them")
    elif verify.get("truncated"):
        lines.append("and more; -o json names all of them")
    page.items("Rows that differ", lines)


def _explained(page: Page, document: Document) -> None:
    page.items(
        "Differences that are explained",
        [f"{plural(e['rows'], 'row')}: {e['text']}" for e in document.get("explained") or []],
    )


def _items(page: Page, document: Document) -> None:
    _explained(page, document)
    page.items("Rows that MLflow's keys hold only once, and so do not count twice", _counted(document.get("collapsed")))
    page.items("Found in the source, and normal", _counted(document.get("normal")))
    rejects = document.get("rejects") or {}
    if rejects.get("count"):
        where = f"; they are in {rejects['file']}" if rejects.get("file") else ""
        page.items(f"Rejected: {plural(rejects['count'], 'row')}{where}", _counted(rejects.get("by_rule")))
    renumbered = document.get("renumbered") or {}
    if renumbered.get("experiments"):
        text = plural(renumbered["experiments"], "experiment")
        text += f"; old and new IDs are in {renumbered['file']}" if renumbered.get("file") else ""
        page.items("Renumbered, because the target's ID column has 32 bits", [text])
    page.items(
        "Not carried",
        [f"{item['what']} ({number(item['rows'])}): {item['reason']}" for item in document.get("not_carried") or []],
    )
    _artifacts(page, document)
    troubles = document.get("troubles") or []
    if troubles:
        page.items("What stands in the way", [_trouble(trouble) for trouble in troubles])
    plan = document.get("plan") or {}
    notes = list(dict.fromkeys([*plan.get("notes", []), *(document.get("notes") or [])]))
    page.items("Notes", notes)


def _artifacts(page: Page, document: Document) -> None:
    artifacts = document.get("artifacts") or {}
    lines = []
    if artifacts.get("under_source"):
        uri = (document.get("source") or {}).get("uri") or "the source"
        files = plural(artifacts["under_source"], "file")
        lines.append(
            f"{files} ({size(artifacts.get('bytes', 0))}) stay where they are, under {uri}: do not delete that folder."
        )
    lines += [f"{plural(m['rows'], 'location')}: {m['from']} -> {m['to']}" for m in artifacts.get("mapped") or []]
    page.items("Artifacts", lines)


def _trouble(trouble: Document) -> str:
    return ": ".join(part for part in (trouble.get("rule"), trouble.get("where"), trouble.get("text")) if part)


def _counted(counts: dict[str, int] | None) -> Iterable[str]:
    return [f"{rule.replace('_', ' ')}: {number(count)}" for rule, count in sorted((counts or {}).items()) if count]


def _cost(page: Page, document: Document, status: str) -> None:
    if status in ("planned", "already_complete") or not document.get("seconds"):
        return
    rows = sum(table.get("written_rows", 0) for table in document.get("tables") or [])
    page.gap()
    words = f"{plural(rows, 'row')} in {duration(document['seconds'])}"
    if document.get("cpu_seconds"):
        words += f" ({duration(document['cpu_seconds'])} of CPU"
        words += f", at most {size(document['peak_rss_bytes'])} of memory)" if document.get("peak_rss_bytes") else ")"
    page.line((words, "dim"))
