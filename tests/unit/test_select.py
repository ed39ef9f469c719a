"""What a selection carries, table by table: each edge of the closure by hand, whole stores by their foreign keys."""

from __future__ import annotations

import shutil
import sqlite3
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from mlflowctl.core.errors import SourceError, UsageError
from mlflowctl.migrate import links, select
from mlflowctl.migrate.select import Selection
from mlflowctl.stores import schema as schemas
from mlflowctl.stores.api import OddRow, Reader, TableBatch
from mlflowctl.stores.open import open_reader
from mlflowctl.stores.schema import Schema
from mlflowctl.stores.uri import parse_uri
from tests.generate import make_store
from tests.stores.golden import GOLDEN, SAMPLE, GoldenStore, unpack

HEAD = "dc11669786a5"
DAY = 86_400_000
REVISIONS = tuple(r.id for r in schemas.revisions("tracking"))
ANCHORS = ("base", "90e64c465722", "97727af70f4d", "0584bdc529eb", "bf29a5ff90ea", HEAD)


# -- a store by hand -------------------------------------------------------------------------------------------------


class Store:
    """A store at a revision, filled row by row; what is not given gets some value of its type."""

    def __init__(self, path: Path, empty: Path) -> None:
        self.path = path
        self.schema = schemas.schema_at("tracking", "sqlite", HEAD)
        shutil.copyfile(empty, path)
        self._connection = sqlite3.connect(path)
        self._connection.execute("PRAGMA synchronous = OFF")
        self._number = 0

    def add(self, table: str, **given: Any) -> None:
        self._number += 1
        row: dict[str, Any] = {}
        for column in self.schema.tables[table].columns:
            if column.name in given:
                row[column.name] = given.pop(column.name)
            elif column.name == "workspace":
                row["workspace"] = "default"
            elif not column.nullable and not column.computed and not column.identity:
                text = {"json": "{}", "date": "2026-01-01", "bytes": b"x"}.get(
                    column.kind, f"{column.name}{self._number}"
                )
                row[column.name] = 1 if column.kind in ("int", "float", "bool") else text
        assert not given, f"{table} has no {sorted(given)}"
        names = ", ".join(f'"{n}"' for n in row)
        self._connection.execute(
            f'INSERT INTO "{table}" ({names}) VALUES ({", ".join("?" * len(row))})', list(row.values())
        )
        self._connection.commit()

    def experiment(self, number: int, name: str, **given: Any) -> None:
        self.add("experiments", experiment_id=number, name=name, lifecycle_stage="active", **given)
        self.add("experiment_tags", experiment_id=number, key="of", value=name)

    def run(self, name: str, experiment: int | None, at: int | None = DAY, parent: str | None = None) -> None:
        self.add(
            "runs", run_uuid=name, experiment_id=experiment, start_time=at, lifecycle_stage="active",
            status="FINISHED", source_type="LOCAL",
        )  # fmt: skip
        self.add("params", run_uuid=name, key="p", value=name)
        self.add("metrics", run_uuid=name, key="m", value=1.0, is_nan=0)
        self.add("latest_metrics", run_uuid=name, key="m", value=1.0, is_nan=0)
        self.add("tags", run_uuid=name, key="t", value=name)
        if parent:
            self.add("tags", run_uuid=name, key="mlflow.parentRunId", value=parent)

    def trace(self, name: str, experiment: int, at: int = DAY, **metadata: str) -> None:
        self.add("trace_info", request_id=name, experiment_id=experiment, timestamp_ms=at, status="OK")
        self.add("trace_tags", request_id=name, key="of", value=name)
        self.add("spans", trace_id=name, span_id="s", experiment_id=experiment, status="OK")
        self.add("span_metrics", trace_id=name, span_id="s", key="k", value=1.0)
        self.add("assessments", trace_id=name, assessment_id=f"a-{name}", valid=1)
        for key, value in metadata.items():
            self.add("trace_request_metadata", request_id=name, key=f"mlflow.{key}", value=value)

    def logged_model(self, name: str, experiment: int, run: str | None = None, at: int = DAY) -> None:
        self.add("logged_models", model_id=name, experiment_id=experiment, source_run_id=run, creation_timestamp_ms=at)
        self.add("logged_model_params", model_id=name, experiment_id=experiment, param_key="p")
        self.add("logged_model_tags", model_id=name, experiment_id=experiment, tag_key="t")

    def model(self, name: str, versions: dict[int, str | None] | None = None, **tags: str) -> None:
        self.add("registered_models", name=name)
        for key, value in tags.items():
            self.add("registered_model_tags", name=name, key=key, value=value)
        for version, run in (versions or {}).items():
            self.add("model_versions", name=name, version=version, run_id=run)
            self.add("model_version_tags", name=name, version=version, key="t", value="x")
            self.add("registered_model_aliases", name=name, version=version, alias=f"v{version}")

    def link(self, source: tuple[str, str], destination: tuple[str, str], table: str = "entity_associations") -> None:
        own = {"inputs": "input_uuid", "entity_associations": "association_id"}[table]
        self.add(
            table, source_type=source[0], source_id=source[1], destination_type=destination[0],
            destination_id=destination[1], **{own: f"{source[1]}>{destination[1]}"},
        )  # fmt: skip

    def select(self, *only: str, exclude: tuple[str, ...] = (), since: str | None = None) -> Picked:
        with _reader(self.path) as reader:
            return Picked(reader, Selection.make(reader, only, exclude, since))


