"""The house rules: import contracts, types, lint."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOLS = {
    "import contracts": [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"],
    "types": [sys.executable, "-m", "mypy"],
    "lint": [sys.executable, "-m", "ruff", "check"],
    "format": [sys.executable, "-m", "ruff", "format", "--check"],
}


@pytest.mark.parametrize("name", TOOLS)
def test_house_rule(name: str) -> None:
    done = subprocess.run(TOOLS[name], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
