"""Layers, origins and problems."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from mlflowctl.config import layers, options
from mlflowctl.config.layers import Layer, Settings
from mlflowctl.config.schema import json_schema, template
from mlflowctl.core.errors import ConfigError, UsageError


def _resolve(
    folder: Path, environ: dict[str, str] | None = None, flags: dict[str, Any] | None = None, **words: Any
) -> Settings:
    environ = {"XDG_CONFIG_HOME": str(folder / "xdg"), **(environ or {})}
    return layers.resolve(flags or {}, environ=environ, folder=folder, **words)


def _lines(settings: Settings) -> list[str]:
    return [problem.line() for problem in settings.problems]


def test_every_layer_gives_its_origin(tmp_path: Path) -> None:
    (tmp_path / "mlflowctl.yaml").write_text("output: yaml\nmigrate:\n  jobs: 3\n  reroot-artifacts: s3://b\n")
    (tmp_path / ".env").write_text(
        "# c\nMLFLOWCTL_MIGRATE_TARGET_VERSION=3.1\nMLFLOWCTL_MIGRATE_JOBS=9\n\n\nexport MLFLOW_TRACKING_URI='x y'\n"
    )
    (tmp_path / "xdg/mlflowctl").mkdir(parents=True)
    (tmp_path / "xdg/mlflowctl/config.yaml").write_text("progress: none\noutput: json\n")
    settings = _resolve(tmp_path, {"MLFLOWCTL_MIGRATE_JOBS": "5"}, {"migrate.scan": True})
    assert not settings.problems
    shown = {key: (value.value, value.origin) for key, value in settings.values.items() if value.origin != "default"}
    assert shown == {
        "output": ("yaml", "mlflowctl.yaml:1:9"),
        "progress": ("none", f"{tmp_path}/xdg/mlflowctl/config.yaml:1:11"),
        "migrate.jobs": (5, "env MLFLOWCTL_MIGRATE_JOBS"),
        "migrate.scan": (True, "flag --scan"),
        "migrate.target-version": ("3.1", ".env:2"),
        "migrate.reroot-artifacts": ("s3://b", "mlflowctl.yaml:4:21"),
        "migrate.from": ("x y", ".env:6"),
    }
    assert settings.layer(options.FROM) is Layer.MLFLOW


def test_the_environment_is_not_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text("MLFLOWCTL_OUTPUT=json\nELSE=1\n")
    monkeypatch.delenv("ELSE", raising=False)
    settings = _resolve(tmp_path)
    assert settings[options.OUTPUT] == "json"
    assert settings.environ["ELSE"] == "1"
    import os

    assert "ELSE" not in os.environ


def test_an_empty_variable_says_nothing(tmp_path: Path) -> None:
    settings = _resolve(tmp_path, {"MLFLOWCTL_OUTPUT": "", "MLFLOW_TRACKING_URI": ""})
    assert settings[options.OUTPUT] == "table"
    assert settings[options.FROM] is None


def test_an_empty_value_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "mlflowctl.yaml").write_text("output:\nmigrate:\n")
    settings = _resolve(tmp_path)
    assert not settings.problems
    assert settings[options.OUTPUT] == "table"


def test_all_problems_at_once_with_places_and_suggestions(tmp_path: Path) -> None:
    (tmp_path / "mlflowctl.yaml").write_text(
        "output: jsn\nprogres: none\njobs: 3\nquiet: maybe\nquiet: true\nmigrate:\n  jobs: many\n  target_version: 3\n"
        "  map-artifacts: [a=b, c]\n  scan: [true]\n  experiment-ids: {a: b}\n  jobs: 2\nmigrat:\n  x: 1\nlog-file: [x]\n"
    )
    settings = _resolve(tmp_path, {"MLFLOWCTL_MIGRATE_JOSB": "3", "MLFLOWCTL_OUTPUT": "xml", "MLFLOWCTL_HOMEPAGE": "x"})
    assert sorted(_lines(settings)) == sorted(
        [
            "env MLFLOWCTL_HOMEPAGE: MLFLOWCTL_HOMEPAGE is no option of mlflowctl. mlflowctl config schema lists all options.",
            "env MLFLOWCTL_MIGRATE_JOSB: MLFLOWCTL_MIGRATE_JOSB is no option of mlflowctl. Did you mean MLFLOWCTL_MIGRATE_JOBS?",
            "env MLFLOWCTL_OUTPUT: 'xml' is not one of table, json, yaml.",
            "mlflowctl.yaml:1:9: 'jsn' is not one of table, json, yaml. Did you mean 'json'?",
            "mlflowctl.yaml:2:1: Unknown key 'progres'. Did you mean 'progress'?",
            "mlflowctl.yaml:3:1: Unknown key 'jobs'. Did you mean 'migrate.jobs'?",
            "mlflowctl.yaml:4:8: 'maybe' is neither true nor false.",
            "mlflowctl.yaml:5:1: 'quiet' stands twice, first in line 4. Remove one of the two.",
            "mlflowctl.yaml:7:9: 'many' is not a whole number.",
            "mlflowctl.yaml:8:3: Unknown key 'migrate.target_version'. Did you mean 'target-version'?",
            "mlflowctl.yaml:9:24: 'c' is not of the form OLD=NEW.",
            "mlflowctl.yaml:10:9: A single value is expected.",
            "mlflowctl.yaml:11:19: A single value is expected.",
            "mlflowctl.yaml:12:3: 'jobs' stands twice, first in line 7. Remove one of the two.",
            "mlflowctl.yaml:13:1: Unknown key 'migrat'. Did you mean 'migrate'?",
            "mlflowctl.yaml:15:11: A single value is expected.",
        ]
    )
    with pytest.raises(ConfigError) as caught:
        settings.raise_problems()
    assert "more problems: mlflowctl config check" in (caught.value.next_step or "")
    assert len(caught.value.details) == 15
    assert [p.where for p in settings.problems if p.deferred] == ["env MLFLOWCTL_HOMEPAGE"]


def test_a_stranger_variable_does_not_stop_work_but_check_names_it(tmp_path: Path) -> None:
    settings = _resolve(tmp_path, {"MLFLOWCTL_HOMEPAGE": "x", "MLFLOWCTL_WILD_STORES": "y"})
    settings.raise_problems()
    assert len(settings.errors(strict=True)) == 1


@pytest.mark.parametrize("value", ["0", "-1", "x", "1.5"])
def test_a_bad_flag_is_a_usage_error(tmp_path: Path, value: str) -> None:
    settings = _resolve(tmp_path, {"MLFLOWCTL_OUTPUT": "bad"}, {"migrate.jobs": value})
    with pytest.raises(UsageError) as caught:
        settings.raise_problems()
    assert caught.value.where == "--jobs"


def test_a_literal_secret_is_refused_as_a_flag_and_never_repeated(tmp_path: Path) -> None:
    settings = _resolve(tmp_path, flags={"migrate.to-password": "hunter2"})
    with pytest.raises(UsageError, match="No secret is taken as a flag's value") as caught:
        settings.raise_problems()
    assert "hunter2" not in str(caught.value.document())
    assert settings[options.TO_PASSWORD] is None


def test_a_literal_secret_in_a_file_is_a_warning_in_a_variable_it_is_fine(tmp_path: Path) -> None:
    (tmp_path / "mlflowctl.yaml").write_text("migrate:\n  to-password: hunter2\n  from-password: env://PW\n")
    settings = _resolve(tmp_path, {"MLFLOWCTL_MIGRATE_AUTH_TO_PASSWORD": "hunter2"})
    (warning,) = settings.problems
    assert warning.warning
    assert warning.where == "mlflowctl.yaml:2:16"
    assert settings.values["migrate.to-password"].shown == "***"
    assert settings.values["migrate.from-password"].shown == "env://PW"
    assert settings.values["migrate.auth-to-password"].shown == "***"


def test_uris_are_shown_redacted(tmp_path: Path) -> None:
    settings = _resolve(
        tmp_path, flags={"migrate.to": "mysql://a:pw@h/d", "migrate.map-artifacts": ["s3://a=http://u:p@h"]}
    )
    assert settings.values["migrate.to"].shown == "mysql://a:***@h/d"
    assert settings.values["migrate.map-artifacts"].shown == ["s3://a=http://u:***@h"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a=b", (("a", "b"),)),
        ("a=b; c=d=e ;", (("a", "b"), ("c", "d=e"))),
        ('["a=b", "c;d=e"]', (("a", "b"), ("c;d", "e"))),
    ],
)
def test_lists_in_variables(tmp_path: Path, text: str, expected: Any) -> None:
    settings = _resolve(tmp_path, {"MLFLOWCTL_MIGRATE_MAP_ARTIFACTS": text})
    assert not settings.problems
    assert settings[options.MAP_ARTIFACTS] == expected


@pytest.mark.parametrize("text", ["a", "[a=b]", "[1]", "a=", "=b"])
def test_broken_lists_in_variables(tmp_path: Path, text: str) -> None:
    assert len(_resolve(tmp_path, {"MLFLOWCTL_MIGRATE_MAP_ARTIFACTS": text}).problems) == 1


@pytest.mark.parametrize("text", ["[a=b, c=d]", "{a: b, c: d}", "\n    - a=b\n    - c=d"])
def test_lists_in_files(tmp_path: Path, text: str) -> None:
    (tmp_path / "mlflowctl.yaml").write_text(f"migrate:\n  map-artifacts: {text}\n")
    settings = _resolve(tmp_path)
    assert not settings.problems
    assert settings[options.MAP_ARTIFACTS] == (("a", "b"), ("c", "d"))


@pytest.mark.parametrize("name", ["mlflowctl.yaml", "mlflowctl.yml", "mlflowctl.json", "mlflowctl.ini"])
def test_every_format_is_found(tmp_path: Path, name: str) -> None:
    text = {"json": '{"output": "json"}', "ini": "output = json"}.get(name.rpartition(".")[2], "output: json")
    (tmp_path / name).write_text(text)
    settings = _resolve(tmp_path)
    assert settings[options.OUTPUT] == "json"
    assert settings.files == [name]


def test_a_second_project_file_is_pointed_out(tmp_path: Path) -> None:
    (tmp_path / "mlflowctl.yaml").write_text("output: json")
    (tmp_path / "mlflowctl.ini").write_text("output = yaml")
    settings = _resolve(tmp_path)
    assert settings[options.OUTPUT] == "json"
    assert [p.where for p in settings.warnings()] == ["mlflowctl.ini"]


def test_config_takes_the_place_of_the_project_file(tmp_path: Path) -> None:
    (tmp_path / "mlflowctl.yaml").write_text("output: json\nquiet: true")
    (tmp_path / "other.yaml").write_text("output: yaml")
    for settings in (
        _resolve(tmp_path, config="other.yaml"),
        _resolve(tmp_path, {"MLFLOWCTL_CONFIG": str(tmp_path / "other.yaml")}),
    ):
        assert settings[options.OUTPUT] == "yaml"
        assert settings[options.QUIET] is False
    settings = _resolve(tmp_path, config="absent.yaml")
    assert _lines(settings) == ["absent.yaml: That configuration file does not exist."]


def test_a_broken_env_line_of_others_is_ignored_and_one_of_ours_is_not(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("this is = no 'line\nMLFLOWCTL_OUTPUT='json\n")
    settings = _resolve(tmp_path)
    assert all(problem.where.startswith(".env") for problem in settings.problems)


def test_the_registry_is_sound() -> None:
    keys = [option.key for option in options.OPTIONS]
    assert len(set(keys)) == len(keys)
    assert len({option.variable for option in options.OPTIONS}) == len(keys)
    assert {option.section for option in options.OPTIONS} == {"", *(name for name, _ in options.SECTIONS)}
    assert options.JOBS.variable == "MLFLOWCTL_MIGRATE_JOBS"
    for option in options.OPTIONS:
        assert option.help.endswith("."), option.key
        default = option.default_value()
        if isinstance(default, str):
            assert option.parse(default) == default


def test_the_schema_is_valid_and_accepts_what_the_layers_accept() -> None:
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    good = {
        "output": "json",
        "verbose": 1,
        "migrate": {"jobs": 4, "map-artifacts": {"a": "b"}, "to-password": "env://X"},
    }
    jsonschema.validate(good, schema)
    for bad in (
        {"outptu": "json"},
        {"output": "xml"},
        {"migrate": {"jobs": 0}},
        {"migrate": {"to-password": "literal"}},
    ):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(bad, schema)


def test_the_template_changes_nothing_commented_or_not(tmp_path: Path) -> None:
    text = template()
    assert jsonschema.Draft202012Validator(json_schema()).is_valid(yaml.safe_load(text))
    (tmp_path / "mlflowctl.yaml").write_text(text)
    settings = _resolve(tmp_path)
    assert not settings.problems
    assert {value.layer for value in settings.values.values()} == {Layer.DEFAULT}
    lines = [
        line.replace("#", "", 1) if line.strip().startswith("#") and not line.strip().startswith("# ") else line
        for line in text.splitlines()
    ]
    (tmp_path / "mlflowctl.yaml").write_text("\n".join(lines))
    settings = _resolve(tmp_path)
    assert not settings.problems
    for value in settings.values.values():
        if value.option is not options.MAP_ARTIFACTS:  # a list has no default to show, so an example stands there
            assert value.value == value.option.default_value(), value
