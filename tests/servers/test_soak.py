"""A thousand kills: ``pytest -n 2 -m soak tests/servers/test_soak.py``; the result is printed and kept in benchmarks/README.md.

Each target is killed one to six times at seeded instants before the command is let come to its end; then it must be as
if nothing had happened. ``MLFLOWCTL_SOAK_KILLS`` sets another number of kills.
"""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.fingerprint import difference, fingerprint
from tests.faults.killer import Instant, disturb
from tests.servers.test_kills import COPY, LIFT, Lab, lab, on

__all__ = ["lab", "on"]

pytestmark = [pytest.mark.soak, pytest.mark.slow, pytest.mark.timeout(0)]

KILLS = int(os.environ.get("MLFLOWCTL_SOAK_KILLS", "1000"))
METRICS = 60_000


@pytest.mark.parametrize(
    ("source", "kind", "phases", "share"),
    [
        pytest.param("3.17", "sqlite", COPY, 0.27, id="sqlite"),
        pytest.param("1.30", "sqlite", (*COPY, *LIFT * 3), 0.10, id="sqlite-upgrade"),
        pytest.param("3.17", "postgresql", COPY, 0.33, id="postgresql", marks=pytest.mark.postgres),
        pytest.param("1.30", "postgresql", (*COPY, *LIFT * 3), 0.10, id="pg-upgrade", marks=pytest.mark.postgres),
        pytest.param("2.22", "mysql", COPY, 0.19, id="mysql", marks=pytest.mark.mysql),
        pytest.param("3.16", "mysql", LIFT, 0.01, id="mysql-upgrade", marks=pytest.mark.mysql),
    ],
)
def test_a_thousand_kills(
    source: str, kind: str, phases: tuple[str, ...], share: float, on: Callable[[str], Lab], tmp_path: Path
) -> None:
    lab = on(kind)
    lifts = phases[-1] in LIFT
    case = lab.case(source, kind, upgrade=lifts, metrics=2_000 if lifts and kind == "mysql" else METRICS)
    randomly = random.Random(f"{source} {kind}")
    wanted, hit, targets, wrong = round(KILLS * share), Counter[str](), 0, []
    while sum(hit.values()) < wanted:
        instants = [Instant.of(randomly.choice(phases), randomly) for _ in range(randomly.randint(1, 6))]
        target = lab.places.new(kind)
        story = disturb(case.arguments(target), lab.folder, instants, case.lasting)
        targets += 1
        hit.update(kill.phase for kill in story.kills)
        ended = story.last
        differs = difference(case.wanted, fingerprint(target, case.volatile)) if ended.code == 0 else []
        if ended.code != 0 or differs:
            wrong.append({"instants": [str(i) for i in instants], "said": ended.said(), "differs": differs})
            if len(wrong) >= 5:
                break
        else:
            lab.places.drop(target)
    summary = {"source": source, "target": kind, "kills": dict(hit), "targets": targets, "wrong": len(wrong)}
    print(json.dumps(summary))
    Path(tmp_path / "soak.json").write_text(json.dumps({**summary, "cases": wrong}, indent=1), encoding="utf-8")
    assert wrong == []
