"""What a path is when it is no store, and other stores inside or beside one: exactly the folder named is read."""

from __future__ import annotations

import os
import re
import sqlite3
from pathlib import Path
from urllib.parse import quote

from mlflowctl.core.errors import SourceError
from mlflowctl.stores.files.layout import EXPERIMENT_ID, META, MODELS, TRASH, VERSION_PREFIX
from mlflowctl.stores.files.walk import printable, read_bytes

_SQLITE_MAGIC = b"SQLite format 3\x00"
_SQLITE_NAMES = re.compile(r".*\.(?:db|sqlite|sqlite3)", re.IGNORECASE)
_RUN = re.compile(rb"^(?:run_id|run_uuid) *:", re.MULTILINE)
_MODEL = re.compile(rb"^model_id *:", re.MULTILINE)
_EXPERIMENT = re.compile(rb"^experiment_id *:", re.MULTILINE)
# Folders looked into beside a store; a home directory may have thousands.
_MOST_SIBLINGS = 200


def check_is_store(path: Path) -> None:
    """Say what the path is, and what to name instead, unless it is a file store.

    Raises:
        SourceError: it is none, is empty, is not there, or cannot be read.
    """
    where = printable(str(path))
    if not os.path.lexists(path):
        raise SourceError(
            "There is no such folder.", where=where, next_step="Check the path given with --from.", kind="not_found"
        )
    if not path.is_dir():
        raise SourceError(
            "A file store is a folder, and this is a file.",
            where=where,
            next_step="Name the mlruns folder itself, or a database as sqlite:///FILE.",
            kind="not_a_store",
        )
    try:
        names = os.listdir(path)
    except OSError as bad:
        raise SourceError(
            "The folder cannot be read.",
            where=where,
            why=bad.strerror,
            next_step="Run as a user who may read it.",
            kind="unreadable",
        ) from None
    if path.resolve().name != TRASH and is_store(str(path)):
        return
    why, next_step = _what_it_is(path, names)
    raise SourceError(
        "That folder is no MLflow file store.", where=where, why=why, next_step=next_step, kind="not_a_store"
    )


def _what_it_is(path: Path, names: list[str]) -> tuple[str, str]:
    above = printable(str(path.resolve().parent))
    if not names:
        return "It is empty.", "Name the folder that holds the experiments, usually mlruns."
    if META in names:
        kind = _kind(str(path))
        levels = {"run": ("a run", 1), "logged model": ("a logged model", 2)}
        what, level = levels.get(kind or "", ("an experiment", 0))
        store = printable(str(path.resolve().parents[level]))
        return f"It is the folder of {what}.", f"Name the store around it: --from {store}"
    if path.resolve().name == TRASH:
        return "It holds the deleted experiments of a store.", f"Name the store around it: --from {above}"
    if any(_kind(f"{path}/{n}") == "run" for n in names):
        return (
            "It holds runs but has no meta.yaml: an experiment that was deleted by half.",
            f"Name the store around it, and put its meta.yaml back or remove it: --from {above}",
        )
    if any(_is_registered_model(f"{path}/{n}") for n in names):
        return "It is the model registry of a store.", f"Name the store around it: --from {above}"
    inner = [n for n in sorted(names) if is_store(f"{path}/{n}")]
    if inner:
        return "It holds one.", f"Name it: --from {printable(str(path / inner[0]))}"
    return (
        "No folder in it is an experiment or a registered model.",
        "Name the folder that holds the experiments (0, 1, … and their meta.yaml), usually mlruns.",
    )


def is_store(path: str) -> bool:
    """Whether a folder holds an experiment, a registered model, or runs in a folder that is named as one."""
    for base in (path, f"{path}/{TRASH}"):
        for name in _folders(base):
            if base == path and name == MODELS:
                continue
            numbered = EXPERIMENT_ID.fullmatch(name) is not None
            kind = _kind(f"{base}/{name}")
            if kind == "experiment" or (kind == "other" and numbered):
                return True
            if (
                kind is None
                and numbered
                and any(_kind(f"{base}/{name}/{n}") == "run" for n in _folders(f"{base}/{name}"))
            ):
                return True
    return any(_is_registered_model(f"{path}/{MODELS}/{n}") for n in _folders(f"{path}/{MODELS}"))


def notes_on_neighbours(path: Path) -> list[str]:
    """One sentence for each other store inside or beside a store; none of them is read."""
    inside = str(path)
    notes = [
        note_inside(f"{inside}/{name}")
        for name in _folders(inside)
        if name not in (TRASH, MODELS) and _kind(f"{inside}/{name}") is None and is_store(f"{inside}/{name}")
    ]
    own = os.path.realpath(path)
    beside = os.path.dirname(own)
    for name in _folders(beside)[:_MOST_SIBLINGS]:
        other = f"{beside}/{name}"
        if os.path.realpath(other) != own and is_store(other):
            notes.append(f"Another file store lies beside this one and is not read: {other}")
    for folder in (inside, beside):
        notes += [
            f"A SQLite database with MLflow's tables lies {'in' if folder == inside else 'beside'} this store"
            f" and is not read: {folder}/{name}"
            for name in _names(folder)
            if _SQLITE_NAMES.fullmatch(name) and _is_mlflow_database(f"{folder}/{name}")
        ]
    return [printable(note) for note in notes]


def note_inside(path: str) -> str:
    """The note on a store inside a store."""
    return printable(f"Another file store lies inside this one and is not read: {path}")


def _kind(folder: str) -> str | None:
    """What a folder's meta.yaml describes: run, logged model, experiment or other; None without one."""
    try:
        data = read_bytes(f"{folder}/{META}")
    except OSError:
        return None
    if _RUN.search(data):
        return "run"
    if _MODEL.search(data):
        return "logged model"
    return "experiment" if _EXPERIMENT.search(data) else "other"


def _is_registered_model(folder: str) -> bool:
    return os.path.isfile(f"{folder}/{META}") or any(n.startswith(VERSION_PREFIX) for n in _folders(folder))


def _is_mlflow_database(path: str) -> bool:
    try:
        with open(path, "rb") as stream:
            if stream.read(16) != _SQLITE_MAGIC:
                return False
        # immutable: SQLite then makes no lock, journal or shared-memory file beside it.
        connection = sqlite3.connect(f"file:{quote(path)}?mode=ro&immutable=1", uri=True)
    except (OSError, sqlite3.Error):
        return False
    try:
        found = connection.execute(
            "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name IN ('experiments', 'runs', 'metrics')"
        ).fetchone()
        return bool(found[0] == 3)
    except sqlite3.Error:
        return False
    finally:
        connection.close()


def _names(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def _folders(folder: str) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return sorted(e.name for e in entries if e.is_dir())
    except OSError:
        return []
