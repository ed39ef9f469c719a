"""The schema data and what is asked of it, without a database."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from mlflowctl.stores import schema
from mlflowctl.stores.schema import Chain, Dialect

DIALECTS: tuple[Dialect, ...] = ("sqlite", "postgresql", "mysql")
CHAINS: tuple[Chain, ...] = ("tracking", "auth")
DATA = Path(schema.__file__).with_name("data")


def ids(chain: Chain) -> list[str]:
    return [revision.id for revision in schema.revisions(chain)]


def test_the_tracking_chain_begins_at_base_and_the_auth_chain_at_its_first_script() -> None:
    assert ids("tracking")[:3] == ["base", "451aebb31d03", "90e64c465722"]
    assert ids("auth")[0] == "8606fa83a998"


@pytest.mark.parametrize("chain", CHAINS)
def test_each_revision_follows_the_one_before(chain: Chain) -> None:
    order = schema.revisions(chain)
    assert [revision.down for revision in order] == [None, *(revision.id for revision in order[:-1])]
    assert len({revision.id for revision in order}) == len(order)


@pytest.mark.parametrize("chain", CHAINS)
def test_the_installed_scripts_and_the_data_agree(chain: Chain) -> None:
    shipped = [revision for revision in ids(chain) if revision != schema.BASE]
    installed = list(schema.installed_revisions(chain))
    common = min(len(shipped), len(installed))
    assert shipped[:common] == installed[:common]
    assert schema.installed_head(chain) == installed[-1]


def test_neither_the_import_nor_the_installed_head_imports_mlflow() -> None:
    code = (
        "import sys; from mlflowctl.stores import schema; schema.installed_head('tracking');"
        "schema.schema_at('tracking', 'mysql', '97727af70f4d');"
        "print(sorted({'mlflow', 'sqlalchemy', 'alembic', 'pyarrow'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("version", "revision"),
    [
        ("0.9", "base"),
        ("0.9.1", "base"),
        ("1.0", "90e64c465722"),
        ("1.30.1", "97727af70f4d"),
        ("2.9.2", "acf3f17fdcc7"),
        ("2.13.0", "867495a8f9d4"),
        ("2.13", "5b0e9adcef9c"),
        ("3.0.0", "6953534de441"),
        ("3.0.1", "bda7b8c39065"),
        ("3.1", "bda7b8c39065"),
        ("3.17", "dc11669786a5"),
        ("3.17.99", "dc11669786a5"),
        ("3.18.0", "f4a9b2c7d1e6"),
    ],
)
def test_a_version_stands_at_its_revision(version: str, revision: str) -> None:
    assert schema.head_of_version("tracking", version) == revision


@pytest.mark.parametrize("version", ["0.8", "0.8.2", "99.0", "3", "", "three", "3.17.2.1.4", "v3.17"])
def test_a_version_that_is_none_is_refused_with_the_known_range(version: str) -> None:
    with pytest.raises(ValueError, match=r"0\.9\.0 to 3\.\d+\.\d+"):
        schema.head_of_version("tracking", version)


def test_the_auth_chain_begins_with_2_5() -> None:
    assert schema.head_of_version("auth", "2.5.0") == "8606fa83a998"
    assert schema.head_of_version("auth", "3.17") == "f1a2b3c4d5e6"
    with pytest.raises(ValueError, match=r"2\.5\.0 to"):
        schema.head_of_version("auth", "2.4")


@pytest.mark.parametrize(
    ("revision", "words"),
    [
        ("base", "0.9"),
        ("451aebb31d03", "between 0.9 and 1.0"),
        ("90e64c465722", "1.0"),
        ("97727af70f4d", "1.29 to 2.2"),
        ("867495a8f9d4", "2.13.0"),
        ("5b0e9adcef9c", "2.13.1 to 2.14"),
        ("6953534de441", "3.0.0, 3.1.0"),
        ("bda7b8c39065", "3.0.1, 3.1.1 to 3.1.4"),
        ("75868b020152", "between 3.16 and 3.17"),
        ("dc11669786a5", "3.17.0 to 3.17.2"),
    ],
)
def test_the_versions_of_a_revision_are_put_as_a_person_would(revision: str, words: str) -> None:
    assert schema.versions_of("tracking", revision) == words


def test_every_release_stands_at_a_revision_of_the_data_and_none_goes_back() -> None:
    for column, chain in ((1, "tracking"), (2, "auth")):
        order = ids(chain)  # type: ignore[arg-type]
        heads = [release[column] for release in json.loads((DATA / "releases.json").read_text()) if release[column]]
        places = [order.index(head) for head in heads]
        # 3.1.0 alone was released from an older branch than 3.0.1.
        backward = [(heads[i], heads[i + 1]) for i in range(len(heads) - 1) if places[i] > places[i + 1]]
        assert backward == ([("bda7b8c39065", "6953534de441")] if chain == "tracking" else [])


def test_what_is_unknown_raises_a_key_error() -> None:
    assert not schema.known("tracking", "8606fa83a998")
    with pytest.raises(KeyError):
        schema.schema_at("tracking", "sqlite", "8606fa83a998")
    with pytest.raises(KeyError):
        schema.versions_of("tracking", "8606fa83a998")


@pytest.mark.parametrize("revision", ids("tracking"))
def test_the_dialects_agree_on_tables_columns_and_kinds(revision: str) -> None:
    schemas = [schema.schema_at("tracking", dialect, revision) for dialect in DIALECTS]
    assert schemas[0].tables.keys() == schemas[1].tables.keys() == schemas[2].tables.keys()
    assert schemas[0].seed == schemas[1].seed == schemas[2].seed
    for name in schemas[0].tables:
        sqlite, postgresql, mysql = (
            [(c.name, c.kind, c.computed, c.identity) for c in found.tables[name].columns] for found in schemas
        )
        assert sqlite == postgresql == mysql, name
        keys = {found.tables[name].primary_key for found in schemas}
        assert len(keys) == 1, name


@pytest.mark.parametrize("revision", ids("auth"))
def test_the_dialects_agree_on_the_auth_chain(revision: str) -> None:
    sqlite, postgresql = (schema.schema_at("auth", dialect, revision) for dialect in DIALECTS[:2])
    kinds = [
        {name: [(c.name, c.kind, c.identity) for c in table.columns] for name, table in found.tables.items()}
        for found in (sqlite, postgresql)
    ]
    assert kinds[0] == kinds[1]


def test_no_auth_store_on_mysql_exists() -> None:
    with pytest.raises((KeyError, FileNotFoundError)):
        schema.schema_at("auth", "mysql", "8606fa83a998")


@pytest.mark.parametrize("dialect", DIALECTS)
def test_json_booleans_and_numbers_have_their_logical_kind(dialect: Dialect) -> None:
    tables = schema.schema_at("tracking", dialect, "dc11669786a5").tables
    kinds = {f"{table.name}.{c.name}": c.kind for table in tables.values() for c in table.columns}
    assert kinds["evaluation_dataset_records.inputs"] == "json"
    assert kinds["metrics.is_nan"] == "bool"
    assert kinds["metrics.value"] == "float"
    assert kinds["secrets.encrypted_value"] == "bytes"
    assert kinds["sql_trace_metric_daily_rollups.rollup_day"] == "date"
    assert kinds["spans.content"] == "text"
    experiment_id = tables["experiments"].columns[0]
    assert (experiment_id.kind, experiment_id.identity, experiment_id.bits) == ("int", True, 32)
    (duration,) = [c for c in tables["spans"].columns if c.name == "duration_ns"]
    assert (duration.computed, duration.bits) == (True, 64)


def test_what_mysql_can_hold_is_known_in_bytes() -> None:
    tables = schema.schema_at("tracking", "mysql", "dc11669786a5").tables
    held = {f"{t.name}.{c.name}": (c.length, c.max_bytes) for t in tables.values() for c in t.columns}
    assert held["params.value"] == (8000, None)
    assert held["datasets.dataset_source"] == (None, 65_535)
    assert held["datasets.dataset_schema"] == (None, 16_777_215)
    assert held["spans.content"] == (None, 4_294_967_295)
    assert held["secrets.encrypted_value"] == (None, 65_535)


def test_mysql_ddl_serves_mysql_and_mariadb() -> None:
    for revision in ("base", "97727af70f4d", "dc11669786a5", "f4a9b2c7d1e6"):
        for table in schema.schema_at("tracking", "mysql", revision).tables.values():
            for statement in (*table.create, *table.finish, *table.link):
                # MariaDB's own words: its JSON, the number of an unnamed check, a width that MySQL warns of.
                for own in ("json_valid", "longtext CHARACTER", "`CONSTRAINT_", "int(11)", "ENGINE", "DEFINER"):
                    assert own not in statement, statement


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_trigger_that_guards_secrets_comes_with_them(dialect: Dialect) -> None:
    for revision in ("1bd49d398cd23", "1b5f0d9ad7c1", "dc11669786a5"):
        secrets = schema.schema_at("tracking", dialect, revision).tables["secrets"]
        assert secrets.triggers == ("prevent_secrets_aad_mutation",)
        assert "prevent_secrets_aad_mutation" in secrets.finish[-1]


def test_the_fresh_rows_are_the_default_workspace_alone() -> None:
    order = ids("tracking")
    first = order.index("1b5f0d9ad7c1")
    for place, revision in enumerate(order):
        seed = schema.schema_at("tracking", "sqlite", revision).seed
        assert set(seed) == ({"workspaces"} if place >= first else set()), revision
    (row,) = schema.schema_at("tracking", "postgresql", "dc11669786a5").seed["workspaces"]
    assert row["name"] == "default"
    assert row["trace_archival_location"] is None


def test_rewrites_name_what_the_schemas_have() -> None:
    for chain in CHAINS:
        order = ids(chain)
        for start, end in pairwise(order):
            tables = schema.schema_at(chain, "sqlite", end).tables
            for table, columns in schema.rewritten(chain, start, end).items():
                assert columns - {"*"} <= {c.name for c in tables[table].columns}, (end, table)
            before = schema.schema_at(chain, "sqlite", start).tables
            for old, new in schema.renamed(chain, start, end).items():
                assert old.split(".")[1] in {c.name for c in before[old.split(".")[0]].columns}
                assert new.split(".")[1] in {c.name for c in tables[new.split(".")[0]].columns}


def test_rewrites_add_up_over_the_upgrade_and_end_with_it() -> None:
    whole = schema.rewritten("tracking", "base", "dc11669786a5")
    assert whole["tags"] == {"*"}
    assert whole["jobs"] == {"status", "last_update_time"}
    assert "*" in whole["trace_tags"]
    assert schema.rewritten("tracking", "90e64c465722", "7ac759974ad8") == {}
    assert schema.rewritten("tracking", "dc11669786a5", "dc11669786a5") == {}
    assert set(schema.rewritten("tracking", "dc11669786a5", "f4a9b2c7d1e6")) == {"issues", "issue_categories"}
    assert schema.renamed("tracking", "1bd49d398cd23", "dc11669786a5") == {"jobs.function_fullname": "jobs.job_name"}
    assert schema.renamed("tracking", "d3e4f5a6b7c8", "dc11669786a5") == {}


def test_only_these_columns_were_ever_renamed_or_dropped() -> None:
    gone = set()
    order = ids("tracking")
    for start, end in pairwise(order):
        before, after = (schema.schema_at("tracking", "sqlite", revision).tables for revision in (start, end))
        assert set(before) <= set(after), end
        for name, table in before.items():
            left = {c.name for c in table.columns} - {c.name for c in after[name].columns}
            gone |= {f"{name}.{column}" for column in left}
    assert gone == {"jobs.function_fullname", "spans.dimension_attributes"}


def test_the_tables_of_every_revision_are_known_at_once() -> None:
    assert schema.tables_ever("auth") == schema.schema_at("auth", "sqlite", ids("auth")[-1]).tables.keys()
    assert {"experiments", "trace_tags", "skills"} <= schema.tables_ever("tracking")
    assert schema.version_table("tracking") == "alembic_version"
    assert schema.version_table("auth") == "alembic_version_auth"


def test_the_data_is_small_and_has_one_definition_a_line() -> None:
    files = sorted(DATA.glob("*.json"))
    assert sum(file.stat().st_size for file in files) < 1_000_000
    for file in files:
        if file.name != "releases.json":
            for line in file.read_text().splitlines():
                assert line.count('"primary_key"') <= 1


def test_each_definition_lies_under_the_hash_of_its_content() -> None:
    """Data that was mended by hand would not: it comes from MLflow's scripts alone."""
    for file in DATA.glob("*-*.json"):
        data = json.loads(file.read_text())
        used = {digest for change in data["revisions"].values() for digest in change["set"].values()}
        assert used == set(data["pool"]), file.name
        for digest, definition in data["pool"].items():
            name = definition.pop("name")
            text = json.dumps([name, definition], sort_keys=True)
            assert hashlib.sha256(text.encode()).hexdigest().startswith(digest), (file.name, name)
