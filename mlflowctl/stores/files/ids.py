"""IDs that must be unique in a store, and are not when somebody copied folders."""

from __future__ import annotations

import os
from array import array
from collections import defaultdict
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from mlflowctl.stores.files.layout import META, RESERVED_IN_EXPERIMENT

if TYPE_CHECKING:
    from mlflowctl.stores.files.walk import Walk


class Ids:
    """Finds an ID that stands in two experiments, with eight bytes of memory an ID.

    Hashes that occur twice are looked up by name in the end, in the folders where they came from.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._hashes = array("q")
        self._folders: dict[str, None] = {}

    def add(self, name: str, experiment: str) -> None:
        """An ID, and the folder of its experiment."""
        self._hashes.append(hash(name))
        self._folders[experiment] = None

    def report(self, walk: Walk, names_in: Callable[[str], list[str]]) -> None:
        """A trouble for each ID that was added twice. ``names_in`` lists the IDs of an experiment's folder."""
        if len(self._folders) < 2:
            return
        hashes, counts = np.unique(np.frombuffer(self._hashes, np.int64), return_counts=True)
        again = set(hashes[counts > 1].tolist())
        if not again:
            return
        places: dict[str, list[str]] = defaultdict(list)
        for path in self._folders:
            for name in names_in(path):
                if hash(name) in again:
                    places[name].append(path)
        for name, paths in sorted(places.items()):
            if len(paths) > 1:
                rule = f"{self._what.replace(' ', '_')}_id_twice"
                others = " and ".join(paths[:-1])
                walk.trouble(rule, paths[-1], f"holds the {self._what} {name}, which lies in {others} too")


def runs_in(experiment: str) -> list[str]:
    """The runs of an experiment's folder."""
    names = os.listdir(experiment)
    return [n for n in names if n not in RESERVED_IN_EXPERIMENT and os.path.exists(f"{experiment}/{n}/{META}")]


def folders_in(sub: str) -> Callable[[str], list[str]]:
    """A function that lists what lies in ``sub`` of an experiment's folder."""

    def names(experiment: str) -> list[str]:
        folder = f"{experiment}/{sub}"
        return os.listdir(folder) if os.path.isdir(folder) else []

    return names