class Picked:
    """The rows of a store that a selection carries."""

    def __init__(self, reader: Reader, selection: Selection) -> None:
        self.document = selection.document()
        self.selection = selection
        self.rows: dict[str, list[dict[str, Any]]] = {}
        self.odd: dict[str, list[OddRow]] = {}
        for batch in reader.batches():
            carried = selection.apply(batch)
            self.rows.setdefault(batch.table, []).extend(carried.rows.to_pylist())
            self.odd.setdefault(batch.table, []).extend(carried.odd)

    def of(self, table: str, column: str) -> set[Any]:
        return {row[column] for row in self.rows.get(table, [])}

    @property
    def runs(self) -> set[str]:
        """The runs, after checking that everything of theirs came with them and nothing of others."""
        runs = self.of("runs", "run_uuid")
        for table in ("params", "metrics", "latest_metrics", "tags"):
            assert self.of(table, "run_uuid") == runs, table
        return runs

    @property
    def experiments(self) -> set[int]:
        experiments = self.of("experiments", "experiment_id")
        assert self.of("experiment_tags", "experiment_id") == experiments
        assert self.selection.experiments == experiments
        return experiments

    def why(self, kind: str, identity: str) -> str:
        return next(e["why"] for e in self.document["along"] if (e["kind"], e["id"]) == (kind, identity))

    def left(self, kind: str, identity: str) -> str:
        return next(e["why"] for e in self.document["left"] if (e["kind"], e["id"]) == (kind, identity))


def _reader(path: Path) -> Reader:
    return open_reader(parse_uri(f"sqlite:///{path}" if path.suffix == ".db" else str(path), side="source"))


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("empty") / "empty.db"
    make_store(path, HEAD, rows=0)
    return path


@pytest.fixture
def store(tmp_path: Path, empty: Path) -> Store:
    made = Store(tmp_path / "s.db", empty)
    made.experiment(1, "fraud")
    made.experiment(2, "churn")
    return made


# -- which tables are known ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", ["sqlite", "postgresql", "mysql"])
def test_every_table_and_foreign_key_of_every_revision_has_a_link(dialect: schemas.Dialect) -> None:
    assert schemas.tables_ever("tracking") == set(links.LINKS) | set(links.SERVER_WIDE)
    assert not set(links.LINKS) & set(links.SERVER_WIDE)
    for revision in REVISIONS:
        assert links.unknown(schemas.schema_at("tracking", dialect, revision)) == []


def test_every_link_names_columns_that_the_table_has() -> None:
    known = {
        (name, column.name)
        for revision in REVISIONS
        for name, table in schemas.schema_at("tracking", "sqlite", revision).tables.items()
        for column in table.columns
    }
    for table, of_table in links.LINKS.items():
        for link in of_table:
            columns = (*link.columns, link.when[0]) if link.when else link.columns
            assert {(table, c) for c in columns} <= known
    for table, read in select._COLUMNS.items():
        assert {(table, c) for c in read} <= known


def _narrowed(reader: Reader, schema: Schema) -> Reader:
    reader.schema = schema
    return reader


def test_a_table_without_a_link_makes_it_refuse(store: Store) -> None:
    with _reader(store.path) as reader:
        strange = replace(reader.schema.tables["tags"], name="run_moods")
        schema = replace(reader.schema, tables={**reader.schema.tables, "run_moods": strange})
        with pytest.raises(SourceError) as caught:
            Selection.make(_narrowed(reader, schema), ["fraud"], [], None)
    assert caught.value.kind == "unknown_links"
    assert "run_moods" in caught.value.what
    assert int(caught.value.exit_code) == 4


def test_a_foreign_key_without_a_link_makes_it_refuse(store: Store) -> None:
    with _reader(store.path) as reader:
        table = reader.schema.tables["experiment_tags"]
        key = schemas.ForeignKey("fk", ("value",), "runs", ("run_uuid",), None, None)
        changed = replace(table, foreign_keys=(*table.foreign_keys, key))
        schema = replace(reader.schema, tables={**reader.schema.tables, table.name: changed})
        with pytest.raises(SourceError, match=r"experiment_tags\.value"):
            Selection.make(_narrowed(reader, schema), ["fraud"], [], None)


def test_users_cannot_be_selected(tmp_path: Path) -> None:
    path = tmp_path / "users.db"
    make_store(path, schemas.installed_head("auth"), rows=2, chain="auth")
    with (
        open_reader(parse_uri(f"sqlite:///{path}", side="source"), "auth") as reader,
        pytest.raises(UsageError) as caught,
    ):
        Selection.make(reader, ["x"], [], None)
    assert caught.value.kind == "selection_auth"


