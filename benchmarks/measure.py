"""Runs a command and measures it as a whole: wall and CPU seconds, peak memory of its process tree."""

from __future__ import annotations

import resource
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

_SAMPLE_SECONDS = 0.05


@dataclass(frozen=True)
class Figures:
    """``memory_mb``: the peak of the sum of proportional set sizes (PSS) over all processes of the tree, sampled."""

    wall: float
    cpu: float
    memory_mb: float
    exit_code: int


def measure(command: list[str], cwd: Path | None = None, env: dict[str, str] | None = None) -> Figures:
    """Run ``command`` to its end; its output goes to stderr when it fails."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    process = subprocess.Popen(
        command, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )
    peak = 0
    stopped = threading.Event()

    def sample() -> None:
        nonlocal peak
        while not stopped.wait(_SAMPLE_SECONDS):
            peak = max(peak, sum(_pss_kb(pid) for pid in _tree(process.pid)))

    sampler = threading.Thread(target=sample, daemon=True)
    sampler.start()
    output, _ = process.communicate()
    wall = time.perf_counter() - started
    stopped.set()
    sampler.join()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if process.returncode:
        sys.stderr.write(output.decode(errors="replace")[-3000:])
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Figures(wall, cpu, peak / 1024, process.returncode)


def _tree(root: int) -> list[int]:
    """The process and all below it: an upgrade runs in a session of its own."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                # The second field is a name in parentheses that may hold anything.
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            children.setdefault(parent, []).append(int(entry.name))
    members = [root]
    for member in members:
        members.extend(children.get(member, ()))
    return members


def _pss_kb(pid: int) -> int:
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1])
    except OSError:
        pass
    return 0


def median(figures: list[Figures], name: str) -> float:
    """The median of one figure over several runs."""
    values = sorted(getattr(f, name) for f in figures)
    return float(values[len(values) // 2])
