"""A builder of small file stores for the tests of their reader, and the plainest store of all."""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from mlflowctl.core.errors import SourceError
from mlflowctl.stores.api import ReadReport
from mlflowctl.stores.files import READER_REVISION, open_files
from mlflowctl.stores.files.reader import FILLED_TABLES
from mlflowctl.stores.files.rejects import FileReject
from mlflowctl.stores.schema import schema_at

RUN = "0123456789abcdef0123456789abcdef"
OTHER_RUN = "f" * 32
MODEL = "m-" + "a" * 32
TRACE = "tr-" + "b" * 32

Rows = dict[str, list[dict[str, Any]]]


class StoreBuilder:
    """Writes a store file by file. Every method returns the folder or file that it made."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)

    def write(self, place: str, content: bytes | str | dict[str, Any]) -> Path:
        path = self.root / place
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, dict):
            content = yaml.safe_dump(content, default_flow_style=False, allow_unicode=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def experiment(self, number: str = "1", name: str | None = None, place: str | None = None, **meta: Any) -> Path:
        values = {
            "experiment_id": number,
            "name": name or f"experiment {number}",
            "artifact_location": f"file:///srv/ml/mlruns/{number}",
            "lifecycle_stage": "active",
            "creation_time": 1700000000000,
            "last_update_time": 1700000000001,
            **meta,
        }
        return self.write(f"{place or number}/meta.yaml", values).parent

    def run(self, run: str = RUN, experiment: str = "1", place: str | None = None, **meta: Any) -> Path:
        values = {
            "run_id": run,
            "run_uuid": run,
            "run_name": "a run",
            "experiment_id": experiment,
            "artifact_uri": f"file:///srv/ml/mlruns/{experiment}/{run}/artifacts",
            "lifecycle_stage": "active",
            "status": 3,
            "start_time": 1700000000002,
            "end_time": None,
            "deleted_time": None,
            "source_type": 4,
            "source_name": "",
            "source_version": "",
            "entry_point_name": "",
            "tags": [],
            "user_id": "me",
            **meta,
        }
        return self.write(f"{place or experiment}/{run}/meta.yaml", values).parent

    def read(self, *tables: str) -> tuple[Rows, ReadReport]:
        reader = open_files(self.root)
        rows: Rows = defaultdict(list)
        for batch in reader.batches(tables or None):
            rows[batch.table].extend(batch.rows.to_pylist())
        if not any(t.rule == "unreadable_file" for t in reader.report.troubles):
            # Whatever a store holds, it is found unchanged when nobody changed it.
            assert reader.changed() == []
        return rows, reader.report

    def lenient(self, policy: str) -> tuple[Rows, list[FileReject]]:
        """The rows and the rejects of a store that is read with ``skip`` or ``fix``."""
        reader = open_files(self.root, policy)
        rows: Rows = defaultdict(list)
        for batch in reader.batches():
            rows[batch.table].extend(batch.rows.to_pylist())
        assert reader.report.troubles == []
        assert reader.changed() == []
        rejects = reader.take_rejects()
        # A table read alone gives the same rows: the proof reads so.
        for table in {*(t for t, found in rows.items() if found), "runs"}:
            alone = [row for batch in reader.batches([table]) for row in batch.rows.to_pylist()]
            assert alone == rows[table], table
        assert reader.changed() == []
        return rows, rejects

    def clean(self, *tables: str) -> Rows:
        """The rows of a store in which nothing is wrong."""
        rows, report = self.read(*tables)
        assert report.troubles == []
        return rows

    def rules(self) -> list[str]:
        """The rules of all troubles, sorted."""
        return sorted(t.rule for t in self.read()[1].troubles)


@pytest.fixture
def store(tmp_path: Path) -> StoreBuilder:
    """A store with one experiment and one run."""
    built = StoreBuilder(tmp_path / "project" / "mlruns")
    built.experiment()
    built.run()
    return built


def test_the_plainest_store(store: StoreBuilder) -> None:
    store.write(f"1/{RUN}/params/lr", "0.1")
    store.write(f"1/{RUN}/tags/mlflow.user", "me")
    store.write(f"1/{RUN}/metrics/loss", "1700000000000 0.5 0\n1700000000001 0.25 1\n")
    rows = store.clean()
    assert rows["experiments"] == [
        {
            "experiment_id": 1,
            "name": "experiment 1",
            "artifact_location": "file:///srv/ml/mlruns/1",
            "lifecycle_stage": "active",
            "creation_time": 1700000000000,
            "last_update_time": 1700000000001,
            "workspace": "default",
        }
    ]
    assert rows["runs"] == [
        {
            "run_uuid": RUN,
            "name": "a run",
            "source_type": "LOCAL",
            "source_name": "",
            "entry_point_name": "",
            "user_id": "me",
            "status": "FINISHED",
            "start_time": 1700000000002,
            "end_time": None,
            "source_version": "",
            "lifecycle_stage": "active",
            "artifact_uri": f"file:///srv/ml/mlruns/1/{RUN}/artifacts",
            "experiment_id": 1,
            "deleted_time": None,
        }
    ]
    assert rows["params"] == [{"key": "lr", "value": "0.1", "run_uuid": RUN}]
    assert rows["tags"] == [{"key": "mlflow.user", "value": "me", "run_uuid": RUN}]
    assert [(m["timestamp"], m["value"], m["step"]) for m in rows["metrics"]] == [
        (1700000000000, 0.5, 0),
        (1700000000001, 0.25, 1),
    ]
    assert [m["value"] for m in rows["latest_metrics"]] == [0.25]
    assert [w["name"] for w in rows["workspaces"]] == ["default"]


def test_the_reader_covers_tables_of_its_revision(store: StoreBuilder) -> None:
    reader = open_files(store.root)
    whole = schema_at("tracking", "sqlite", READER_REVISION)
    assert set(reader.schema.tables) == {*FILLED_TABLES, *whole.seed}
    assert reader.kind == "files"
    assert reader.chain == "tracking"
    assert reader.revision == READER_REVISION
    assert reader.snapshot == "none"
    with reader:
        for batch in reader.batches():
            assert batch.rows.schema.names == [c.name for c in whole.tables[batch.table].columns]


def test_tables_and_columns_are_narrowed(store: StoreBuilder) -> None:
    store.write(f"1/{RUN}/params/lr", "0.1")
    store.write(f"1/{RUN}/metrics/loss", b"not a metric\n")
    reader = open_files(store.root)
    found = list(reader.batches(["params", "runs"], {"params": ["value"]}))
    assert {b.table for b in found} == {"params", "runs"}
    assert next(b for b in found if b.table == "params").rows.to_pylist() == [{"value": "0.1"}]
    # The metrics were not asked for, so they were not read.
    assert reader.report.troubles == []


def test_every_reading_begins_afresh_and_gives_the_same(store: StoreBuilder) -> None:
    store.write(f"1/{RUN}/metrics/loss", "1 0.5 0\n1 0.5 0\n")
    store.write("1/datasets/d/meta.yaml", {"name": "d", "digest": "1", "source_type": "local", "source": "{}"})
    reader = open_files(store.root)
    first = [(b.table, b.rows.to_pylist()) for b in reader.batches()]
    report = reader.report
    second = [(b.table, b.rows.to_pylist()) for b in reader.batches()]
    assert first == second
    assert reader.report == report
    assert report.collapsed == {"duplicate_metric_point": 1}


def test_reading_changes_nothing(store: StoreBuilder) -> None:
    store.write(f"1/{RUN}/metrics/loss", "1 0.5 0\n")
    store.write("../mlflow.db", b"SQLite format 3\x00" + bytes(84))
    before = sorted((p, p.stat().st_mtime_ns, p.stat().st_size) for p in store.root.parent.rglob("*"))
    store.clean()
    open_files(store.root).quick_facts()
    assert sorted((p, p.stat().st_mtime_ns, p.stat().st_size) for p in store.root.parent.rglob("*")) == before


def test_reading_imports_neither_mlflow_nor_pandas(store: StoreBuilder) -> None:
    import subprocess
    import sys

    store.write(f"1/{RUN}/metrics/loss", "1 0.5 0\n1 nan 1\n")
    code = (
        "import sys; from pathlib import Path; from mlflowctl.stores.files import open_files\n"
        "list(open_files(Path(sys.argv[1])).batches())\n"
        "print([m for m in ('mlflow', 'pandas', 'sqlalchemy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(store.root)], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_many_runs_come_in_bounded_batches(store: StoreBuilder, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflowctl.stores.files import metrics, rows

    monkeypatch.setattr(rows, "MAX_ROWS", 4)
    monkeypatch.setattr(metrics, "_CHUNK_BYTES", 64)
    monkeypatch.setattr(metrics, "_BATCH_ROWS", 3)
    for number in range(10):
        run = f"{number:032x}"
        store.run(run)
        store.write(f"1/{run}/params/a", str(number))
        store.write(f"1/{run}/metrics/m", "".join(f"{t} {number} {t}\n" for t in range(10)))
    reader = open_files(store.root)
    sizes: dict[str, list[int]] = defaultdict(list)
    for batch in reader.batches():
        sizes[batch.table].append(batch.rows.num_rows)
    assert max(sizes["metrics"]) <= 3
    assert sum(sizes["metrics"]) == 100
    assert sum(sizes["latest_metrics"]) == 10
    assert (max(sizes["params"]), sum(sizes["params"])) == (4, 10)
    assert (max(sizes["runs"]), sum(sizes["runs"])) == (4, 11)


def test_counts(store: StoreBuilder) -> None:
    store.write(f"1/{RUN}/params/lr", "0.1")
    store.write(f"1/{RUN}/tags/a/b", "x")
    store.write(f"1/{RUN}/metrics/loss", "".join(f"{1700000000000 + i} 0.5 {i % 10}\n" for i in range(50)))
    store.write("models/m/meta.yaml", {"name": "m", "creation_timestamp": 1, "last_updated_timestamp": 2})
    reader = open_files(store.root)
    exact = reader.counts(exact=True)
    quick = reader.counts(exact=False)
    assert exact["metrics"].rows == 50
    assert not exact["metrics"].estimated
    assert quick["metrics"].estimated
    assert {t: c.rows for t, c in quick.items()} == {t: c.rows for t, c in exact.items()}


def test_counts_of_many_runs_are_judged_by_a_sample(store: StoreBuilder) -> None:
    for number in range(250):
        run = f"{number:032x}"
        store.run(run)
        store.write(f"1/{run}/params/a", "1")
    quick = open_files(store.root).counts(exact=False)
    assert quick["runs"].rows == 251
    assert 240 <= quick["params"].rows <= 251


class TestQuickFacts:
    def test_artifacts_below_the_store_are_counted(self, store: StoreBuilder) -> None:
        store.write(f"1/{RUN}/artifacts/model/MLmodel", b"12345")
        store.write(f"1/models/{MODEL}/artifacts/MLmodel", b"123")
        store.write(f"1/traces/{TRACE}/artifacts/traces.json", b"12")
        store.write(f"1/{RUN}/artifacts/.DS_Store", b"1234567")
        facts = open_files(store.root).quick_facts()
        assert (facts.artifacts.files, facts.artifacts.bytes) == (3, 10)

    def test_a_moved_store_gets_a_mapping(self, store: StoreBuilder) -> None:
        old = "file:///C:/Users/me/mlruns"
        store.experiment(artifact_location=f"{old}/1")
        store.run(artifact_uri=f"{old}/1/{RUN}/artifacts")
        store.write(f"1/{RUN}/artifacts/a", b"1")
        facts = open_files(store.root).quick_facts()
        assert [(r.uri, r.exists, r.experiments_and_runs) for r in facts.roots] == [(old, False, 2)]
        assert facts.suggestions == ((old, store.root.resolve().as_uri()),)

    def test_plain_paths_are_mapped_to_plain_paths(self, store: StoreBuilder) -> None:
        store.experiment(artifact_location="/nowhere/mlruns/1")
        store.run(artifact_uri=f"/nowhere/mlruns/1/{RUN}/artifacts")
        store.write(f"1/{RUN}/artifacts/a", b"1")
        facts = open_files(store.root).quick_facts()
        assert facts.suggestions == (("/nowhere/mlruns", str(store.root.resolve())),)

    def test_a_location_that_a_person_chose_is_not_mapped(self, store: StoreBuilder) -> None:
        store.experiment(artifact_location="/nowhere/chosen")
        store.run(artifact_uri=f"/nowhere/chosen/{RUN}/artifacts")
        store.write(f"1/{RUN}/artifacts/a", b"1")
        facts = open_files(store.root).quick_facts()
        assert [(r.uri, r.experiments_and_runs) for r in facts.roots] == [("/nowhere/chosen", 2)]
        assert facts.suggestions == ()

    def test_no_mapping_without_artifacts_or_for_what_exists(self, store: StoreBuilder, tmp_path: Path) -> None:
        assert open_files(store.root).quick_facts().suggestions == ()
        (tmp_path / "there").mkdir()
        store.experiment(artifact_location=f"{tmp_path}/there/1")
        store.run(artifact_uri="s3://bucket/x/" + RUN + "/artifacts")
        store.write(f"1/{RUN}/artifacts/a", b"1")
        facts = open_files(store.root).quick_facts()
        assert {r.uri: r.exists for r in facts.roots} == {f"{tmp_path}/there": True, "s3://bucket/x": None}
        assert facts.suggestions == ()


class TestNoStore:
    """Paths that are no store: exit code 4, and words that say what they are and what to name instead."""

    @staticmethod
    def fault(path: Path) -> SourceError:
        with pytest.raises(SourceError) as caught:
            open_files(path)
        return caught.value

    def test_nothing_there(self, tmp_path: Path) -> None:
        error = self.fault(tmp_path / "mlrums")
        assert (error.kind, int(error.exit_code)) == ("not_found", 4)
        assert error.where == str(tmp_path / "mlrums")

    def test_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "f").write_text("x")
        assert self.fault(tmp_path / "f").kind == "not_a_store"

    def test_an_empty_folder(self, tmp_path: Path) -> None:
        error = self.fault(tmp_path)
        assert error.kind == "not_a_store"
        assert error.why == "It is empty."
        assert error.next_step

    def test_what_mlflow_leaves_of_an_empty_store(self, tmp_path: Path) -> None:
        (tmp_path / ".trash").mkdir()
        (tmp_path / "models").mkdir()
        assert self.fault(tmp_path).kind == "not_a_store"

    def test_any_other_folder(self, tmp_path: Path) -> None:
        (tmp_path / "src").mkdir()
        (tmp_path / "2024").mkdir()
        assert "No folder in it" in str(self.fault(tmp_path).why)

    def test_the_folder_around_a_store(self, store: StoreBuilder) -> None:
        error = self.fault(store.root.parent)
        assert error.next_step == f"Name it: --from {store.root}"

    def test_an_experiment(self, store: StoreBuilder) -> None:
        error = self.fault(store.root / "1")
        assert error.why == "It is the folder of an experiment."
        assert error.next_step == f"Name the store around it: --from {store.root}"

    def test_a_run(self, store: StoreBuilder) -> None:
        error = self.fault(store.root / "1" / RUN)
        assert error.why == "It is the folder of a run."
        assert error.next_step == f"Name the store around it: --from {store.root}"

    def test_a_half_deleted_experiment(self, store: StoreBuilder) -> None:
        (store.root / "1" / "meta.yaml").unlink()
        error = self.fault(store.root / "1")
        assert "deleted by half" in str(error.why)
        assert str(store.root) in str(error.next_step)

    def test_the_trash_and_the_registry(self, store: StoreBuilder) -> None:
        store.experiment("2", place=".trash/2")
        store.write("models/m/meta.yaml", {"name": "m"})
        assert "deleted experiments" in str(self.fault(store.root / ".trash").why)
        assert "registry" in str(self.fault(store.root / "models").why)

    @pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
    def test_a_folder_that_may_not_be_read(self, store: StoreBuilder) -> None:
        store.root.chmod(0)
        try:
            assert self.fault(store.root).kind == "unreadable"
        finally:
            store.root.chmod(0o755)


class TestNeighbours:
    """Exactly the folder named is read; other stores inside or beside it are pointed out."""

    def test_a_store_inside(self, store: StoreBuilder) -> None:
        inner = StoreBuilder(store.root / "mlruns")
        inner.experiment("7")
        rows, report = store.read()
        assert [e["experiment_id"] for e in rows["experiments"]] == [1]
        assert report.troubles == []
        assert report.notes == [f"Another file store lies inside this one and is not read: {inner.root}"]

    def test_a_store_inside_an_experiment(self, store: StoreBuilder) -> None:
        StoreBuilder(store.root / "1" / "mlruns").experiment("7")
        assert store.read()[1].notes == [
            f"Another file store lies inside this one and is not read: {store.root}/1/mlruns"
        ]

    def test_a_store_beside(self, store: StoreBuilder) -> None:
        other = StoreBuilder(store.root.parent / "mlruns_old")
        other.experiment("7")
        assert store.read()[1].notes == [
            f"Another file store lies beside this one and is not read: {other.root.resolve()}"
        ]

    def test_a_database_beside_and_inside(self, store: StoreBuilder) -> None:
        import sqlite3

        for place in (store.root / "mlflow.db", store.root.parent / "x.sqlite3"):
            with sqlite3.connect(place) as connection:
                for table in ("experiments", "runs", "metrics"):
                    connection.execute(f"CREATE TABLE {table} (id)")
            connection.close()
        with sqlite3.connect(store.root.parent / "optuna.db") as connection:
            connection.execute("CREATE TABLE studies (id)")
        connection.close()
        notes = store.read()[1].notes
        assert len(notes) == 2
        assert notes[0].endswith(f"{store.root}/mlflow.db")
        assert notes[1].endswith("/project/x.sqlite3")