# -- names and times -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "experiments", "models"),
    [
        ("fraud", {1}, set()),
        ("both", {3}, {"both"}),
        ("experiment:both", {3}, set()),
        ("model:both", set(), {"both"}),
        ("*r*", {1, 2}, set()),
        ("model:*", set(), {"both", "12", "model:odd"}),
        ("experiment:2", {2}, set()),
        ("2", {2}, set()),
        ("12", set(), {"12"}),
        ("[a] *", {4}, set()),
        ("model:odd", set(), {"model:odd"}),
    ],
)
def test_names(store: Store, spec: str, experiments: set[int], models: set[str]) -> None:
    store.experiment(3, "both")
    store.experiment(4, "[a] *")
    store.experiment(12, "twelve")
    for name in ("both", "12", "model:odd"):
        store.model(name)
    picked = store.select(spec)
    assert (picked.experiments, picked.of("registered_models", "name")) == (experiments, models)
    assert picked.document["chosen"]["experiments"] == len(experiments)
    assert picked.document["chosen"]["registered_models"] == len(models)


@pytest.mark.parametrize(
    ("spec", "hint"),
    [
        ("fruad", "Did you mean 'fraud'?"),
        ("Fraud", "Did you mean 'fraud'?"),
        ("model:fraud", "glob"),
        ("99", "glob"),
        ("z*", "glob"),
        ("experiment:chrun", "Did you mean 'churn'?"),
    ],
)
@pytest.mark.parametrize("option", ["only", "exclude"])
def test_a_name_that_matches_nothing(store: Store, spec: str, hint: str, option: str) -> None:
    with pytest.raises(UsageError) as caught:
        store.select("fraud", exclude=(spec,)) if option == "exclude" else store.select(spec)
    assert caught.value.kind == "no_match"
    assert f"--{option} {spec!r}" in caught.value.what
    assert hint in (caught.value.next_step or "")


def test_everything_excluded_is_refused(store: Store) -> None:
    with pytest.raises(UsageError) as caught:
        store.select("fraud", exclude=("f*",))
    assert caught.value.kind == "nothing_chosen"


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [
        ("1970-01-02", DAY),
        ("1970-01-02T00:00:00Z", DAY),
        ("1970-01-02t00:00z", DAY),
        ("1970-01-02 00:00:00", DAY),
        ("1970-01-02T02:00:00+02:00", DAY),
        ("1970-01-01T19:00:00-0500", DAY),
        ("1970-01-02T00:00:00.5Z", DAY + 500),
        ("1970-01-02T00:00:00.000000001Z", DAY + 1),
        ("1969-12-31T23:59:59.250Z", -750),
    ],
)
def test_times(text: str, milliseconds: int) -> None:
    assert select._since(text) == milliseconds


@pytest.mark.parametrize("text", ["", "yesterday", "2026-13-01", "2026-01-31T25:00Z", "31.1.2026", "1700000000"])
def test_a_time_that_cannot_be_read(store: Store, text: str) -> None:
    with pytest.raises(UsageError) as caught:
        store.select(since=text)
    assert caught.value.kind == "since"
    assert "2026-01-31" in (caught.value.next_step or "")


def test_since(store: Store) -> None:
    for name, at in (("old", DAY - 1), ("new", DAY), ("timeless", None)):
        store.run(name, 1, at)
        if at is not None:
            store.trace(f"t-{name}", 2, at)
            store.logged_model(f"m-{name}", 2, None, at)
    picked = store.select(since="1970-01-02")
    assert picked.experiments == {1, 2}
    # One without a time is not known to be older.
    assert picked.runs == {"new", "timeless"}
    assert picked.of("trace_info", "request_id") == picked.of("spans", "trace_id") == {"t-new"}
    assert picked.of("logged_models", "model_id") == {"m-new"}
    assert picked.document["chosen"] == {
        "experiments": 2, "runs": 2, "registered_models": 0, "traces": 1, "logged_models": 1,
    }  # fmt: skip


# -- the closure -----------------------------------------------------------------------------------------------------


def test_ancestors_and_descendants_come_along_across_experiments(store: Store) -> None:
    store.run("grandparent", 2)
    store.run("parent", 2, parent="grandparent")
    store.run("aunt", 2, parent="grandparent")
    store.run("chosen", 1, parent="parent")
    store.run("child", 2, parent="chosen")
    store.run("grandchild", 2, parent="child")
    store.run("stranger", 2)
    picked = store.select("fraud")
    assert picked.runs == {"grandparent", "parent", "chosen", "child", "grandchild"}
    assert picked.experiments == {1, 2}
    assert picked.why("run", "parent") == "parent of run chosen"
    assert picked.why("run", "grandparent") == "parent of run parent"
    assert picked.why("run", "grandchild") == "child of run child"
    experiment = next(e for e in picked.document["along"] if e["kind"] == "experiment")
    assert experiment["name"] == "churn"
    assert experiment["why"].startswith("holds run ")
    assert picked.document["chosen"]["runs"] == 1
    assert picked.document["along_by_kind"] == {"experiment": 1, "run": 4}


def test_runs_that_are_each_others_parents_end(store: Store) -> None:
    store.run("a", 1, parent="b")
    store.run("b", 2, parent="a")
    store.run("self", 1, parent="self")
    assert store.select("fraud").runs == {"a", "b", "self"}


