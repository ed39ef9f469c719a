"""Write the completion scripts: ``python -m mlflowctl.cli.completions [FOLDER]``.

They are checked in under ``completions/``, and a test compares.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from mlflowctl.cli.main import COMPLETION_VARIABLE

SHELLS = ("bash", "zsh", "fish")


def script(shell: str) -> str:
    """The script for one shell, as the program itself prints it."""
    environ = {**os.environ, COMPLETION_VARIABLE: f"source_{shell}"}
    done = subprocess.run(
        [sys.executable, "-m", "mlflowctl"], env=environ, check=True, capture_output=True, encoding="utf-8"
    )
    return done.stdout.strip("\n") + "\n"


def write(folder: Path) -> None:
    """Write all scripts into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    for shell in SHELLS:
        (folder / f"mlflowctl.{shell}").write_text(script(shell), encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1] if len(sys.argv) > 1 else "completions"))
