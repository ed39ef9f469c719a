"""A store that changes while it is read: what changed is named, and a store that nobody touches is found unchanged."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from mlflowctl.core.errors import SourceError
from mlflowctl.stores.files import FilesReader, open_files
from tests.unit.test_files_store import MODEL, OTHER_RUN, RUN, TRACE, StoreBuilder, store

__all__ = ["store"]

NEW = "e" * 32


@pytest.fixture
def full(store: StoreBuilder) -> StoreBuilder:
    """A store with one of everything."""
    store.write("1/tags/t", "1")
    store.write("1/datasets/d/meta.yaml", {"name": "d", "digest": "1", "source_type": "local", "source": "{}"})
    for run in (RUN, OTHER_RUN):
        store.run(run)
        store.write(f"1/{run}/params/a/b", "1")
        store.write(f"1/{run}/tags/t", "1")
        store.write(f"1/{run}/metrics/m", "1 0.5 0\n")
        store.write(f"1/{run}/artifacts/model", "1")
        edge = {"source_type": "DATASET", "source_id": "d", "destination_type": "RUN", "destination_id": "d"}
        store.write(f"1/{run}/inputs/i/meta.yaml", {**edge, "tags": {}})
    location = {"mlflow_experiment": {"experiment_id": "1"}}
    values = {"trace_id": TRACE, "request_time": "2025-04-15T08:49:18Z", "trace_location": location, "state": "OK"}
    store.write(f"1/traces/{TRACE}/trace_info.yaml", values)
    store.write(f"1/traces/{TRACE}/tags/t", "1")
    store.write(
        f"1/traces/{TRACE}/assessments/a.yaml",
        {
            "assessment_name": "a",
            "source": {"source_type": "HUMAN"},
            "create_time": "2025-04-15T08:49:18Z",
            "last_update_time": "2025-04-15T08:49:18Z",
            "feedback": {"value": 1},
        },
    )
    values = {"model_id": MODEL, "experiment_id": "1", "name": "m", "artifact_location": "/x", "status": 2}
    store.write(f"1/models/{MODEL}/meta.yaml", {**values, "creation_timestamp": 1, "last_updated_timestamp": 1})
    store.write(f"1/models/{MODEL}/metrics/m", f"1 0.5 0 {RUN}\n")
    store.experiment("2")
    store.write("models/r/meta.yaml", {"name": "r", "creation_timestamp": 1, "last_updated_timestamp": 1})
    store.write("models/r/version-1/meta.yaml", {"name": "r", "version": 1, "creation_timestamp": 1})
    store.write("models/r/version-1/tags/t", "1")
    store.write("models/r/aliases/best", "1")
    return store


def whole(store: StoreBuilder, policy: str = "stop") -> FilesReader:
    """A reader that has read everything."""
    reader = open_files(store.root, policy)
    for _ in reader.batches():
        pass
    assert reader.report.troubles == []
    assert reader.changed() == []
    return reader


def append(path: Path, text: str = "2 0.5 1\n") -> None:
    with path.open("a") as stream:
        stream.write(text)


def rewrite_in_place(path: Path) -> None:
    """As many bytes, the same inode, and the times of before as far as a program can set them."""
    before = path.stat()
    # Once more while the file system's clock stands still: within one tick nothing tells them apart.
    while path.stat().st_ctime_ns == before.st_ctime_ns:
        with path.open("r+b") as stream:
            stream.write(b"9")
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def replace(path: Path) -> None:
    """As MLflow writes a meta.yaml anew."""
    other = path.with_name("new")
    other.write_bytes(path.read_bytes())
    other.replace(path)


RUN_NAME = f"run {RUN} in experiment 1"
TRACE_NAME = f"trace {TRACE} in experiment 1"
MODEL_NAME = f"logged model {MODEL} in experiment 1"
CHANGES: list[tuple[str, Callable[[Path], None], str]] = [
    (f"1/{RUN}/metrics/m", append, RUN_NAME),
    (f"1/{RUN}/metrics/m", rewrite_in_place, RUN_NAME),
    (f"1/{RUN}/params/a/b", rewrite_in_place, RUN_NAME),
    (f"1/{RUN}/params/a/b", Path.unlink, RUN_NAME),
    (f"1/{RUN}/tags/t", append, RUN_NAME),
    (f"1/{RUN}/tags/new", append, RUN_NAME),
    (f"1/{RUN}/meta.yaml", replace, RUN_NAME),
    (f"1/{RUN}/inputs/i/meta.yaml", append, RUN_NAME),
    (f"1/traces/{TRACE}/trace_info.yaml", replace, TRACE_NAME),
    (f"1/traces/{TRACE}/tags/new", append, TRACE_NAME),
    (f"1/traces/{TRACE}/assessments/a.yaml", append, TRACE_NAME),
    (f"1/traces/{TRACE}/assessments/b.yaml", append, TRACE_NAME),
    (f"1/models/{MODEL}/meta.yaml", replace, MODEL_NAME),
    (f"1/models/{MODEL}/metrics/m", append, MODEL_NAME),
    ("1/meta.yaml", replace, "experiment 1"),
    ("1/tags/t", rewrite_in_place, "experiment 1"),
    ("1/datasets/d/meta.yaml", append, "experiment 1"),
    ("models/r/meta.yaml", replace, "registered model r"),
    ("models/r/version-1/tags/t", rewrite_in_place, "registered model r"),
    ("models/r/aliases/best", rewrite_in_place, "registered model r"),
]


@pytest.mark.parametrize("policy", ["stop", "skip"])
@pytest.mark.parametrize(("place", "change", "name"), CHANGES, ids=[f"{p}-{c.__name__}" for p, c, _ in CHANGES])
def test_a_file_that_changed(
    full: StoreBuilder, policy: str, place: str, change: Callable[[Path], None], name: str
) -> None:
    reader = whole(full, policy)
    change(full.root / place)
    assert reader.changed() == [name]


def test_things_that_came(full: StoreBuilder) -> None:
    reader = whole(full)
    full.run(NEW)
    full.write("1/traces/tr-new/trace_info.yaml", "x: 1\n")
    full.write("1/models/m-new/meta.yaml", "x: 1\n")
    full.experiment("3")
    full.run(NEW, "3")
    full.write("models/new/meta.yaml", "x: 1\n")
    assert reader.changed() == [
        f"run {NEW} in experiment 1 (new)",
        "trace tr-new in experiment 1 (new)",
        "logged model m-new in experiment 1 (new)",
        "experiment 3 (new)",
        f"run {NEW} in experiment 3 (new)",
        "registered model new (new)",
    ]


def test_things_that_went(full: StoreBuilder) -> None:
    reader = whole(full)
    for place in (f"1/{RUN}", f"1/traces/{TRACE}", f"1/models/{MODEL}", "models/r"):
        shutil.rmtree(full.root / place)
    (full.root / ".trash").mkdir()
    (full.root / "2").rename(full.root / ".trash" / "2")
    assert reader.changed() == [
        f"run {RUN} in experiment 1 (gone)",
        f"trace {TRACE} in experiment 1 (gone)",
        f"logged model {MODEL} in experiment 1 (gone)",
        "experiment 2 in .trash (new)",
        "experiment 2 (gone)",
        "registered model r (gone)",
    ]


def test_what_is_no_row_may_change(full: StoreBuilder) -> None:
    reader = whole(full)
    append(full.root / f"1/{RUN}/artifacts/model")
    append(full.root / f"1/{RUN}/artifacts/new")
    full.write("1/.DS_Store", "x")
    full.write(f"1/{RUN}/params/.gitkeep", "")
    full.write("1/foreign/notes.txt", "x")
    full.write("foreign/notes.txt", "x")
    (full.root / "1" / NEW / "params").mkdir(parents=True)
    assert reader.changed() == []
    # From its meta.yaml on it is a run.
    full.run(NEW)
    assert reader.changed() == [f"run {NEW} in experiment 1 (new)"]


@pytest.mark.parametrize(
    "tables", [["runs"], ["params"], ["metrics"], ["experiments"], ["trace_info"], ["model_versions"]]
)
def test_only_what_was_asked_for_is_compared(full: StoreBuilder, tables: list[str]) -> None:
    reader = open_files(full.root)
    for _ in reader.batches(tables):
        pass
    assert reader.changed() == []
    append(full.root / f"1/{RUN}/metrics/m")
    assert reader.changed() == ([RUN_NAME] if tables == ["metrics"] else [])


def test_the_first_whole_reading_is_what_counts(full: StoreBuilder) -> None:
    reader = open_files(full.root)
    assert reader.changed() == []
    reader.counts(exact=True)
    append(full.root / f"1/{RUN}/metrics/m")
    assert reader.changed() == []
    for _ in reader.batches(["metrics"]):
        pass
    append(full.root / f"1/{OTHER_RUN}/metrics/m")
    for _ in reader.batches():
        pass
    append(full.root / f"1/{RUN}/metrics/m", "3 0.5 2\n")
    for _ in range(2):
        for _ in reader.batches():
            pass
        for _ in reader.batches(["params"]):
            pass
        assert reader.changed() == [RUN_NAME]


def test_rejected_things_are_looked_at_too(full: StoreBuilder) -> None:
    full.write("1/meta.yaml", "")
    full.write("models/r/meta.yaml", "")
    reader = whole(full, "fix")
    assert {r.table for r in reader.rejects} == {"experiments", "registered_models"}
    append(full.root / f"1/{RUN}/metrics/m")
    append(full.root / "models/r/aliases/best")
    assert reader.changed() == [RUN_NAME, "registered model r"]


def test_the_folder_itself_is_gone(full: StoreBuilder) -> None:
    reader = whole(full)
    shutil.rmtree(full.root)
    with pytest.raises(SourceError):
        reader.changed()


def test_what_vanishes_while_it_is_read_stops(full: StoreBuilder, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflowctl.stores.files import walk

    real = walk.read_bytes

    def vanishing(path: str, see: Callable[[str, os.stat_result], None] | None = None) -> bytes:
        if path.endswith(f"{OTHER_RUN}/tags/t"):
            Path(path).unlink()
        return real(path, see)

    monkeypatch.setattr(walk, "read_bytes", vanishing)
    reader = open_files(full.root, "skip")
    for _ in reader.batches():
        pass
    assert [(t.rule, t.where) for t in reader.report.troubles] == [
        ("unreadable_file", f"{full.root}/1/{OTHER_RUN}/tags/t")
    ]
    assert "the store changed while it was read" in reader.report.troubles[0].text


def test_a_change_in_the_middle_of_a_walk(full: StoreBuilder, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was read before it is named; what is read after it has what it says."""
    from mlflowctl.stores.files import rows

    monkeypatch.setattr(rows, "MAX_ROWS", 1)
    reader = open_files(full.root)
    names: list[str] = []
    for batch in reader.batches():
        if batch.table == "runs":
            names += batch.rows.column("run_uuid").to_pylist()
            if names == [RUN]:  # the other one comes later
                append(full.root / f"1/{RUN}/metrics/m")
                append(full.root / f"1/{OTHER_RUN}/metrics/m")
                full.run("0" * 32)  # before the place where the walk is
    assert names == [RUN, OTHER_RUN]
    assert reader.changed() == [f"run {'0' * 32} in experiment 1 (new)", RUN_NAME]


