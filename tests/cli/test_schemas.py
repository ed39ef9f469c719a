"""Every document has a JSON Schema, and the examples keep it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import referencing

import mlflowctl.cli
from mlflowctl.cli import config, migrate, run
from mlflowctl.core.errors import TargetError
from mlflowctl.migrate.api import MigrateResult, VerifyResult
from tests.cli.conftest import Cli
from tests.cli.examples import EXAMPLES

FOLDER = Path(mlflowctl.cli.__file__).parent / "schemas"


def validator(schema: str) -> jsonschema.Draft202012Validator:
    """The validator for the documents of ``schema``."""
    contents = {path.name: json.loads(path.read_text()) for path in FOLDER.glob("*.json")}
    resources = [(name, referencing.Resource.from_contents(content)) for name, content in contents.items()]
    registry: Any = referencing.Registry().with_resources(resources)
    return jsonschema.Draft202012Validator(contents[schema.replace("/", ".") + ".json"], registry=registry)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.json")), ids=lambda path: path.name)
def test_schemas_are_schemas(path: Path) -> None:
    content = json.loads(path.read_text())
    jsonschema.Draft202012Validator.check_schema(content)
    assert content["$id"] == path.name


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples(name: str) -> None:
    assert list(validator(EXAMPLES[name]["schema"]).iter_errors(EXAMPLES[name])) == []


def test_what_the_engine_gives_keeps_the_schema() -> None:
    verified = MigrateResult(
        source={"uri": "x", "kind": "files", "revision": "r", "snapshot": "none"},
        target={"uri": "x", "kind": "sqlite", "revision": "r", "mlflow_version": None},
    )
    validator("mlflowctl.migrate.result/v1").validate(verified.document())
    validator("mlflowctl.verify.result/v1").validate(VerifyResult().document())


@pytest.mark.parametrize(
    "command", [migrate.MIGRATE_COMMAND, migrate.VERIFY_COMMAND, *(it for _, it, _ in config.COMMANDS[:2])]
)
def test_a_failure_keeps_the_schema_too(command: run.Command) -> None:
    error = TargetError("No.")
    error.result = MigrateResult() if command is migrate.MIGRATE_COMMAND else None  # type: ignore[attr-defined]
    document = run._failure(command, error)
    del document["_error"]
    if not command.schema.startswith("mlflowctl.config.check"):
        validator(command.schema).validate(document)


def test_a_wrong_document_is_noticed() -> None:
    with pytest.raises(jsonschema.ValidationError):
        validator("mlflowctl.migrate.result/v1").validate({**EXAMPLES["migrate-verified"], "status": "fine"})


def test_config_documents(cli: Cli) -> None:
    for command in ("show", "check"):
        document = json.loads(cli("config", command, "-o", "json").stdout)
        validator(f"mlflowctl.config.{command}/v1").validate(document)
