"""What ``mlflowctl config`` says to people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlflowctl.cli.render.page import Page, plural

if TYPE_CHECKING:
    from mlflowctl.cli.render.terminal import Screen

Document = dict[str, Any]


def show(document: Document, screen: Screen, verbosity: int) -> str:
    """Name, value and origin of every option."""
    if document.get("error"):
        return _details(document, screen)
    page = Page(screen)
    rows = []
    for value in document["values"]:
        style = "dim" if value["layer"] == "default" else ""
        rows.append([value["name"], (_words(value["value"]), style), (value["origin"], style)])
    page.table(["option", "value", "origin"], rows)
    if verbosity > 0:
        page.items("Files read", document["files"] or ["none"])
    return page.text()


def check(document: Document, screen: Screen, _: int) -> str:
    """One line a problem, place first."""
    page = Page(screen)
    problems = document.get("problems", [])
    for problem in problems:
        kind = ("warning: ", "yellow") if problem["warning"] else ("error: ", "red")
        page.line(
            (problem["where"], "bold"), ": ", kind, problem["message"], f" {problem['next']}" if problem["next"] else ""
        )
    errors = sum(not problem["warning"] for problem in problems)
    if not errors:
        files = document.get("files", [])
        page.line(
            f"No errors in {', '.join(files)}, variables and flags." if files else "No errors; no configuration file."
        )
    else:
        page.line(plural(errors, "error") + ".")
    return page.text()


def init(document: Document, screen: Screen, _: int) -> str:
    """The file that was written."""
    if document.get("error"):
        return _details(document, screen)
    page = Page(screen)
    page.line(f"Wrote {document['file']}. Every line in it is a comment: take the # away from what you want to change.")
    return page.text()


def _details(document: Document, screen: Screen) -> str:
    details = document.get("details", [])
    if len(details) < 2:
        return ""
    page = Page(screen)
    for line in details:
        page.line(line)
    return page.text()


def _words(value: Any) -> str:
    if value is None or value == []:
        return "-"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return ", ".join(str(item) for item in value)
    return str(value)
