"""``mlflowctl config``."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.cli.conftest import Cli, clean_environment


def _write(folder: Path) -> None:
    (folder / "mlflowctl.yaml").write_text(
        "quiet: false\nmigrate:\n  from: mysql://ada:geheim@db/ml\n  jobs:  4\n  to-password: geheim2\n  map-artifacts:\n    - /a=s3://b\n"
    )
    (folder / ".env").write_text("# shared\nMLFLOWCTL_MIGRATE_TARGET_VERSION=3.1\n")


def test_show(cli: Cli, folder: Path, screen: Callable[[str, str], str]) -> None:
    _write(folder)
    done = cli("config", "show", "--progress", "plain", MLFLOWCTL_MIGRATE_TO="env://TARGET")
    assert done.returncode == 0
    assert done.stdout == screen("config-show", done.stdout)
    assert "warning: mlflowctl.yaml:5:16: migrate.to-password holds the secret itself." in done.stderr
    assert "geheim" not in done.stdout + done.stderr


def test_show_in_colour(cli: Cli, folder: Path) -> None:
    _write(folder)
    plain = cli("config", "show", MLFLOWCTL_MIGRATE_TO="env://TARGET")
    done = cli("config", "show", MLFLOWCTL_MIGRATE_TO="env://TARGET", FORCE_COLOR="1")
    assert "\x1b[" in done.stdout
    assert "\x1b[" not in plain.stdout
    assert "\x1b[" not in cli("config", "show", FORCE_COLOR="1", NO_COLOR="1").stdout


def test_show_as_json_and_yaml(cli: Cli, folder: Path) -> None:
    _write(folder)
    document = json.loads(cli("config", "show", "-o", "json", "-q").stdout)
    assert document["schema"] == "mlflowctl.config.show/v1"
    assert (document["exit_code"], document["error"], document["files"]) == (0, None, ["mlflowctl.yaml"])
    values = {value["name"]: value for value in document["values"]}
    assert values["output"] == {"name": "output", "value": "json", "origin": "flag --output", "layer": "flag"}
    assert values["migrate.jobs"] == {
        "name": "migrate.jobs",
        "value": 4,
        "origin": "mlflowctl.yaml:4:10",
        "layer": "project",
    }
    assert values["migrate.from"]["value"] == "mysql://ada:***@db/ml"
    assert values["migrate.to-password"]["value"] == "***"
    assert values["migrate.target-version"]["origin"] == ".env:2"
    again = yaml.safe_load(cli("config", "show", "--output", "yaml", "--quiet").stdout)
    assert len(again["values"]) == len(document["values"])


def test_a_flag_before_the_command_counts_and_the_inner_one_wins(cli: Cli) -> None:
    assert json.loads(cli("-o", "json", "config", "show").stdout)["exit_code"] == 0
    assert yaml.safe_load(cli("-o", "json", "config", "show", "-o", "yaml").stdout)["exit_code"] == 0


def test_show_with_errors_names_the_first_and_exits_3(cli: Cli, folder: Path) -> None:
    (folder / "mlflowctl.yaml").write_text("outptu: json\nmigrate:\n  jobs: x\n")
    done = cli("config", "show")
    assert done.returncode == 3
    assert done.stderr == (
        "error: Unknown key 'outptu'.\n  where: mlflowctl.yaml:1:1\n"
        "  next: Did you mean 'output'? (1 more problem: mlflowctl config check)\n"
    )
    document = json.loads(cli("config", "show", "-o", "json").stdout)
    assert document["exit_code"] == 3
    assert document["error"]["kind"] == "config"


def test_check(cli: Cli, folder: Path, screen: Callable[[str, str], str]) -> None:
    assert cli("config", "check").stdout == "No errors; no configuration file.\n"
    (folder / "mlflowctl.yaml").write_text("outptu: json\nmigrate:\n  jobs: x\n  jobs: 3\n  to-password: geheim\n")
    done = cli("config", "check", MLFLOWCTL_OUTPU="x", MLFLOWCTL_SOMETHING="y")
    assert done.returncode == 3
    assert done.stdout == screen("config-check", done.stdout)
    assert "geheim" not in done.stdout
    document = json.loads(cli("config", "check", "-o", "json").stdout)
    assert document["exit_code"] == 3
    assert [problem["where"] for problem in document["problems"]] == [
        f"mlflowctl.yaml:{p}" for p in ("1:1", "4:3", "3:9", "5:16")
    ]


def test_check_of_a_broken_file(cli: Cli, folder: Path) -> None:
    (folder / "mlflowctl.yaml").write_text("a: [\n")
    done = cli("config", "check")
    assert done.returncode == 3
    assert done.stdout.startswith("mlflowctl.yaml:2:1: error: That is not YAML")


def test_check_of_a_named_file(cli: Cli, folder: Path) -> None:
    assert cli("config", "check", "--config", "none.yaml").returncode == 3
    (folder / "x.ini").write_text("output = json")
    assert json.loads(cli("config", "check", "--config", "x.ini").stdout)["files"] == ["x.ini"]


def test_a_bad_flag_is_usage_not_configuration(cli: Cli) -> None:
    done = cli("config", "check", "-o", "jsn")
    assert done.returncode == 2
    assert (
        done.stderr
        == "error: 'jsn' is not one of table, json, yaml.\n  where: --output\n  next: Did you mean 'json'?\n"
    )


def test_schema(cli: Cli) -> None:
    schema = json.loads(cli("config", "schema").stdout)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["properties"]["migrate"]["properties"]["jobs"]["minimum"] == 1
    assert yaml.safe_load(cli("config", "schema", "-o", "yaml").stdout) == schema


def test_schema_works_with_a_broken_configuration(cli: Cli, folder: Path) -> None:
    (folder / "mlflowctl.yaml").write_text("a: [\n")
    assert cli("config", "schema").returncode == 0


def test_init(cli: Cli, folder: Path, screen: Callable[[str, str], str]) -> None:
    done = cli("config", "init")
    assert done.returncode == 0
    text = (folder / "mlflowctl.yaml").read_text()
    assert text == screen("config-init-file", text)
    assert cli("config", "check").returncode == 0


@pytest.mark.parametrize("arguments", [(), ("--no-input",)])
def test_init_overwrites_nothing_unasked(cli: Cli, folder: Path, arguments: tuple[str, ...]) -> None:
    (folder / "mlflowctl.yaml").write_text("quiet: true\n")
    done = cli("config", "init", *arguments)
    assert done.returncode == 2
    assert "--yes" in done.stderr
    assert (folder / "mlflowctl.yaml").read_text() == "quiet: true\n"
    document = json.loads(cli("config", "init", "-o", "json", *arguments).stdout)
    assert (document["exit_code"], document["error"]["kind"]) == (2, "not_confirmed")
    assert cli("config", "init", "--yes").returncode == 0
    assert "quiet: false" in (folder / "mlflowctl.yaml").read_text()


@pytest.mark.parametrize(("answer", "code"), [("y\n", 0), ("\n", 2), ("nope\n", 2)])
def test_init_asks_on_a_terminal(folder: Path, answer: str, code: int) -> None:
    (folder / "mlflowctl.yaml").write_text("quiet: true\n")
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "mlflowctl", "config", "init"],
        cwd=folder,
        env=clean_environment(folder.parent, TERM="xterm"),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    seen = b""
    while b"[y/N]" not in seen:
        seen += os.read(ours, 1024)
    os.write(ours, answer.encode())
    try:
        while data := os.read(ours, 1024):
            seen += data
    except OSError:  # how Linux says that the other end has closed
        pass
    os.close(ours)
    assert process.wait(timeout=30) == code
    assert b"mlflowctl.yaml exists. Overwrite it?" in seen
    assert ("quiet: false" in (folder / "mlflowctl.yaml").read_text()) == (code == 0)


def test_out_file(cli: Cli, folder: Path) -> None:
    done = cli("config", "show", "-o", "json", "--out-file", "r.json")
    assert (done.returncode, done.stdout) == (0, "")
    assert json.loads((folder / "r.json").read_text())["exit_code"] == 0
    done = cli("config", "show", "-o", "json", "--out-file", "r.json")
    assert done.returncode == 2
    assert "--yes" in done.stderr
    assert cli("config", "show", "--out-file", "r.json", "-y").returncode == 0
    assert (folder / "r.json").read_text().startswith("option")
    assert cli("config", "show", "--out-file", "none/r.json").returncode == 2
    assert cli("config", "show", "--out-file", ".").returncode == 2
