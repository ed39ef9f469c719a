"""Experiments, runs, params and tags: what the files mean, and what is odd but normal."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.unit.test_files_store import MODEL, OTHER_RUN, RUN, TRACE, StoreBuilder, store

__all__ = ["store"]


class TestExperiments:
    @pytest.mark.parametrize("number", ["0", "1", "123456789012345678"])
    def test_numbers(self, store: StoreBuilder, number: str) -> None:
        store.experiment(number)
        assert int(number) in [e["experiment_id"] for e in store.clean()["experiments"]]

    def test_the_number_of_0_8_is_no_text(self, tmp_path: Path) -> None:
        store = StoreBuilder(tmp_path / "mlruns")
        store.write("0/meta.yaml", "artifact_location: /x/0\nexperiment_id: 0\nname: Default\n")
        store.write(f"0/{RUN}/meta.yaml", f"experiment_id: 0\nrun_uuid: {RUN}\nstatus: 1\nname: ''\n")
        rows = store.clean()
        assert [(e["experiment_id"], e["creation_time"]) for e in rows["experiments"]] == [(0, None)]
        assert [(r["run_uuid"], r["status"]) for r in rows["runs"]] == [(RUN, "RUNNING")]

    def test_experiment_0_may_be_absent(self, store: StoreBuilder) -> None:
        assert [e["experiment_id"] for e in store.clean()["experiments"]] == [1]

    def test_the_trash_decides_and_not_the_file(self, store: StoreBuilder) -> None:
        # Before 2.3 the file said active, and the runs were left as they were.
        store.experiment("2", place=".trash/2", lifecycle_stage="active")
        store.run(OTHER_RUN, "2", place=".trash/2")
        rows, report = store.read()
        assert {e["experiment_id"]: e["lifecycle_stage"] for e in rows["experiments"]} == {1: "active", 2: "deleted"}
        assert {r["run_uuid"]: r["lifecycle_stage"] for r in rows["runs"]} == {RUN: "active", OTHER_RUN: "active"}
        assert report.normal == {"experiment_in_trash_marked_active": 1}

    def test_trash_since_2_3(self, store: StoreBuilder) -> None:
        store.experiment("2", place=".trash/2", lifecycle_stage="deleted")
        store.run(OTHER_RUN, "2", place=".trash/2", lifecycle_stage="deleted", deleted_time=1700000000009)
        rows, report = store.read()
        assert rows["experiments"][1]["lifecycle_stage"] == "deleted"
        assert [(r["lifecycle_stage"], r["deleted_time"]) for r in rows["runs"]][1] == ("deleted", 1700000000009)
        assert report.normal == {}

    def test_marked_deleted_outside_the_trash(self, store: StoreBuilder) -> None:
        store.experiment(lifecycle_stage="deleted")
        rows, report = store.read()
        assert rows["experiments"][0]["lifecycle_stage"] == "active"
        assert report.normal == {"experiment_outside_trash_marked_deleted": 1}

    def test_the_folder_of_tags_counts_and_not_the_copy(self, store: StoreBuilder) -> None:
        store.experiment(tags={"a": "stale"})
        store.write("1/tags/a", "new")
        store.write("1/tags/mlflow.note.content", "# a\r\nb")
        assert store.clean()["experiment_tags"] == [
            {"key": "a", "value": "new", "experiment_id": 1},
            {"key": "mlflow.note.content", "value": "# a\r\nb", "experiment_id": 1},
        ]

    def test_fields_of_late_releases(self, store: StoreBuilder) -> None:
        store.experiment(workspace="team", trace_location={"a": 1}, effective_trace_archival_retention="30d")
        rows, report = store.read()
        assert rows["experiments"][0]["workspace"] == "default"
        assert [n.what for n in report.not_carried] == [
            "effective_trace_archival_retention of experiments",
            "trace_location of experiments",
            "workspaces named by experiments",
        ]

    @pytest.mark.parametrize("name", ["123", "1e5", "yes", "null", "1:30", "0x1F", "2024-01-01", "~", "a: b # c", "üñ"])
    def test_names_that_look_like_something_else(self, store: StoreBuilder, name: str) -> None:
        store.experiment(name=name)
        assert store.clean()["experiments"][0]["name"] == name

    @pytest.mark.parametrize("spelled", ["123", "1e5", "yes", "1:30", "0x1F", "2024-01-01", "1_000"])
    def test_a_name_that_a_person_wrote_without_quotes_is_its_own_spelling(
        self, store: StoreBuilder, spelled: str
    ) -> None:
        store.write("1/meta.yaml", f"name: {spelled}\nexperiment_id: '1'\nartifact_location: /x\n")
        assert store.clean()["experiments"][0]["name"] == spelled


class TestRuns:
    @pytest.mark.parametrize(
        ("number", "word"), [(1, "RUNNING"), (2, "SCHEDULED"), (3, "FINISHED"), (4, "FAILED"), (5, "KILLED")]
    )
    def test_status(self, store: StoreBuilder, number: int, word: str) -> None:
        store.run(status=number)
        assert store.clean()["runs"][0]["status"] == word

    @pytest.mark.parametrize(
        ("number", "word"), [(1, "NOTEBOOK"), (2, "JOB"), (3, "PROJECT"), (4, "LOCAL"), (5, "UNKNOWN")]
    )
    def test_source_type(self, store: StoreBuilder, number: int, word: str) -> None:
        store.run(source_type=number, source_name="train.py", entry_point_name="main", source_version="abc")
        row = store.clean()["runs"][0]
        assert (row["source_type"], row["source_name"]) == (word, "train.py")
        assert (row["entry_point_name"], row["source_version"]) == ("main", "abc")

    def test_without_stage_and_status(self, store: StoreBuilder) -> None:
        store.write(f"1/{RUN}/meta.yaml", f"experiment_id: '1'\nrun_id: {RUN}\n")
        row = store.clean()["runs"][0]
        assert (row["lifecycle_stage"], row["status"], row["source_type"]) == ("active", "RUNNING", "LOCAL")

    @pytest.mark.parametrize("field", ["run_id", "run_uuid"])
    def test_one_id_is_enough(self, store: StoreBuilder, field: str) -> None:
        store.write(f"1/{RUN}/meta.yaml", f"experiment_id: '1'\n{field}: {RUN}\n")
        assert store.clean()["runs"][0]["run_uuid"] == RUN

    @pytest.mark.parametrize("old", [{"run_name": None, "name": ""}, {"run_name": ""}, {"run_name": None}])
    def test_the_name_is_taken_from_its_tag(self, store: StoreBuilder, old: dict[str, Any]) -> None:
        store.run(**old)
        store.write(f"1/{RUN}/tags/mlflow.runName", "from the tag")
        rows, report = store.read()
        assert rows["runs"][0]["name"] == "from the tag"
        assert [t["value"] for t in rows["tags"]] == ["from the tag"]
        assert report.normal == {"run_name_only_in_tag": 1}

    @pytest.mark.parametrize(("old", "name"), [({"name": ""}, None), ({"run_name": ""}, ""), ({}, None)])
    def test_a_run_without_a_name(self, store: StoreBuilder, old: dict[str, Any], name: str | None) -> None:
        store.write(f"1/{RUN}/meta.yaml", {"experiment_id": "1", "run_id": RUN, **old})
        assert store.clean()["runs"][0]["name"] == name

    def test_a_name_that_disagrees_with_its_tag_stays(self, store: StoreBuilder) -> None:
        store.write(f"1/{RUN}/tags/mlflow.runName", "other")
        rows, report = store.read()
        assert (rows["runs"][0]["name"], rows["tags"][0]["value"]) == ("a run", "other")
        assert report.normal == {}

    def test_the_name_field_of_1_29(self, store: StoreBuilder) -> None:
        store.run(run_name=None, name="old field")
        assert store.clean()["runs"][0]["name"] == "old field"

    def test_a_linked_run_is_read(self, store: StoreBuilder) -> None:
        elsewhere = StoreBuilder(store.root.parent / "elsewhere")
        folder = elsewhere.run(OTHER_RUN)
        elsewhere.write(f"1/{OTHER_RUN}/params/a", "1")
        (store.root / "1" / OTHER_RUN).symlink_to(folder)
        rows = store.clean()
        assert len(rows["runs"]) == 2
        assert rows["params"][0]["run_uuid"] == OTHER_RUN

    def test_a_run_folder_without_meta_yaml_is_normal(self, store: StoreBuilder) -> None:
        store.write(f"1/{OTHER_RUN}/artifacts/model.pkl", "x")
        rows, report = store.read()
        assert len(rows["runs"]) == 1
        assert report.normal == {"run_folder_without_meta_yaml": 1}
        assert report.not_carried == []
        assert report.troubles == []

    def test_what_such_a_folder_holds_is_counted(self, store: StoreBuilder) -> None:
        store.write(f"1/{OTHER_RUN}/params/a", "x")
        rows, report = store.read()
        assert rows["params"] == []
        assert [(n.what, n.rows) for n in report.not_carried] == [
            ("run folders without meta.yaml that hold params, metrics or tags", 1)
        ]


class TestKeysAndValues:
    @pytest.mark.parametrize("value", ["", "a\nb", "a\r\nb", "a\rb", "x\n", " x ", "ünï\u2028", "x" * 70_000, "\x00"])
    def test_values_are_bytes_as_they_are(self, store: StoreBuilder, value: str) -> None:
        store.write(f"1/{RUN}/params/p", value)
        store.write(f"1/{RUN}/tags/t", value)
        rows = store.clean()
        assert rows["params"][0]["value"] == value
        assert rows["tags"][0]["value"] == value

    def test_a_slash_makes_folders(self, store: StoreBuilder) -> None:
        store.write(f"1/{RUN}/params/a/b/c", "1")
        store.write(f"1/{RUN}/metrics/val/loss", "1 2 3\n")
        rows = store.clean()
        assert rows["params"][0]["key"] == "a/b/c"
        assert rows["metrics"][0]["key"] == "val/loss"

    @pytest.mark.parametrize("key", [".x", "a b", "a:b", "a%20b", "ключ", "100%", "-", "Thumbs"])
    def test_keys_of_any_kind(self, store: StoreBuilder, key: str) -> None:
        store.write(f"1/{RUN}/params/{key}", "1")
        assert store.clean()["params"][0]["key"] == key

    def test_rows_come_in_the_order_of_the_key(self, store: StoreBuilder) -> None:
        store.run(OTHER_RUN)
        for run in (OTHER_RUN, RUN):
            for key in ("b", "a"):
                store.write(f"1/{run}/params/{key}", key)
        assert [(p["key"], p["run_uuid"]) for p in store.clean()["params"]] == [
            ("a", RUN),
            ("a", OTHER_RUN),
            ("b", RUN),
            ("b", OTHER_RUN),
        ]

    def test_links_to_files_are_followed_and_links_to_folders_are_not(self, store: StoreBuilder) -> None:
        target = store.write("../outside/value", "v")
        (store.root / "1" / RUN / "params").mkdir()
        (store.root / "1" / RUN / "params" / "linked").symlink_to(target)
        (store.root / "1" / RUN / "params" / "folder").symlink_to(target.parent)
        rows, report = store.read()
        assert [(p["key"], p["value"]) for p in rows["params"]] == [("linked", "v")]
        assert report.normal == {"linked_folder_among_keys": 1}


class TestNormal:
    def test_stray_files_at_every_level(self, store: StoreBuilder) -> None:
        places = [
            "",
            "1/",
            f"1/{RUN}/",
            f"1/{RUN}/params/",
            f"1/{RUN}/metrics/",
            f"1/{RUN}/tags/",
            "models/",
            "1/models/",
        ]
        for place in places:
            store.write(f"{place}.DS_Store", b"\x00\x00\x00\x01Bud1\xff\xfe")
            store.write(f"{place}.gitkeep", b"")
            store.write(f"{place}Thumbs.db", b"\xd0\xcf\x11\xe0")
            store.write(f"{place}._x", b"\xff")
        rows, report = store.read()
        assert rows["params"] == rows["tags"] == rows["metrics"] == []
        assert report.troubles == []
        assert set(report.normal) == {"stray_file"}

    def test_files_where_folders_are(self, store: StoreBuilder) -> None:
        for place in ("README", "1/notes.txt", "models/README.md", "1/models/x", "1/traces/x", "1/datasets/x"):
            store.write(place, "x")
        report = store.read()[1]
        assert report.troubles == []
        assert set(report.normal) == {"stray_file"}

    def test_foreign_folders(self, store: StoreBuilder) -> None:
        store.write("images/a.png", "x")
        store.write("1/plots/a.png", "x")
        store.write("5/leftover/a.txt", "x")
        store.write(f"1/{RUN}/extra/a.txt", "x")
        report = store.read()[1]
        assert report.troubles == []
        assert report.normal == {
            "foreign_folder": 1,
            "experiment_folder_without_meta_yaml": 1,
            "foreign_folder_in_experiment": 1,
            "unknown_entry_in_run_folder": 1,
        }

    def test_a_run_without_params_metrics_or_tags(self, store: StoreBuilder) -> None:
        assert sorted(p.name for p in (store.root / "1" / RUN).iterdir()) == ["meta.yaml"]
        report = store.read()[1]
        assert (report.troubles, report.normal, report.not_carried) == ([], {}, [])


class TestMalformed:
    """Faults that stop a migration: each named, and the reading goes on to find the rest."""

    @pytest.mark.parametrize(
        ("content", "line", "text"),
        [
            ("", None, "is empty"),
            ("\n\n", None, "is empty"),
            ("a: b: c\n", 1, "is no valid YAML"),
            ("status: 3\n<<<<<<< HEAD\nstatus: 4\n", 3, "is no valid YAML"),
            ("- 1\n- 2\n", None, "holds no mapping"),
            (b"name: \xff\n", 1, "is not valid UTF-8"),
            (b"status: 3\nname: \xff\n", 2, "is not valid UTF-8"),
            (f"experiment_id: '1'\nrun_id: {RUN}\nstatus: FINISHED\n", 3, "has 'FINISHED' under 'status'"),
            (f"experiment_id: '1'\nrun_id: {RUN}\nstatus: 9\n", 3, "has 9 under 'status'"),
            (f"experiment_id: '1'\nrun_id: {RUN}\nsource_type: 7\n", 3, "has 7 under 'source_type'"),
            (f"experiment_id: '1'\nrun_id: {RUN}\nstart_time: soon\n", 3, "has no whole number under 'start_time'"),
            (f"experiment_id: '1'\nrun_id: {RUN}\nend_time: 99999999999999999999\n", 3, "64 bits"),
            (f"experiment_id: '1'\nrun_id: {RUN}\nlifecycle_stage: gone\n", None, "lifecycle_stage"),
            (f"experiment_id: '1'\nrun_id: {RUN}\nuser_id: [me]\n", 3, "has no text under 'user_id'"),
            (f"run_id: {RUN}\n", None, "names no 'experiment_id'"),
            ("experiment_id: '1'\n", None, "names no 'run_id'"),
        ],
    )
    def test_a_run(self, store: StoreBuilder, content: bytes | str, line: int | None, text: str) -> None:
        place = store.write(f"1/{RUN}/meta.yaml", content)
        store.write(f"1/{RUN}/params/a", "1")
        rows, report = store.read()
        assert [t.rule for t in report.troubles] == ["malformed_meta_yaml"]
        assert report.troubles[0].where == (f"{place}:{line}" if line else str(place))
        assert text in report.troubles[0].text
        # Nothing of what lies below becomes an orphan.
        assert rows["runs"] == rows["params"] == []

    def test_ids_and_folders_that_disagree(self, store: StoreBuilder) -> None:
        store.run(OTHER_RUN, experiment_id="2")
        store.run("e" * 32, run_id="d" * 32)
        store.experiment("3", experiment_id="4")
        store.experiment("5", name="experiment 1")
        assert store.rules() == [
            "experiment_id_mismatch",
            "experiment_name_twice",
            "run_id_mismatch",
            "run_of_another_experiment",
        ]

    def test_one_id_in_the_trash_too(self, store: StoreBuilder) -> None:
        store.experiment("1", name="another", place=".trash/1")
        store.run(OTHER_RUN, "1", place=".trash/1")
        rows, report = store.read()
        assert [t.rule for t in report.troubles] == ["experiment_id_twice"]
        assert str(store.root / "1") in report.troubles[0].text
        assert [r["run_uuid"] for r in rows["runs"]] == [RUN]

    def test_one_run_in_two_experiments(self, store: StoreBuilder) -> None:
        store.experiment("2")
        store.run(RUN, "2")
        report = store.read()[1]
        assert [t.rule for t in report.troubles] == ["run_id_twice"]
        assert RUN in report.troubles[0].text

    def test_runs_of_an_experiment_without_meta_yaml(self, store: StoreBuilder) -> None:
        store.run(OTHER_RUN, "2")
        store.write(f"2/{OTHER_RUN}/params/a", "1")
        store.write(f"2/{OTHER_RUN}/metrics/m", "1 x 2\n")
        rows, report = store.read()
        assert sorted(t.rule for t in report.troubles) == ["experiment_without_meta_yaml", "malformed_metric_line"]
        assert "1 run" in report.troubles[0].text
        assert OTHER_RUN in report.troubles[0].text
        assert [r["run_uuid"] for r in rows["runs"]] == [RUN]

    def test_traces_and_models_of_an_experiment_without_meta_yaml(self, store: StoreBuilder) -> None:
        store.write(f"2/traces/{TRACE}/trace_info.yaml", "x: 1\n")
        store.write(f"3/models/{MODEL}/meta.yaml", "x: 1\n")
        assert store.rules().count("experiment_without_meta_yaml") == 2

    @pytest.mark.parametrize("content", ["", "{", "name: x\n", "name: x\nexperiment_id: '1'\nlifecycle_stage: odd\n"])
    def test_an_experiment(self, store: StoreBuilder, content: str) -> None:
        store.write("1/meta.yaml", content)
        rows, report = store.read()
        assert [t.rule for t in report.troubles] == ["malformed_meta_yaml"]
        assert rows["experiments"] == rows["runs"] == []

    def test_an_experiment_that_is_no_number(self, store: StoreBuilder) -> None:
        store.experiment("abc")
        store.experiment("9" * 20)
        store.experiment("007")
        assert store.rules() == ["experiment_id_not_a_number"] * 3

    @pytest.mark.parametrize("place", ["params", "tags"])
    def test_invalid_utf8(self, store: StoreBuilder, place: str) -> None:
        path = store.write(f"1/{RUN}/{place}/a/b", b"ok\n\xff")
        store.write(f"1/{RUN}/{place}/c", "fine")
        report = store.read()[1]
        assert [(t.rule, t.where) for t in report.troubles] == [("invalid_utf8", str(path))]

    def test_a_name_that_is_no_utf8(self, store: StoreBuilder) -> None:
        folder = store.write(f"1/{RUN}/params/a", "1").parent
        (folder / os.fsdecode(b"\xff\xfe")).write_text("1")
        report = store.read()[1]
        assert [t.rule for t in report.troubles] == ["invalid_utf8"]
        report.troubles[0].where.encode()

    def test_a_file_where_a_folder_must_be(self, store: StoreBuilder) -> None:
        store.write(f"1/{RUN}/params", "x")
        assert store.rules() == ["not_a_folder"]

    def test_a_link_that_leads_nowhere(self, store: StoreBuilder) -> None:
        folder = store.write(f"1/{RUN}/params/a", "1").parent
        (folder / "b").symlink_to("nowhere")
        assert store.rules() == ["unreadable_file"]

    def test_a_pipe_does_not_hang(self, store: StoreBuilder) -> None:
        folder = store.write(f"1/{RUN}/params/a", "1").parent
        os.mkfifo(folder / "pipe")
        assert len(store.read()[0]["params"]) == 2

    @pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
    def test_a_file_that_may_not_be_read(self, store: StoreBuilder) -> None:
        store.write(f"1/{RUN}/params/a", "1").chmod(0)
        store.write(f"1/{OTHER_RUN}/meta.yaml", "x").chmod(0)
        assert store.rules() == ["unreadable_file", "unreadable_file"]

    def test_an_unreadable_file_is_named(self, store: StoreBuilder, monkeypatch: pytest.MonkeyPatch) -> None:
        from mlflowctl.stores.files import walk

        path = store.write(f"1/{RUN}/params/a", "1")
        real = walk.read_bytes

        def denied(name: str, see: Any = None) -> bytes:
            if name == str(path):
                raise PermissionError(13, "Permission denied")
            return real(name, see)

        monkeypatch.setattr(walk, "read_bytes", denied)
        report = store.read()[1]
        assert [(t.rule, t.where, t.text) for t in report.troubles] == [
            ("unreadable_file", str(path), "cannot be read: Permission denied")
        ]

    def test_all_faults_are_found_in_one_reading(self, store: StoreBuilder) -> None:
        store.write(f"1/{RUN}/metrics/m", "1 2 3\n\nx\n")
        store.write(f"1/{RUN}/tags/t", b"\xff")
        store.run(OTHER_RUN, status="FINISHED")
        store.write(f"1/{OTHER_RUN}/params/p", b"\xff")
        store.write(f"1/{OTHER_RUN}/metrics/m", "1 2\n9\n")
        store.write(f"1/traces/{TRACE}/trace_info.yaml", "")
        assert store.rules() == [
            "invalid_utf8",
            "invalid_utf8",
            "malformed_meta_yaml",
            "malformed_metric_line",
            "malformed_metric_line",
            "malformed_metric_line",
            "malformed_trace",
        ]
