"""Claim: the sample migration of README's first command takes at most 1.5 s once installed; help opens far faster."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from measure import measure, median

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        tool = [sys.executable, "-m", "mlflowctl"]
        sample = ROOT / "tests" / "stores" / "sample" / "mlruns"
        commands = {
            "bare interpreter": [sys.executable, "-c", "pass"],
            "mlflowctl --help": [*tool, "--help"],
            "mlflowctl migrate --help": [*tool, "migrate", "--help"],
            "sample migration": [*tool, "migrate", "--from", str(sample)],
            "import mlflow (peer)": [sys.executable, "-c", "import mlflow"],
        }
        for name, command in commands.items():
            runs = []
            for _ in range(5):
                (Path(folder) / "mlflow.db").unlink(missing_ok=True)
                runs.append(measure(command, cwd=Path(folder)))
                assert runs[-1].exit_code == 0
            print(f"{name:28} wall {median(runs, 'wall'):6.2f} s  cpu {median(runs, 'cpu'):6.2f} s")


if __name__ == "__main__":
    main()