def test_a_thread_that_goes_on_writing(tmp_path: Path) -> None:
    store = StoreBuilder(tmp_path / "mlruns")
    store.experiment()
    for number in range(300):
        run = f"{number:032x}"
        store.run(run)
        for key in "abc":
            store.write(f"1/{run}/metrics/{key}", "1 0.5 0\n")
    busy = f"{7:032x}"
    reader = open_files(store.root)
    read, written = threading.Event(), threading.Event()

    def train() -> None:
        number = 0
        while not written.is_set():
            last = read.is_set()
            append(store.root / f"1/{busy}/metrics/a", f"{number + 2} 0.5 {number}\n")
            store.run(f"{10_000 + number:032x}")
            number += 1
            if last:
                written.set()

    thread = threading.Thread(target=train)
    thread.start()
    points = sum(b.rows.num_rows for b in reader.batches() if b.table == "metrics")
    read.set()
    thread.join()
    assert points >= 900
    found = reader.changed()
    assert f"run {busy} in experiment 1" in found
    assert all(name.endswith(" (new)") for name in found if busy not in name)
    # The last run was made after the walk had listed the folder.
    assert any(name.endswith(" (new)") for name in found)


TRAIN = """
import sys
import mlflow
mlflow.set_experiment("live")
with mlflow.start_run() as run:
    print(run.info.run_id, run.info.experiment_id, flush=True)
    step = 0
    for line in sys.stdin:
        mlflow.log_metric("loss", 1 / (step + 1), step=step)
        mlflow.set_tag("step", str(step))
        step += 1
        print("done", flush=True)
"""


