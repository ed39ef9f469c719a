"""What the file of an experiment means, and what becomes of two with one ID or one name."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlflowctl.stores.files.layout import LARGEST_ID, META
from mlflowctl.stores.files.walk import read_bytes
from mlflowctl.stores.files.yamls import Fields, MalformedError

if TYPE_CHECKING:
    from mlflowctl.stores.files.layout import ExperimentFolder
    from mlflowctl.stores.files.walk import Walk

STAGES = ("active", "deleted")
WORKSPACE = "default"
_NAME_LENGTH = 256


def experiment_row(
    folder: ExperimentFolder,
    number: int,
    fields: Fields,
    named: Callable[[ExperimentFolder, str], None] = lambda folder, name: None,
) -> dict[str, Any]:
    """The row of an experiment; ``named`` is told its name.

    Raises:
        MalformedError: the file does not say what it must.
    """
    recorded = fields.required_text("experiment_id")
    if recorded != folder.name:
        text = f"names the experiment {recorded}, but lies in the folder {folder.name}"
        raise MalformedError(text, rule="experiment_id_mismatch")
    name = fields.required_text("name")
    named(folder, name)
    if "artifact_location" not in fields.values:
        raise MalformedError("names no 'artifact_location'")
    stage = fields.text("lifecycle_stage") or "active"
    if stage not in STAGES:
        raise MalformedError(f"has the unknown lifecycle_stage {stage!r}")
    return {
        "experiment_id": number,
        "name": name,
        "artifact_location": fields.text("artifact_location"),
        "lifecycle_stage": "deleted" if folder.trashed else "active",
        "creation_time": fields.integer("creation_time"),
        "last_update_time": fields.integer("last_update_time"),
        "workspace": WORKSPACE,
    }


@dataclass(frozen=True, slots=True)
class Conflict:
    """An experiment that has the ID or the name of another. ``became``: the columns that change, or None."""

    rule: str
    text: str
    became: dict[str, Any] | None


def conflicts(walk: Walk, folders: Sequence[ExperimentFolder]) -> dict[str, Conflict]:
    """The experiments that are left out or changed because another has their ID or name, by folder.

    The first keeps what it has: active ones come before those in the trash, then the smaller ID. A new ID is one more
    than the greatest of the store, so that nothing that still names a removed experiment means it.
    """
    ids: dict[int, str] = {}
    names: dict[str, str] = {}
    second: list[tuple[ExperimentFolder, str, str | None, str | None]] = []
    for folder in folders:
        number = folder.number
        name = None if number is None else _name(walk, folder, number)
        if number is None or name is None:
            continue
        same_id, same_name = ids.get(number), names.get(name)
        if same_id is None and same_name is None:
            ids[number], names[name] = folder.path, folder.path
            continue
        if walk.mends:
            # What it keeps is its own from here on.
            ids.setdefault(number, folder.path)
            names.setdefault(name, folder.path)
        second.append((folder, name, same_id, same_name))
    taken = {f.number for f in folders if f.number is not None}
    folded = {name.casefold() for name in names}
    found: dict[str, Conflict] = {}
    for folder, name, same_id, same_name in second:
        became: dict[str, Any] = {}
        texts = []
        if same_id is not None:
            texts.append(f"has the ID {folder.number}, which {same_id} has too")
            became["experiment_id"] = _free_id(taken)
            taken.add(became["experiment_id"])
        if same_name is not None:
            texts.append(f"has the name {name!r}, which {same_name} has too")
            ending = f"_deleted_{folder.number}" if folder.trashed else f"_{folder.number}"
            became["name"] = _free_name(name, ending, folded)
            folded.add(became["name"].casefold())
        rule = "experiment_name_twice" if same_id is None else "experiment_id_twice"
        found[folder.path] = Conflict(rule, " and ".join(texts), became if walk.mends else None)
    return found


def _name(walk: Walk, folder: ExperimentFolder, number: int) -> str | None:
    """The name of an experiment whose file is whole; what is wrong with others is found when they are read."""
    try:
        fields = Fields(read_bytes(f"{folder.path}/{META}"), mend=walk.mends)
        return str(experiment_row(folder, number, fields)["name"])
    except (OSError, MalformedError):
        return None


def _free_id(taken: Collection[int]) -> int:
    greatest = max(taken) + 1
    if greatest <= LARGEST_ID:
        return greatest
    return next(n for n in range(1, LARGEST_ID) if n not in taken)


def _free_name(name: str, ending: str, folded: Collection[str]) -> str:
    """A name that no other has, also where case is folded."""
    number = 1
    while True:
        suffix = ending + (f"_{number}" if number > 1 else "")
        found = name.rstrip()[: _NAME_LENGTH - len(suffix)] + suffix
        if found.casefold() not in folded:
            return found
        number += 1