def test_inputs_and_outputs_of_a_run(store: Store) -> None:
    store.run("r", 1)
    store.run("other", 2)
    store.run("maker", 2)
    store.logged_model("used", 2, "maker")
    store.logged_model("made", 2)
    store.logged_model("unrelated", 2, "other")
    store.add("datasets", dataset_uuid="d", experiment_id=2, name="d")
    store.add("datasets", dataset_uuid="e", experiment_id=2, name="e")
    for source, destination in (
        (("DATASET", "d"), ("RUN", "r")),
        (("DATASET", "e"), ("RUN", "other")),
        (("RUN_INPUT", "r"), ("MODEL_INPUT", "used")),
        (("RUN_OUTPUT", "r"), ("MODEL_OUTPUT", "made")),
        (("RUN_INPUT", "r"), ("MODEL_INPUT", "gone")),
        (("RUN_INPUT", "other"), ("MODEL_INPUT", "used")),
    ):
        store.link(source, destination, "inputs")
    for name in ("d>r", "e>other"):
        store.add("input_tags", input_uuid=name, name="mlflow.data.context", value="training")
    picked = store.select("fraud")
    assert picked.runs == {"r", "maker"}
    assert picked.of("datasets", "dataset_uuid") == {"d"}
    assert picked.of("inputs", "input_uuid") == {"d>r", "r>used", "r>made", "r>gone"}
    assert picked.of("input_tags", "input_uuid") == {"d>r"}
    for table in ("logged_models", "logged_model_params", "logged_model_tags"):
        assert picked.of(table, "model_id") == {"used", "made"}
    assert picked.why("logged_model", "used") == "used by run r"
    assert picked.why("logged_model", "made") == "made by run r"
    assert picked.why("run", "maker") == "made logged model used"
    assert picked.why("dataset", "d") == "used by run r"


def test_points_of_logged_models(store: Store) -> None:
    for run, experiment in (("r", 1), ("judge", 2), ("other", 2)):
        store.run(run, experiment)
    store.logged_model("own", 1)
    store.logged_model("used", 2)
    store.link(("RUN_INPUT", "r"), ("MODEL_INPUT", "used"), "inputs")
    store.add("datasets", dataset_uuid="d", experiment_id=2, name="d")
    for model, run in (("own", "judge"), ("used", "r"), ("used", "other")):
        store.add("logged_model_metrics", model_id=model, run_id=run, experiment_id=2, dataset_uuid="d")
    picked = store.select("fraud")
    # A chosen model brings those that measured it; one that only comes along does not.
    assert picked.runs == {"r", "judge"}
    assert {(r["model_id"], r["run_id"]) for r in picked.rows["logged_model_metrics"]} == {
        ("own", "judge"),
        ("used", "r"),
    }
    assert picked.of("datasets", "dataset_uuid") == {"d"}
    assert picked.why("run", "judge") == "logged a metric of logged model own"
    assert picked.left("logged_model_metrics", "used") == "logged by run other, which stays behind"
    assert picked.document["left_count"] == 1


def test_traces_and_their_runs(store: Store) -> None:
    for run, experiment in (("r", 1), ("source", 2), ("judge", 2), ("meta", 2), ("linked", 2), ("other", 2)):
        store.run(run, experiment)
    store.logged_model("agent", 2)
    store.trace("chosen", 1, sourceRun="source", modelId="agent")
    store.trace("of-r", 2, sourceRun="r")
    store.trace("linked-to-r", 2)
    store.trace("judging", 2)
    store.trace("of-other", 2, sourceRun="other")
    store.link(("trace", "linked-to-r"), ("run", "r"))
    store.link(("trace", "chosen"), ("run", "linked"))
    store.link(("trace", "of-other"), ("run", "other"))
    store.add("assessments", trace_id="chosen", assessment_id="1", run_id="judge", valid=1)
    metadata = '{"mlflow.assessment.sourceRunId": "meta", "mlflow.assessment.scorerTraceId": "judging"}'
    store.add("assessments", trace_id="chosen", assessment_id="2", assessment_metadata=metadata, valid=1)
    store.add("assessments", trace_id="chosen", assessment_id="3", assessment_metadata='"mlflow.assessment.', valid=1)
    picked = store.select("fraud")
    traces = {"chosen", "of-r", "linked-to-r", "judging"}
    assert picked.of("trace_info", "request_id") == traces
    for table, column in (("trace_tags", "request_id"), ("spans", "trace_id"), ("span_metrics", "trace_id")):
        assert picked.of(table, column) == traces
    assert picked.of("assessments", "assessment_id") == {*(f"a-{t}" for t in traces), "1", "2", "3"}
    assert picked.runs == {"r", "source", "judge", "meta", "linked"}
    assert picked.of("logged_models", "model_id") == {"agent"}
    assert picked.of("entity_associations", "source_id") == {"linked-to-r", "chosen"}
    assert picked.why("run", "judge") == "assessed trace chosen"
    assert picked.why("run", "source") == "run of trace chosen"
    assert picked.why("trace", "of-r") == "trace of run r"
    assert picked.why("trace", "judging") == "trace of an assessment of trace chosen"
    assert picked.document["chosen"]["traces"] == 1


