"""Runs the engine as the command line does, without a screen."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from mlflowctl.core.events import drive
from mlflowctl.migrate.api import MigrateResult, MigrateSettings, VerifyResult, VerifySettings
from mlflowctl.migrate.run import migrate
from mlflowctl.migrate.verify import verify


def run_migrate(source: str | Path, target: str, **settings: Any) -> MigrateResult:
    """Migrate; raises what the engine raises. A rejects file that nobody names lies in a folder of its own."""
    settings.setdefault("rejects_file", str(Path(tempfile.mkdtemp(prefix="mlflowctl-t-")) / "rejects.jsonl"))
    return drive(migrate(MigrateSettings(source=_uri(source), target=target, **settings)), lambda event: None)


def run_verify(source: str | Path, target: str, **settings: Any) -> VerifyResult:
    """Verify; raises what the engine raises."""
    return drive(verify(VerifySettings(source=_uri(source), target=target, **settings)), lambda event: None)


def _uri(place: str | Path) -> str:
    if isinstance(place, Path):
        return f"sqlite:///{place}" if place.suffix == ".db" else str(place)
    return place
