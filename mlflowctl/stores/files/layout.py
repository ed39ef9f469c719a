"""Where a file store keeps what: names of folders and files, and which names are nobody's data."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

META = "meta.yaml"
TRACE_INFO = "trace_info.yaml"
TRASH = ".trash"
MODELS = "models"
DATASETS = "datasets"
TRACES = "traces"
TAGS = "tags"
PARAMS = "params"
METRICS = "metrics"
INPUTS = "inputs"
OUTPUTS = "outputs"
ARTIFACTS = "artifacts"
ASSESSMENTS = "assessments"
ALIASES = "aliases"
# "trace_metadata" in MLflow 3's own words; the folder kept its first name.
REQUEST_METADATA = "request_metadata"
VERSION_PREFIX = "version-"

RESERVED_IN_EXPERIMENT = frozenset({META, TAGS, DATASETS, TRACES, MODELS})
KNOWN_IN_RUN = frozenset({META, PARAMS, METRICS, TAGS, ARTIFACTS, INPUTS, OUTPUTS})

EXPERIMENT_ID = re.compile(r"0|[1-9][0-9]{0,18}")
LARGEST_ID = (1 << 63) - 1
_RUN_ID = re.compile(r"[0-9a-f]{32}")

# Left by file managers, editors, version control and network file systems. A name with a dot that is not in here is a
# tag or parameter like any other: MLflow allows such keys and reads them.
_STRAY_NAMES = frozenset(
    {
        ".DS_Store",
        ".directory",
        ".dvcignore",
        ".gitattributes",
        ".gitignore",
        ".gitkeep",
        ".keep",
        ".localized",
        ".ipynb_checkpoints",
        "Thumbs.db",
        "ehthumbs.db",
        "desktop.ini",
        "Desktop.ini",
    }
)
_STRAY_PATTERN = re.compile(r"\._.*|\.nfs[0-9a-f]+|\.fuse_hidden.*|\..*\.sw[a-p]|~\$.*|.*~")


def is_stray(name: str) -> bool:
    """Whether a file or folder of this name is nobody's data, whatever it holds."""
    # Almost all names are plain keys: decide on the ends before the slower set and pattern.
    return (name[0] in ".TDde~" or name[-1] == "~") and (
        name in _STRAY_NAMES or _STRAY_PATTERN.fullmatch(name) is not None
    )


def looks_like_run_id(name: str) -> bool:
    """Whether MLflow itself would name a run so; releases of today and of 2018 use 32 hex digits."""
    return _RUN_ID.fullmatch(name) is not None


@dataclass(frozen=True, slots=True)
class ExperimentFolder:
    """A folder that stands for an experiment. ``trashed``: it lies in ``.trash``, which alone says deleted."""

    name: str
    path: str
    trashed: bool

    @property
    def number(self) -> int | None:
        """The ID as MLflow's SQL store has it, or None when the name is no such number."""
        if EXPERIMENT_ID.fullmatch(self.name) is None or int(self.name) > LARGEST_ID:
            return None
        return int(self.name)


def experiment_folders(root: str) -> list[ExperimentFolder]:
    """Folders of the store that may be experiments, active ones first, by number.

    Raises:
        OSError: the root cannot be listed.
    """
    found = [ExperimentFolder(n, f"{root}/{n}", trashed=False) for n in _folders(root) if n not in (TRASH, MODELS)]
    trash = f"{root}/{TRASH}"
    if os.path.isdir(trash):
        found += [ExperimentFolder(n, f"{trash}/{n}", trashed=True) for n in _folders(trash)]
    return sorted(found, key=lambda e: (e.trashed, len(e.name), e.name))


def _folders(path: str) -> list[str]:
    with os.scandir(path) as entries:
        return [e.name for e in entries if not is_stray(e.name) and e.is_dir()]
