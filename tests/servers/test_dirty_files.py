"""Folders with malformed files, migrated with each policy to each kind of target, and verified."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from mlflowctl.core.errors import SourceError
from mlflowctl.migrate.api import MigrateResult
from mlflowctl.stores.open import open_reader
from mlflowctl.stores.uri import parse_uri
from tests.engine import run_migrate, run_verify
from tests.unit.test_files_dirty import BAD, fill, model, trace
from tests.unit.test_files_store import MODEL, OTHER_RUN, RUN, TRACE, StoreBuilder

BROKEN = "b" * 32
MENDED = "c" * 32
THIRD = "d" * 32


@pytest.fixture
def dirty(tmp_path: Path) -> StoreBuilder:
    """Two whole runs, and one of each thing that can be wrong."""
    store = StoreBuilder(tmp_path / "project" / "mlruns")
    store.experiment()
    for run in (RUN, OTHER_RUN):
        store.run(run)
        fill(store, run)
    trace(store)
    model(store)
    store.write(f"1/{OTHER_RUN}/metrics/cut", "1 0.5 0\n2 0.")
    store.write(f"1/{OTHER_RUN}/tags/latin", BAD)
    store.write(f"1/{BROKEN}/meta.yaml", "<<<<<<< HEAD\n")
    fill(store, BROKEN)
    store.run(MENDED, status="FINISHED", end_time=12.0)
    fill(store, MENDED)
    store.write("1/traces/tr-bad/trace_info.yaml", "")
    store.write("1/traces/tr-bad/tags/t", "1")
    store.write(f"1/traces/{TRACE}/assessments/a.yaml", "{")
    store.write("1/models/m-bad/meta.yaml", "x: 1\n")
    # The same ID once more in the trash, and the same name.
    store.experiment("1", name="old", place=".trash/1")
    store.run(THIRD, "1", place=".trash/1")
    fill(store, THIRD, ".trash/1")
    store.experiment("2", name="experiment 1", place=".trash/2")
    store.write("models/m/meta.yaml", {"name": "m", "creation_timestamp": 1, "last_updated_timestamp": 1})
    store.write("models/m/version-1/meta.yaml", {"name": "m", "version": 1, "creation_timestamp": 1})
    store.write("models/m/version-2/meta.yaml", {"name": "m", "version": 7, "creation_timestamp": 1})
    store.write("models/m/aliases/best", "first")
    return store


RULES = {
    "malformed_metric_line": 1,
    "invalid_utf8": 1,
    "malformed_meta_yaml": 3,
    "malformed_trace": 1,
    "malformed_assessment": 1,
    "experiment_id_twice": 1,
    "experiment_name_twice": 1,
    "model_version_mismatch": 1,
    "alias_not_a_number": 1,
}


def migrated(
    store: StoreBuilder, target: str, policy: str, tmp_path: Path
) -> tuple[MigrateResult, list[dict[str, Any]]]:
    file = tmp_path / f"rejects-{policy}.jsonl"
    result = run_migrate(store.root, target, on_bad_row=policy, upgrade=False, rejects_file=str(file))
    assert result.status == "verified"
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert result.rejects["count"] == len(lines)
    assert result.rejects["file"] == str(file)
    assert result.rejects["by_rule"] == dict(Counter(line["rule"] for line in lines))
    assert run_verify(store.root, target).equal
    return result, lines


def rows(target: str, table: str) -> list[dict[str, Any]]:
    with open_reader(parse_uri(target, side="target")) as reader:
        return [row for batch in reader.batches([table]) for row in batch.rows.to_pylist()]


def test_stop_names_them_all_and_leaves_nothing(dirty: StoreBuilder, target_url: str) -> None:
    with pytest.raises(SourceError) as caught:
        run_migrate(dirty.root, target_url, upgrade=False)
    found = Counter(line.partition(":")[0] for line in caught.value.details)
    assert found == RULES
    assert int(caught.value.exit_code) == 4


def test_skip_leaves_them_out_with_all_below(dirty: StoreBuilder, target_url: str, tmp_path: Path) -> None:
    result, lines = migrated(dirty, target_url, "skip", tmp_path)
    assert result.rejects["by_rule"] == RULES
    assert all(line["became"] is None for line in lines)
    by_where = {line["where"].removeprefix(f"{dirty.root}/"): line for line in lines}
    assert by_where[f"1/{OTHER_RUN}/tags/latin"]["content"] == {"bytes": BAD.hex()}
    assert by_where[".trash/1/meta.yaml"]["below"] == {"metrics": 1, "params": 2, "runs": 1, "tags": 1}
    assert by_where[f"1/{OTHER_RUN}/metrics/cut:2"]["content"] == "1 0.5 0\n2 0."
    assert {r["run_uuid"] for r in rows(target_url, "runs")} == {RUN, OTHER_RUN}
    assert {r["run_uuid"] for r in rows(target_url, "params")} == {RUN, OTHER_RUN}
    assert [e["experiment_id"] for e in rows(target_url, "experiments")] == [1]
    assert {r["key"] for r in rows(target_url, "metrics")} == {"m"}
    assert [r["request_id"] for r in rows(target_url, "trace_info")] == [TRACE]
    assert [r["model_id"] for r in rows(target_url, "logged_models")] == [MODEL]
    assert [r["version"] for r in rows(target_url, "model_versions")] == [1]


def test_fix_mends_what_can_be(dirty: StoreBuilder, target_url: str, tmp_path: Path) -> None:
    result, lines = migrated(dirty, target_url, "fix", tmp_path)
    assert result.rejects["by_rule"] == RULES
    mended = {line["where"].removeprefix(f"{dirty.root}/"): line["became"] for line in lines if line["became"]}
    assert mended == {
        f"1/{OTHER_RUN}/tags/latin": {"value": "caf\ufffd"},
        f"1/{MENDED}/meta.yaml": {"status": "FINISHED", "end_time": 12},
        ".trash/1/meta.yaml": {"experiment_id": 3},
        ".trash/2/meta.yaml": {"name": "experiment 1_deleted_2"},
    }
    found = {e["experiment_id"]: (e["name"], e["lifecycle_stage"]) for e in rows(target_url, "experiments")}
    assert found == {
        1: ("experiment 1", "active"),
        2: ("experiment 1_deleted_2", "deleted"),
        3: ("old", "deleted"),
    }
    runs = {r["run_uuid"]: (r["experiment_id"], r["status"], r["end_time"]) for r in rows(target_url, "runs")}
    assert runs == {
        RUN: (1, "FINISHED", None),
        OTHER_RUN: (1, "FINISHED", None),
        MENDED: (1, "FINISHED", 12),
        THIRD: (3, "FINISHED", None),
    }
    values = {r["value"] for r in rows(target_url, "tags") if r["key"] == "latin"}
    assert values == {"caf\ufffd"}


def test_the_same_policy_again_finds_nothing_left(dirty: StoreBuilder, tmp_path: Path) -> None:
    target = f"sqlite:///{tmp_path}/target.db"
    migrated(dirty, target, "fix", tmp_path)
    again = run_migrate(dirty.root, target, on_bad_row="fix", upgrade=False)
    assert again.status == "already_complete"


def test_a_change_while_it_is_read_is_noted(
    dirty: StoreBuilder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Right after the run's metrics were read a point comes; the report names the run and verify shows the point."""
    from mlflowctl.stores.files import reader as reading

    real = reading.FilesReader.changed
    metrics = dirty.root / "1" / RUN / "metrics" / "m"

    def late(self: reading.FilesReader) -> list[str]:
        with metrics.open("a") as stream:
            stream.write("2 0.25 1\n")
        return real(self)

    target = f"sqlite:///{tmp_path}/target.db"
    with monkeypatch.context() as patch:
        patch.setattr(reading.FilesReader, "changed", late)
        result = run_migrate(dirty.root, target, on_bad_row="skip", upgrade=False, rejects_file=str(tmp_path / "r"))
    assert result.status == "verified"
    assert any(f"run {RUN} in experiment 1" in note for note in result.notes)
    verified = run_verify(dirty.root, target)
    assert not verified.equal
    assert {(d.table, d.key["run_uuid"], d.kind) for d in verified.differences} == {
        ("metrics", RUN, "missing"),
        ("latest_metrics", RUN, "changed"),
    }
