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

    Hashes that occur twice are looked up by name in the end, in the folders where they came from. Where such an ID does
    not stop a migration, ``firsts`` is called beforehand, and ``claimed`` says of each which one stays.
    """

    def __init__(self, what: str, names_in: Callable[[str], list[str]]) -> None:
        self._what = what
        self._names_in = names_in
        self._hashes = array("q")
        self._folders: dict[str, None] = {}
        self._again: set[int] = set()
        self._claims: dict[str, str] = {}

    @property
    def rule(self) -> str:
        """The rule that an ID breaks which stands twice."""
        return f"{self._what.replace(' ', '_')}_id_twice"

    def add(self, name: str, experiment: str) -> None:
        """An ID, and the folder of its experiment."""
        self._hashes.append(hash(name))
        self._folders[experiment] = None

    def report(self, walk: Walk) -> None:
        """A trouble for each ID that was added twice."""
        if len(self._folders) < 2:
            return
        again = self._repeated()
        if not again:
            return
        places: dict[str, list[str]] = defaultdict(list)
        for path in self._folders:
            for name in self._names_in(path):
                if hash(name) in again:
                    places[name].append(path)
        for name, paths in sorted(places.items()):
            if len(paths) > 1:
                others = " and ".join(paths[:-1])
                walk.trouble(self.rule, paths[-1], f"holds the {self._what} {name}, which lies in {others} too")

    def firsts(self, experiments: list[str], names_in: Callable[[str], list[str]] | None = None) -> None:
        """Look for IDs that stand in several of these folders of experiments; ``names_in`` may name more than IDs."""
        if len(experiments) < 2:
            return
        for path in experiments:
            try:
                self._hashes.extend(map(hash, (names_in or self._names_in)(path)))
            except OSError:  # named when it is read
                continue
        self._again = self._repeated()
        self._hashes = array("q")

    def claimed(self, name: str, experiment: str) -> str | None:
        """None for the first whole one of an ID, in the order of reading; for others what is wrong with them."""
        if not self._again or hash(name) not in self._again:
            return None
        first = self._claims.setdefault(name, experiment)
        return None if first == experiment else f"is the {self._what} {name}, which lies in {first} too"

    def _repeated(self) -> set[int]:
        hashes, counts = np.unique(np.frombuffer(self._hashes, np.int64), return_counts=True)
        return set(hashes[counts > 1].tolist())


def runs_in(experiment: str) -> list[str]:
    """The runs of an experiment's folder."""
    names = os.listdir(experiment)
    return [n for n in names if n not in RESERVED_IN_EXPERIMENT and os.path.exists(f"{experiment}/{n}/{META}")]


def maybe_runs_in(experiment: str) -> list[str]:
    """What may be a run in an experiment's folder, by one look at it."""
    return [n for n in os.listdir(experiment) if n not in RESERVED_IN_EXPERIMENT]


def folders_in(sub: str) -> Callable[[str], list[str]]:
    """A function that lists what lies in ``sub`` of an experiment's folder."""

    def names(experiment: str) -> list[str]:
        folder = f"{experiment}/{sub}"
        return os.listdir(folder) if os.path.isdir(folder) else []

    return names