def test_a_chosen_model_brings_its_versions_and_their_runs(store: Store) -> None:
    store.run("above", 1)
    store.run("one", 1, parent="above")
    store.run("two", 2)
    store.run("unrelated", 1)
    store.model("m", {1: "one", 2: "two", 3: "gone", 4: None}, note="x")
    store.model("n", {1: "one"})
    store.add("registered_model_aliases", name="m", version=99, alias="dangling")
    picked = store.select("model:m")
    assert picked.of("registered_models", "name") == picked.of("registered_model_tags", "name") == {"m"}
    assert {(r["name"], r["version"]) for r in picked.rows["model_versions"]} == {("m", n) for n in (1, 2, 3, 4)}
    assert picked.of("registered_model_aliases", "version") == {1, 2, 3, 4, 99}
    assert len(picked.rows["model_version_tags"]) == 4
    assert picked.runs == {"one", "two", "above"}
    assert picked.experiments == {1, 2}
    assert picked.why("run", "one") == "made model version m/1"
    assert picked.document["chosen"] == {
        "experiments": 0, "runs": 0, "registered_models": 1, "traces": 0, "logged_models": 0,
    }  # fmt: skip


def test_a_chosen_run_brings_the_versions_that_it_made_without_their_sisters(store: Store) -> None:
    store.run("r", 1)
    store.run("other", 2)
    store.model("m", {1: "other", 2: "r", 3: "other"}, note="x")
    store.model("n", {1: "other"})
    picked = store.select("fraud")
    assert picked.runs == {"r"}
    assert picked.of("registered_models", "name") == picked.of("registered_model_tags", "name") == {"m"}
    for table in ("model_versions", "model_version_tags", "registered_model_aliases"):
        assert picked.of(table, "version") == {2}, table
    assert picked.why("model_version", "m/2") == "made by run r"
    assert picked.why("registered_model", "m") == "holds model version m/2"


def test_versions_registered_from_logged_models(store: Store) -> None:
    store.logged_model("m-1", 1)
    store.run("maker", 2)
    store.logged_model("m-2", 2, "maker")
    store.model("from-chosen")
    store.model("from-other")
    store.add("model_versions", name="from-chosen", version=7, source="models:/m-1")
    store.add("model_versions", name="from-other", version=8, source="models:/m-2")
    store.add("model_versions", name="from-other", version=9, source="models:/from-chosen/7")
    assert store.select("fraud").of("model_versions", "version") == {7}
    picked = store.select("model:from-other")
    assert picked.of("logged_models", "model_id") == {"m-2"}
    assert picked.runs == {"maker"}


def test_prompts(store: Store) -> None:
    store.run("r", 1)
    store.run("stranger", 2)
    store.trace("t", 1)
    store.trace("t2", 1)
    store.logged_model("lm", 1)
    names = ("by-experiment", "by-run-tag", "by-trace-tag", "by-model-tag", "by-association", "by-version", "unrelated")
    for name in names:
        store.model(name, {1: None, 2: None})
    store.add("registered_model_tags", name="by-experiment", key="_mlflow_experiment_ids", value=",7,1,")
    store.add("registered_model_tags", name="unrelated", key="_mlflow_experiment_ids", value=",11,2,")
    store.add("model_version_tags", name="by-version", version=1, key="mlflow.prompt.associatedRunIds", value="x,r")
    store.add("model_version_tags", name="unrelated", version=1, key="mlflow.prompt.associatedRunIds", value="stranger")
    listed = '[{{"name": "{}", "version": "1"}}]'.format
    store.add("tags", run_uuid="r", key="mlflow.linkedPrompts", value=listed("by-run-tag"))
    store.add("trace_tags", request_id="t", key="mlflow.linkedPrompts", value=listed("by-trace-tag"))
    store.add("trace_tags", request_id="t2", key="mlflow.linkedPrompts", value="no JSON [")
    store.add("logged_model_tags", model_id="lm", experiment_id=1, tag_key="mlflow.linkedPrompts", tag_value=listed("by-model-tag"))  # fmt: skip
    store.link(("trace", "t"), ("prompt_version", "by-association/2"))
    picked = store.select("fraud")
    assert picked.of("registered_models", "name") == set(names) - {"unrelated"}
    assert len(picked.rows["model_versions"]) == 2 * (len(names) - 1)
    assert picked.of("entity_associations", "destination_id") == {"by-association/2"}
    assert picked.runs == {"r"}
    assert picked.why("registered_model", "by-experiment") == "prompt of experiment 1"
    assert picked.why("registered_model", "by-version") == "prompt of run r"


