"""Every store of a stranger migrates and verifies, or stops with the right words.

The stores are other people's data and not in the repository: MLFLOWCTL_WILD_STORES names the folder that holds
``index.csv`` and ``wild-stores.tar.zst``.
"""

from __future__ import annotations

import csv
import os
import subprocess
from pathlib import Path

import pytest

from mlflowctl.core.errors import SourceError
from mlflowctl.stores.open import open_reader
from mlflowctl.stores.uri import parse_uri
from tests.engine import run_migrate, run_verify

FOLDER = os.environ.get("MLFLOWCTL_WILD_STORES")
pytestmark = [pytest.mark.wild, pytest.mark.skipif(not FOLDER, reason="MLFLOWCTL_WILD_STORES names no folder")]
ROWS = list(csv.DictReader((Path(FOLDER) / "index.csv").open(encoding="utf-8"))) if FOLDER else []
CONTRADICTIONS = {"experiment_name_twice", "experiment_id_twice"}


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wild")
    subprocess.run(["tar", "-I", "zstd", "-xf", str(Path(str(FOLDER)) / "wild-stores.tar.zst")], cwd=folder, check=True)
    for packed in folder.rglob("*.db.zst"):
        subprocess.run(["zstd", "-dq", "--rm", str(packed)], check=True)
    return folder


def _place(unpacked: Path, name: str) -> Path:
    found = next(p for p in unpacked.rglob(f"{name}*") if p.name in (name, f"{name}.db"))
    return found / "mlruns" if (found / "mlruns").is_dir() else found


_upgraded: set[str] = set()


@pytest.mark.parametrize("row", ROWS, ids=[r["name"] for r in ROWS])
def test_it_migrates_or_says_why_not(row: dict[str, str], unpacked: Path, tmp_path: Path) -> None:
    source = _place(unpacked, row["name"])
    target = f"sqlite:///{tmp_path}/target.db"
    # MLflow's upgrade is the same for every store of a revision and takes seconds: one store of each is lifted.
    upgrade = True
    if source.suffix == ".db":
        with open_reader(parse_uri(f"sqlite:///{source}", side="source")) as reader:
            upgrade = reader.revision not in _upgraded
            _upgraded.add(reader.revision)
    if "UNIQUE constraint failed: experiments" in row["peer"]:
        with pytest.raises(SourceError) as caught:
            run_migrate(source, target)
        assert caught.value.kind == "malformed_file"
        assert {line.split(":")[0] for line in caught.value.details} <= CONTRADICTIONS
        assert not (tmp_path / "target.db").exists()
        for policy in ("skip", "fix"):
            other = f"sqlite:///{tmp_path}/{policy}.db"
            result = run_migrate(source, other, upgrade=False, on_bad_row=policy)
            assert result.status == "verified"
            assert set(result.rejects["by_rule"]) <= CONTRADICTIONS
            assert run_verify(source, other).equal
            runs = next(t["written_rows"] for t in result.tables if t["name"] == "runs")
            assert (runs == int(row["runs"])) == (policy == "fix")
        return
    result = run_migrate(source, target, upgrade=upgrade)
    assert result.status == "verified"
    written = {t["name"]: t["written_rows"] for t in result.tables}
    assert written["runs"] == int(row["runs"])
    assert written["params"] == int(row["params"])
    assert written["metrics"] + result.collapsed.get("duplicate_metric_point", 0) == int(row["metric_lines"])
    assert run_verify(source, target).equal
