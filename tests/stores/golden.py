"""The golden stores: what real MLflow releases wrote, and what they answer for it.

``GOLDEN`` lists the archives that are checked in; ``make.py`` makes them.
"""

from __future__ import annotations

import json
import sys
import tarfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import pytest

if TYPE_CHECKING:
    from _pytest.mark import ParameterSet

Kind = Literal["files", "sqlite"]

ARCHIVES = Path(__file__).resolve().parent / "golden"
#: The uncompressed sample FileStore that README's first command migrates.
SAMPLE = Path(__file__).resolve().parent / "sample" / "mlruns"
#: The folder in which every store was made: artifact URIs point into it.
HOME = "/srv/ml"


@dataclass(frozen=True)
class GoldenStore:
    """One packed store: the release that wrote it, its kind and its archive."""

    version: str
    kind: Kind
    archive: Path

    @property
    def release(self) -> tuple[int, ...]:
        """The version as numbers, to compare with."""
        return tuple(int(part) for part in self.version.split("."))

    @property
    def name(self) -> str:
        """A name for test IDs, such as ``2.14.3-files``."""
        return f"{self.version}-{self.kind}"


def _listed() -> tuple[GoldenStore, ...]:
    found = []
    for archive in ARCHIVES.glob("*.tar.xz"):
        version, _, kind = archive.name.removesuffix(".tar.xz").partition("-")
        found.append(GoldenStore(version, cast(Kind, kind), archive))
    return tuple(sorted(found, key=lambda store: (store.release, store.kind)))


#: Every golden store, oldest release first.
GOLDEN: tuple[GoldenStore, ...] = _listed()


def _extracted(store: GoldenStore, directory: Path) -> Path:
    """The store's own folder below a directory, filled at the first call."""
    folder = directory / store.name
    if not folder.exists():
        folder.mkdir(parents=True)
        with tarfile.open(store.archive, "r:xz") as tar:
            # Python below 3.10.12 and 3.11.4 knows no filters; the archives are our own.
            if sys.version_info >= (3, 12) or hasattr(tarfile, "data_filter"):
                tar.extractall(folder, filter="data")
            else:
                tar.extractall(folder)
    return folder


def unpack(store: GoldenStore, directory: Path) -> Path:
    """Unpack a store below a directory (once); returns its ``mlruns`` folder or ``mlflow.db``."""
    return _extracted(store, directory) / ("mlruns" if store.kind == "files" else "mlflow.db")


def auth_database(store: GoldenStore, directory: Path) -> Path | None:
    """The store's ``basic_auth.db``, where its release has one (SQLite stores from 2.9 on)."""
    path = _extracted(store, directory) / "basic_auth.db"
    return path if path.exists() else None


def answers(store: GoldenStore, directory: Path) -> dict[str, Any]:
    """What the release itself answered for its store, keyed by IDs (see README.md)."""
    text = (_extracted(store, directory) / "answers.json").read_text(encoding="utf-8")
    return cast("dict[str, Any]", json.loads(text))


def each(stores: Sequence[GoldenStore], always: Collection[str]) -> list[ParameterSet]:
    """The stores as parameters of a slow test; those not named in ``always`` are for the wide run alone."""
    wide = (pytest.mark.wide, pytest.mark.slow)
    return [pytest.param(store, id=store.name, marks=() if store.name in always else wide) for store in stores]
