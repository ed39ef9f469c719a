"""File stores of strangers: each is read without a fault, or stops with the right words, and its rows are counted.

``MLFLOWCTL_WILD_STORES`` names the folder with ``index.csv`` (what each store holds) and ``wild-stores.tar.zst``. They
are other people's data: tests read them and none is committed.
"""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from mlflowctl.stores.files import open_files

pytestmark = pytest.mark.wild

FOLDER = os.environ.get("MLFLOWCTL_WILD_STORES", "")


@dataclass(frozen=True)
class WildStore:
    """One line of the index."""

    name: str
    rows: dict[str, int]
    metric_lines: int
    hazards: dict[str, int]


def _listed() -> list[WildStore]:
    index = Path(FOLDER, "index.csv")
    if not (FOLDER and index.is_file()):
        return []
    found = []
    for line in csv.DictReader(index.read_text(encoding="utf-8").splitlines()):
        if line["kind"] != "file":
            continue
        registered, versions, logged = (int(n) for n in line["models"].split("/"))
        rows = {
            "experiments": int(line["experiments"]),
            "runs": int(line["runs"]),
            "params": int(line["params"]),
            "tags": int(line["tags"]),
            "trace_info": int(line["traces"]),
            "registered_models": registered,
            "model_versions": versions,
            "logged_models": logged,
        }
        hazards = [h.rsplit("=", 1) for h in line["hazards"].split("; ") if h]
        found.append(WildStore(line["name"], rows, int(line["metric_lines"]), {h: int(n) for h, n in hazards}))
    return found


STORES = _listed()
CONFLICTS = {
    "two experiments with one name": "experiment_name_twice",
    "experiment id both active and in .trash": "experiment_id_twice",
}
DUPLICATES = "duplicate metric line"
# Hazards that a count of the report must show, by the rule that counts them.
COUNTED = {
    "run name only in tag": "run_name_only_in_tag",
    "trashed experiment not marked deleted": "experiment_in_trash_marked_active",
}


@pytest.fixture(scope="session")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the unpacked stores."""
    archive = Path(FOLDER, "wild-stores.tar.zst")
    folder = tmp_path_factory.mktemp("wild")
    if shutil.which("zstd"):
        with subprocess.Popen(["zstd", "-dc", str(archive)], stdout=subprocess.PIPE) as unpacker:
            subprocess.run(["tar", "-x", "-C", str(folder)], stdin=unpacker.stdout, check=True)
        assert unpacker.returncode == 0
    else:
        import tarfile

        zstandard = pytest.importorskip("zstandard", reason="needs the program zstd or the module zstandard")
        with (
            archive.open("rb") as packed,
            zstandard.ZstdDecompressor().stream_reader(packed) as stream,
            tarfile.open(fileobj=stream, mode="r|") as tar,
        ):
            tar.extractall(folder, filter="data")
    return next(folder.rglob(STORES[0].name)).parent


@pytest.mark.skipif(not STORES, reason="MLFLOWCTL_WILD_STORES names no folder of wild stores")
@pytest.mark.parametrize("wild", STORES, ids=lambda w: w.name)
def test_a_store_of_a_stranger(wild: WildStore, unpacked: Path) -> None:
    root = unpacked / wild.name / "mlruns"
    reader = open_files(root)
    rows: Counter[str] = Counter()
    for batch in reader.batches():
        rows[batch.table] += batch.rows.num_rows
    report = reader.report

    expected = {rule for hazard, rule in CONFLICTS.items() if hazard in wild.hazards}
    found = {t.rule for t in report.troubles}
    if expected:
        assert expected <= found <= set(CONFLICTS.values())
        assert all(t.where.startswith(str(root)) and str(root) in t.text for t in report.troubles)
    else:
        assert report.troubles == []
        for hazard, rule in COUNTED.items():
            assert report.normal.get(rule, 0) == wild.hazards.get(hazard, 0), rule

    # Of two experiments with one ID only the first is read.
    if "experiment_id_twice" not in found:
        assert {table: rows[table] for table in wild.rows} == wild.rows
        repeated = report.collapsed.get("duplicate_metric_point", 0)
        assert rows["metrics"] + repeated == wild.metric_lines
        assert (repeated > 0) == (DUPLICATES in wild.hazards)

    inside = [n for n in report.notes if "inside this one" in n]
    assert len(inside) == wild.hazards.get("store inside the store (mlruns/mlruns)", 0)

    quick = reader.counts(exact=False)
    if not found:
        assert quick["experiments"].rows == rows["experiments"]
        assert abs(quick["runs"].rows - rows["runs"]) <= 0.1 * rows["runs"]


@pytest.mark.skipif(not STORES, reason="MLFLOWCTL_WILD_STORES names no folder of wild stores")
def test_reading_twice_gives_the_same(unpacked: Path) -> None:
    for wild in STORES[::8]:
        reader = open_files(unpacked / wild.name / "mlruns")
        first = [(b.table, b.rows) for b in reader.batches()]
        second = [(b.table, b.rows) for b in reader.batches()]
        assert [t for t, _ in first] == [t for t, _ in second]
        assert all(a.equals(b) for (_, a), (_, b) in zip(first, second, strict=True))


@pytest.mark.skipif(not STORES, reason="MLFLOWCTL_WILD_STORES names no folder of wild stores")
@pytest.mark.parametrize("policy", ["skip", "fix"])
def test_no_store_stops_when_bad_rows_do_not(policy: str, unpacked: Path) -> None:
    for wild in STORES:
        reader = open_files(unpacked / wild.name / "mlruns", policy)
        rows: Counter[str] = Counter()
        for batch in reader.batches():
            rows[batch.table] += batch.rows.num_rows
        assert reader.report.troubles == []
        assert reader.changed() == []
        expected = {rule for hazard, rule in CONFLICTS.items() if hazard in wild.hazards}
        assert expected <= {r.rule for r in reader.rejects} <= (set(CONFLICTS.values()) if expected else set())
        if policy == "fix":
            assert all(r.became for r in reader.rejects if r.rule in CONFLICTS.values())
        if policy == "fix" or not expected:
            assert rows["runs"] == wild.rows["runs"]