@pytest.mark.slow
def test_a_client_of_mlflow_that_goes_on_training(tmp_path: Path) -> None:
    root = tmp_path / "mlruns"
    environment = {**os.environ, "MLFLOW_TRACKING_URI": root.as_uri(), "MLFLOW_ALLOW_FILE_STORE": "true"}
    with subprocess.Popen(
        [sys.executable, "-c", TRAIN], env=environment, cwd=tmp_path, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as client:  # fmt: skip
        assert client.stdin is not None
        assert client.stdout is not None
        run, experiment = client.stdout.readline().split()

        def step() -> None:
            assert client.stdin is not None
            assert client.stdout is not None
            client.stdin.write("\n")
            client.stdin.flush()
            assert client.stdout.readline() == "done\n"

        step()
        reader = open_files(root)
        first = [b for b in reader.batches() if b.table == "metrics"]
        assert sum(b.rows.num_rows for b in first) == 1
        assert reader.changed() == []
        step()
        assert reader.changed() == [f"run {run} in experiment {experiment}"]
        reader = open_files(root)
        for _ in reader.batches():
            pass
        client.stdin.close()
        # The end of a run writes its meta.yaml anew.
        assert client.wait() == 0
        assert reader.changed() == [f"run {run} in experiment {experiment}"]
