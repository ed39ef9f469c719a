"""The model registry below ``models/``: models (prompts among them), versions, tags and aliases."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from typing import TYPE_CHECKING

from mlflowctl.stores.files.experiments import WORKSPACE
from mlflowctl.stores.files.layout import ALIASES, META, MODELS, TAGS, VERSION_PREFIX
from mlflowctl.stores.files.pairs import give_pairs
from mlflowctl.stores.files.yamls import Fields, MalformedError

if TYPE_CHECKING:
    from mlflowctl.stores.files.walk import Walk

_TABLES = (
    "registered_models",
    "registered_model_tags",
    "registered_model_aliases",
    "model_versions",
    "model_version_tags",
)
_LARGEST_VERSION = (1 << 31) - 1


def give_registry(walk: Walk) -> Iterator[None]:
    """Model after model; yields whenever rows may be ready."""
    if not walk.tables.wants(*_TABLES):
        return
    base = f"{walk.root}/{MODELS}"
    for name in walk.names(base, "registered_models") or []:
        path = f"{base}/{name}"
        names = walk.names(path, "model_versions")
        if names is None:
            walk.normal("stray_file")
            continue
        walk.about("registered_models", {"name": name}, path)
        versions = [n for n in names if n.startswith(VERSION_PREFIX)]
        if META not in names:
            if any(walk.names(f"{path}/{n}") for n in versions):
                walk.trouble("registered_model_without_meta_yaml", path, "has no meta.yaml, but holds versions")
            else:
                walk.normal("foreign_folder")
            continue
        if _give_model(walk, name, path, versions):
            walk.stamps.registered_model(name)
        else:
            walk.stamps.unread_registered_model(walk.root, name)
        yield


def _give_model(walk: Walk, folder: str, path: str, versions: list[str]) -> bool:
    """Whether it was read, not rejected with all below it."""
    fields = walk.fields(f"{path}/{META}")
    if walk.lenient and fields is None:
        return False
    muted, walk.muted = walk.muted, walk.muted or fields is None
    name = folder
    if fields is not None:
        try:
            name = _model_name(walk, folder, path, fields)
        except MalformedError as bad:
            walk.malformed(f"{path}/{META}", bad)
            walk.muted = True
    if walk.lenient and walk.muted:
        walk.muted = muted
        return False
    owner = {"name": name, "workspace": WORKSPACE}
    give_pairs(walk, "registered_model_tags", f"{path}/{TAGS}", owner)
    numbers = {_give_version(walk, owner, version, f"{path}/{version}") for version in versions}
    if walk.tables.wants("registered_model_aliases"):
        _give_aliases(walk, owner, f"{path}/{ALIASES}", numbers)
    walk.muted = muted
    return True


def _model_name(walk: Walk, folder: str, path: str, fields: Fields) -> str:
    """The model's name, after its row is given. The folder's may be spelled in another Unicode form (macOS does so)."""
    name = fields.required_text("name")
    if unicodedata.normalize("NFC", name) != unicodedata.normalize("NFC", folder):
        walk.trouble("model_name_mismatch", f"{path}/{META}", f"names the model {name!r}, but lies in {folder!r}")
        walk.muted = True
    row = {
        "creation_time": fields.integer("creation_timestamp"),
        "last_updated_time": fields.integer("last_updated_timestamp"),
        "description": fields.text("description"),
    }
    if not walk.muted:
        walk.mended(f"{path}/{META}", fields, {"name": name, **row})
    walk.tables.add("registered_models", name=name, workspace=WORKSPACE, **row)
    return name


def _give_version(walk: Walk, owner: dict[str, str], folder: str, path: str) -> int | None:
    meta = f"{path}/{META}"
    names = walk.names(path)
    if names is None:
        walk.normal("stray_file")
        return None
    walk.about("model_versions", {**owner, "version": folder[len(VERSION_PREFIX) :]}, path)
    if META not in names:
        if names:
            walk.trouble("model_version_without_meta_yaml", path, "has no meta.yaml")
        else:
            walk.normal("empty_folder")
        return None
    fields = walk.fields(meta)
    number = None
    if fields is not None:
        try:
            number = _version_row(walk, owner, folder, meta, fields)
        except MalformedError as bad:
            walk.malformed(meta, bad)
    if walk.lenient and number is None:
        if walk.tables.wants("model_version_tags"):
            walk.stamps.see_below(f"{path}/{TAGS}")
        return None
    muted, walk.muted = walk.muted, walk.muted or number is None
    give_pairs(walk, "model_version_tags", f"{path}/{TAGS}", {**owner, "version": number})
    walk.muted = muted
    return number


def _version_row(walk: Walk, owner: dict[str, str], folder: str, meta: str, fields: Fields) -> int | None:
    number = fields.required_integer("version")
    if f"{VERSION_PREFIX}{number}" != folder:
        walk.trouble("model_version_mismatch", meta, f"names the version {number}, but lies in {folder}")
        return None
    if not 0 < number <= _LARGEST_VERSION:
        raise MalformedError(f"has the version {number}, which MLflow's SQL store cannot hold")
    source = fields.text("source")
    row = {
        "creation_time": fields.integer("creation_timestamp"),
        "last_updated_time": fields.integer("last_updated_timestamp"),
        "description": fields.text("description"),
        "user_id": fields.text("user_id"),
        "current_stage": fields.text("current_stage") or "None",
        "source": source,
        "run_id": fields.text("run_id"),
        "status": fields.text("status") or "READY",
        "status_message": fields.text("status_message"),
        "run_link": fields.text("run_link"),
        "storage_location": fields.text("storage_location"),
    }
    model = fields.text("model_id")
    if model and model not in (source or ""):
        walk.left_behind(
            "logged models named by model versions", "the table model_versions has no column for them (model_id)"
        )
    walk.mended(meta, fields, row)
    walk.tables.add("model_versions", **owner, version=number, **row)
    return number


def _give_aliases(walk: Walk, owner: dict[str, str], folder: str, numbers: set[int | None]) -> None:
    walk.about("registered_model_aliases", owner)
    for alias, path, data in walk.files(folder):
        text = data.strip()
        if not (text.isdigit() and 0 < int(text) <= _LARGEST_VERSION):
            shown = data[:40].decode("utf-8", "backslashreplace")
            fault = f"names the version {shown!r}, which is no number"
            if walk.lenient:
                walk.reject("alias_not_a_number", path, fault, data=data, key={"alias": alias})
            else:
                walk.trouble("alias_not_a_number", path, fault)
            continue
        if int(text) not in numbers:
            walk.normal("alias_of_absent_version")
        walk.tables.add("registered_model_aliases", alias=alias, version=int(text), **owner)