def test_what_was_set_up_in_an_experiment_goes_with_it(store: Store) -> None:
    store.run("mine", 1, parent="yours")
    store.run("yours", 2)
    store.run("finder", 2)
    for number, word in ((1, "mine"), (2, "yours")):
        store.trace(f"t-{word}", number)
        store.add("scorers", experiment_id=number, scorer_id=word)
        store.add("scorer_versions", scorer_id=word, scorer_version=1)
        store.add("online_scoring_configs", scorer_id=word, experiment_id=number)
        store.add("label_schemas", experiment_id=number, schema_id=word)
        store.add("review_queues", experiment_id=number, queue_id=word)
        store.add("review_queue_users", queue_id=word)
        store.add("review_queue_label_schemas", queue_id=word, schema_id=word)
        store.add("review_queue_items", queue_id=word, item_type="trace", item_id=f"t-{word}")
        store.add("issues", experiment_id=number, issue_id=word, source_run_id="finder" if number == 1 else None)
        store.add("jobs", id=word, params=f'{{"experiment_id": "{number}", "x": 1}}')
        store.add("job_locks", job_id=word)
        store.add("evaluation_datasets", dataset_id=word)
        store.add("evaluation_dataset_records", dataset_id=word)
        store.add("evaluation_dataset_tags", dataset_id=word)
        store.link(("evaluation_dataset", word), ("experiment", str(number)))
        store.add("sql_trace_metric_daily_rollups", id=number, experiment_id=number)
        store.add("sql_trace_rollup_rebuild_queue", experiment_id=number)
    store.add("jobs", id="nobody's", params="{}")
    store.add("review_queue_items", queue_id="mine", item_type="trace", item_id="t-yours")
    store.add("review_queue_items", queue_id="mine", item_type="session", item_id="any")
    picked = store.select("fraud")
    assert picked.experiments == {1, 2}
    assert picked.runs == {"mine", "yours", "finder"}
    assert picked.why("run", "finder") == "found an issue of experiment 1"
    for table, column in (
        ("scorers", "scorer_id"), ("scorer_versions", "scorer_id"), ("online_scoring_configs", "scorer_id"),
        ("label_schemas", "schema_id"), ("review_queues", "queue_id"), ("review_queue_users", "queue_id"),
        ("review_queue_label_schemas", "queue_id"), ("review_queue_items", "queue_id"), ("issues", "issue_id"),
        ("job_locks", "job_id"), ("evaluation_datasets", "dataset_id"), ("evaluation_dataset_tags", "dataset_id"),
        ("evaluation_dataset_records", "dataset_id"), ("entity_associations", "source_id"),
    ):  # fmt: skip
        assert picked.of(table, column) == {"mine"}, table
    assert picked.of("review_queue_items", "item_id") == {"t-mine", "any"}
    assert picked.of("jobs", "id") == {"mine", "nobody's"}
    assert picked.of("sql_trace_metric_daily_rollups", "id") == {1}
    assert picked.of("sql_trace_rollup_rebuild_queue", "experiment_id") == {1}
    later = store.select("fraud", since="1970-01-02")
    # Sums over days of which traces may stay behind are left to be made anew.
    assert later.rows["sql_trace_metric_daily_rollups"] == []
    assert later.of("scorers", "scorer_id") == {"mine"}


def test_the_server_s_own_tables_are_always_carried(store: Store) -> None:
    store.add("secrets", secret_id="s")
    store.add("model_definitions", model_definition_id="d", secret_id="s")
    for name, experiment in (("plain", None), ("mine", 1), ("yours", 2)):
        store.add("endpoints", endpoint_id=name, experiment_id=experiment)
        store.add("endpoint_model_mappings", mapping_id=name, endpoint_id=name, model_definition_id="d")
        store.add("endpoint_tags", endpoint_id=name)
    for name, number in (("mine", 1), ("yours", 2)):
        store.add("scorers", experiment_id=number, scorer_id=name)
        store.add("scorer_versions", scorer_id=name, scorer_version=1)
        store.add("endpoint_bindings", endpoint_id="plain", resource_type="scorer", resource_id=name)
        store.add("guardrails", guardrail_id=name, scorer_id=name, scorer_version=1, action_endpoint_id=name)
        store.add("guardrail_configs", endpoint_id="plain", guardrail_id=name)
    store.add("webhooks", webhook_id="w")
    store.add("webhook_events", webhook_id="w")
    picked = store.select("fraud")
    # The endpoint's experiment must be there for its key, as a bare row.
    assert picked.experiments == {1, 2}
    assert picked.why("experiment", "2") == "takes the usage of gateway endpoint yours"
    assert picked.of("endpoints", "endpoint_id") == {"plain", "mine", "yours"}
    for table in ("secrets", "model_definitions", "webhooks", "webhook_events", "workspaces"):
        assert len(picked.rows[table]) == 1, table
    for table in ("scorers", "scorer_versions", "guardrails", "guardrail_configs", "endpoint_bindings"):
        assert len(picked.rows[table]) == 1, table
    without = store.select(exclude=("churn",))
    assert without.experiments == {1}
    for table in ("endpoints", "endpoint_model_mappings", "endpoint_tags"):
        assert without.of(table, "endpoint_id") == {"plain", "mine"}, table
    assert without.of("guardrails", "guardrail_id") == without.of("guardrail_configs", "guardrail_id") == {"mine"}


# -- exclude ---------------------------------------------------------------------------------------------------------


