"""The command line as a person meets it: a process, a clean environment, a folder of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Cli = Callable[..., "subprocess.CompletedProcess[str]"]
PROJECT = Path(__file__).parents[2]


def clean_environment(folder: Path, **more: str) -> dict[str, str]:
    """An environment in which nothing of the machine's configuration counts."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR", "SYSTEMROOT") if name in os.environ}
    return {
        **kept,
        "HOME": str(folder / "home"),
        "XDG_CONFIG_HOME": str(folder / "home/config"),
        "XDG_STATE_HOME": str(folder / "home/state"),
        "PYTHONPATH": str(PROJECT),
        "PYTHONUTF8": "1",
        "COLUMNS": "80",
        **more,
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The current folder of ``cli``."""
    here = tmp_path / "here"
    here.mkdir()
    return here


@pytest.fixture
def cli(folder: Path) -> Cli:
    """Run ``mlflowctl`` in ``folder`` without a terminal."""

    def run(*arguments: str, input: str | None = None, **environ: str) -> subprocess.CompletedProcess[str]:  # noqa: A002
        return subprocess.run(
            [sys.executable, "-m", "mlflowctl", *arguments],
            cwd=folder,
            env=clean_environment(folder.parent, **environ),
            input=input,
            stdin=subprocess.DEVNULL if input is None else None,
            capture_output=True,
            encoding="utf-8",
            timeout=120,
            check=False,
        )

    return run


@pytest.fixture
def screen() -> Callable[[str, str], str]:
    """The golden file of a whole screen, to be compared with the text; UPDATE_SCREENS=1 writes the text there first."""

    def golden(name: str, text: str) -> str:
        path = Path(__file__).parent / "screens" / f"{name}.txt"
        if os.environ.get("UPDATE_SCREENS"):
            path.write_text(text, encoding="utf-8")
        return path.read_text(encoding="utf-8")

    return golden
