"""Help, suggestions, start-up without what is slow to import."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mlflowctl.cli import completions
from mlflowctl.cli.main import COMMANDS
from tests.cli.conftest import PROJECT, Cli, clean_environment

LEAVES = ["", "migrate", "migrate verify", "config", "config show", "config check", "config schema", "config init"]
HEAVY = (
    "rich",
    "mlflow",
    "boto3",
    "botocore",
    "pyarrow",
    "requests",
    "locust",
    "sqlalchemy",
    "alembic",
    "yaml",
    "pydantic",
    "numpy",
)


@pytest.mark.parametrize("leaf", LEAVES)
def test_help(leaf: str, cli: Cli, screen: Callable[[str, str], str]) -> None:
    done = cli(*leaf.split(), "--help")
    assert done.returncode == 0
    assert done.stderr == ""
    assert done.stdout == screen(f"help{'-' if leaf else ''}{leaf.replace(' ', '-')}", done.stdout)


@pytest.mark.parametrize("leaf", LEAVES)
def test_help_imports_nothing_slow(leaf: str, folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "mlflowctl", *leaf.split(), "--help"],
        cwd=folder,
        env=clean_environment(folder.parent),
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    modules = {match[1] for match in re.finditer(r"\|\s+([\w.]+)$", done.stderr, re.MULTILINE)}
    assert "mlflowctl.cli.main" in modules
    assert not {module for module in modules if module.partition(".")[0] in HEAVY}


def test_version_imports_nothing_slow(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "mlflowctl", "--version"],
        cwd=folder,
        env=clean_environment(folder.parent),
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    assert re.fullmatch(r"mlflowctl \S+\nmlflow .+\nPython 3\.\S+\n", done.stdout)
    assert not re.search(r"\|\s+(mlflow|rich|boto3)$", done.stderr, re.MULTILINE)


def test_help_stays_plain_where_ci_would_get_colours(cli: Cli) -> None:
    assert "\x1b" not in cli("migrate", "--help", GITHUB_ACTIONS="true", FORCE_COLOR="1").stdout


def test_no_arguments_show_help(cli: Cli) -> None:
    assert cli().stdout == cli("--help").stdout
    assert cli("config").stdout == cli("config", "--help").stdout


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("migrat", "error: No such command 'migrat'. Did you mean 'migrate'?\n  next: mlflowctl --help\n"),
        ("migrate verfy", "error: No such command 'verfy'. Did you mean 'verify'?\n  next: mlflowctl migrate --help\n"),
        (
            "migrate --form x",
            "error: No such option: --form\n  next: Did you mean --from or --to? mlflowctl migrate --help\n",
        ),
        ("migrate verify --job 2", None),
        ("migrate --from", None),
        ("config show extra", None),
        ("xyzzy", "error: No such command 'xyzzy'.\n  next: mlflowctl --help\n"),
        ("migrate --from postgresql://a:geheim@h/d --bda", None),
    ],
)
def test_typos(arguments: str, expected: str | None, cli: Cli) -> None:
    done = cli(*arguments.split())
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert "geheim" not in done.stderr
    if expected is not None:
        assert done.stderr == expected


def test_every_command_of_the_table_works(cli: Cli) -> None:
    for entry in COMMANDS:
        assert cli(entry.name, "--help").returncode == 0


@pytest.mark.parametrize("shell", completions.SHELLS)
def test_completion_scripts_are_fresh(shell: str) -> None:
    assert (PROJECT / "completions" / f"mlflowctl.{shell}").read_text() == completions.script(shell)


def _complete(folder: Path, words: str) -> list[str]:
    environ = clean_environment(
        folder.parent, _MLFLOWCTL_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD=str(len(words.split(" ")) - 1)
    )
    done = subprocess.run(
        [sys.executable, "-m", "mlflowctl"], cwd=folder, env=environ, capture_output=True, encoding="utf-8", check=True
    )
    return done.stdout.split()


def test_completion(folder: Path) -> None:
    (folder / "mlruns").mkdir()
    (folder / "mlflow.db").touch()
    assert _complete(folder, "mlflowctl ") == ["migrate", "config"]
    assert _complete(folder, "mlflowctl migrate --map") == ["--map-artifacts"]
    assert _complete(folder, "mlflowctl migrate -o ") == ["table", "json", "yaml"]
    assert _complete(folder, "mlflowctl migrate --from ml") == ["mlflow.db", "mlruns/"]
    assert _complete(folder, "mlflowctl migrate ver") == ["verify"]