def test_what_is_excluded_never_comes_along_and_is_named(store: Store) -> None:
    store.run("r", 1, parent="above")
    store.run("above", 2)
    store.run("below", 2, parent="r")
    store.trace("t", 2, sourceRun="r")
    store.model("m", {1: "r"})
    store.model("n", {1: "above"})
    picked = store.select("*", exclude=("churn", "model:m"))
    assert picked.experiments == {1}
    assert picked.runs == {"r"}
    assert picked.rows["trace_info"] == picked.rows["spans"] == []
    assert picked.of("model_versions", "name") == picked.of("registered_models", "name") == {"n"}
    assert picked.left("run", "above") == "excluded, though parent of run r"
    assert picked.left("run", "below") == "excluded, though child of run r"
    assert picked.left("trace", "t") == "excluded, though trace of run r"
    assert picked.left("model_version", "m/1") == "excluded, though made by run r"
    assert picked.document["left_count"] == 4


def test_a_point_s_experiment_comes_as_a_bare_row_even_if_excluded(store: Store) -> None:
    store.experiment(0, "Default")
    store.run("r", 1)
    store.run("in-default", 0)
    store.logged_model("m", 1)
    store.add("logged_model_metrics", model_id="m", run_id="r", experiment_id=0)
    picked = store.select(exclude=("Default", "churn"))
    assert len(picked.rows["logged_model_metrics"]) == 1
    assert picked.runs == {"r"}
    assert picked.experiments == {0, 1}
    assert picked.why("experiment", "0") == "named by a point that run r logged of a logged model"


def test_exclude_alone_leaves_out_nothing_else(store: Store) -> None:
    store.run("r", 1)
    store.run("x", 2)
    store.run("homeless", None)
    store.model("m", {1: "r", 2: "x"})
    store.add("evaluation_datasets", dataset_id="mine")
    store.add("evaluation_datasets", dataset_id="yours")
    store.add("evaluation_datasets", dataset_id="nobody's")
    store.link(("evaluation_dataset", "mine"), ("experiment", "1"))
    store.link(("evaluation_dataset", "yours"), ("experiment", "2"))
    # What belongs to nothing is left to the cleaning, which names it.
    store.add("tags", run_uuid="gone", key="k", value="v")
    store.add("tags", run_uuid="x", key="k", value="v")
    picked = store.select(exclude=("churn",))
    assert picked.of("runs", "run_uuid") == {"r", "homeless"}
    assert picked.of("tags", "run_uuid") == {"r", "homeless", "gone"}
    assert picked.of("evaluation_datasets", "dataset_id") == {"mine", "nobody's"}
    assert picked.of("model_versions", "version") == {1, 2}
    assert "gone" not in store.select("fraud").of("tags", "run_uuid")
    assert store.select("fraud").of("runs", "run_uuid") == {"r"}


def test_a_trace_of_which_spans_are_in_an_excluded_experiment_stays_behind(store: Store) -> None:
    store.trace("t", 1)
    store.add("spans", trace_id="t", span_id="far", experiment_id=2, status="OK")
    assert store.select("fraud").experiments == {1, 2}
    picked = store.select("fraud", exclude=("churn",))
    assert picked.rows["spans"] == picked.rows["trace_info"] == []


# -- odd rows, batches -----------------------------------------------------------------------------------------------


def test_odd_rows_are_selected_by_what_can_be_read_of_them(store: Store) -> None:
    store.run("r", 1)
    store.run("x", 2)
    for run, step in (("r", "seven"), ("x", "eight")):
        store.add("metrics", run_uuid=run, key="odd", value=1.0, is_nan=0, step=step)
    store.add("tags", run_uuid=b"\xff", key="k", value="v")
    store.add("experiments", experiment_id=3, name=b"caf\xe9", lifecycle_stage="active")
    store.run("in-three", 3)
    picked = store.select("fraud")
    assert [row.cells["step"] for row in picked.odd["metrics"]] == ["seven"]
    assert [row.cells["run_uuid"] for row in picked.odd["tags"]] == [b"\xff"]
    assert picked.odd["experiments"] == []
    by_name = store.select("caf*")
    assert by_name.of("runs", "run_uuid") == {"in-three"}
    assert [row.cells["experiment_id"] for row in by_name.odd["experiments"]] == [3]


def test_batches_of_any_size_give_the_same_rows(store: Store) -> None:
    for number in range(7):
        store.run(f"r{number}", 1 + number % 2)
    with _reader(store.path) as reader:
        selection = Selection.make(reader, ["fraud"], [], None)
        for batch in reader.batches(["runs", "metrics", "experiments"]):
            whole = selection.apply(batch).rows.to_pylist()
            parts = [
                selection.apply(TableBatch(batch.table, batch.rows.slice(n, 1))).rows.to_pylist()
                for n in range(batch.rows.num_rows)
            ]
            assert [row for part in parts for row in part] == whole
            assert selection.apply(TableBatch(batch.table, batch.rows.slice(0, 0))).rows.num_rows == 0


def test_a_batch_that_is_carried_whole_is_the_same_object(store: Store) -> None:
    store.run("r", 1)
    with _reader(store.path) as reader:
        selection = Selection.make(reader, ["*"], [], None)
        batches = list(reader.batches(["runs", "workspaces"]))
        assert all(selection.apply(batch) is batch for batch in batches)


def test_the_lists_of_a_document_end_somewhere(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(select, "MAX_NAMED", 5)
    store.run("r", 1)
    for number in range(9):
        store.run(f"c{number}", 2, parent="r")
    document = store.select("fraud").document
    assert len(document["along"]) == 5
    assert document["along_by_kind"] == {"experiment": 1, "run": 9}
    assert document["along_more"] == 5
    cut = store.select("fraud", exclude=("churn",)).document
    assert (len(cut["left"]), cut["left_count"]) == (5, 9)


# -- whole stores ----------------------------------------------------------------------------------------------------


def _check_keys(schema: Schema, rows: dict[str, list[dict[str, Any]]]) -> None:
    """No foreign key of the rows dangles."""
    for table in schema.tables.values():
        for key in table.foreign_keys:
            parents = {tuple(r[c] for c in key.ref_columns) for r in rows.get(key.table, [])}
            named = {tuple(r[c] for c in key.columns) for r in rows.get(table.name, [])}
            assert {n for n in named if None not in n} <= parents, f"{table.name}.{key.columns}"


@pytest.mark.parametrize(
    "revision",
    [
        pytest.param(r, marks=() if r in ANCHORS else pytest.mark.slow)
        for r in REVISIONS
        if r == "base" or r in schemas.installed_revisions("tracking")
    ],
)
def test_no_foreign_key_dangles_at_any_revision(revision: str, tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    schema = make_store(path, revision, rows=9)
    with _reader(path) as reader:
        names = [n for b in reader.batches(["experiments"]) for n in b.rows.column("name").to_pylist()]
        first = names[0]
        counts = reader.counts(exact=True)
        for only, exclude, since in (
            ([first], [], None),
            ([], [first], None),
            ([], [], "2020-01-01"),
            (names[1:3], names[2:4], "1970-01-01T00:00:01Z"),
            ([], [names[1], names[4]], "2023-01-01"),
        ):
            picked = Picked(reader, Selection.make(reader, only, exclude, since))
            _check_keys(schema, picked.rows)
            for table in schema.tables:
                assert len(picked.rows[table]) <= counts[table].rows
            assert not {f"{n}" for n in exclude} & picked.of("experiments", "name")
            assert set(only) - set(exclude) <= picked.of("experiments", "name")


@pytest.mark.parametrize("revision", ANCHORS)
def test_all_names_are_all_rows(revision: str, tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    schema = make_store(path, revision, rows=8)
    with _reader(path) as reader:
        picked = Picked(reader, Selection.make(reader, [], [], "0001-01-01"))
        counts = reader.counts(exact=True)
    short = {n for n in schema.tables if len(picked.rows[n]) != counts[n].rows}
    # Rows that hang on a scorer or on sums by their names alone may name something else in a generated store.
    assert short <= {n for n in schema.tables if "rollup" in n}


@pytest.mark.golden
@pytest.mark.parametrize("golden", GOLDEN, ids=lambda s: s.name)
def test_golden_stores(golden: GoldenStore, tmp_path: Path) -> None:
    with _reader(unpack(golden, tmp_path)) as reader:
        whole = Counter(dict.fromkeys(reader.schema.tables, 0))
        for batch in reader.batches():
            whole[batch.table] += batch.rows.num_rows
        everything = Picked(reader, Selection.make(reader, ["*"], [], None))
        assert {t: len(r) for t, r in everything.rows.items() if r} == {t: n for t, n in whole.items() if n}
        assert everything.document["along"] == []
        names = sorted(everything.of("experiments", "name"))
        # Each look at a folder is a walk.
        for name in names[: 2 if golden.kind == "files" else None]:
            picked = Picked(reader, Selection.make(reader, [f"experiment:{name}"], [], None))
            _check_keys(reader.schema, picked.rows)
            chosen = next(r["experiment_id"] for r in everything.rows["experiments"] if r["name"] == name)
            mine = {r["run_uuid"] for r in everything.rows["runs"] if r["experiment_id"] == chosen}
            assert mine <= picked.of("runs", "run_uuid")
            other = Picked(reader, Selection.make(reader, [], [f"experiment:{name}"], None))
            _check_keys(reader.schema, other.rows)
            assert not mine & other.of("runs", "run_uuid")
            if chosen in other.of("experiments", "experiment_id"):
                assert chosen in other.of("logged_model_metrics", "experiment_id")


def test_the_same_criteria_give_the_same_rows_and_document() -> None:
    with _reader(SAMPLE) as reader:
        names = [n for b in reader.batches(["experiments"]) for n in b.rows.column("name").to_pylist()]
        first = Picked(reader, Selection.make(reader, [names[0]], [], "2000-01-01"))
        second = Picked(reader, Selection.make(reader, [names[0]], [], "2000-01-01"))
    assert first.document == second.document
    assert first.rows == second.rows
    assert first.rows["experiments"]


def test_names_of_models_join_as_mysql_joins_them() -> None:
    names = pa.array(["Churn", "churn ", "other", None])
    hashes, null = select._hashes("registered_model", [names], fold=True)
    assert hashes[0] == hashes[1] != hashes[2]
    assert null.tolist() == [False, False, False, True]
    plain, _ = select._hashes("registered_model", [names], fold=False)
    assert plain[0] != plain[1]
