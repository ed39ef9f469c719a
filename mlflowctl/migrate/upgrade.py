"""Runs MLflow's own upgrade scripts on a proven copy, in a child process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from mlflowctl import children
from mlflowctl.core import signals
from mlflowctl.core.errors import TargetError
from mlflowctl.core.events import Engine, Note, PhaseAdvanced, PhaseFinished, PhaseStarted
from mlflowctl.core.redact import redact_text
from mlflowctl.stores.sql.backend import DISK_FULL, GONE, lost

if TYPE_CHECKING:
    from mlflowctl.stores.sql.target import Target


def lift(target: Target, revision: str, revisions: int) -> Engine[None]:
    """Lift the target to ``revision``; each of MLflow's ``revisions`` is one transaction where the database has them.

    Raises:
        TargetError: a script failed (kind ``upgrade_failed``), the target went away, or its disk is full.
        Interrupted: after the revision at hand.
    """
    yield PhaseStarted("upgrade", "revisions", revisions or None)
    started = time.perf_counter()
    target.release()
    # The URL holds a password, so it travels in the child's environment, which only its owner reads.
    environment = {**os.environ, "MLFLOWCTL_CHILD_URL": target.child_url()}
    script = Path(children.__file__).with_name("upgrade.py")
    command = [sys.executable, str(script), "--chain", target.chain, "--to", revision, "--while-stdin"]
    # A file takes any amount of words; a pipe that nobody reads meanwhile would stop the child.
    spoken = tempfile.TemporaryFile(mode="w+")  # noqa: SIM115 - closed when its words are read
    child = subprocess.Popen(
        command,
        env=environment,
        # Never written to: it ends when this process does, however it does, and the child with it.
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=spoken,
        text=True,
        start_new_session=True,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    done = 0
    failure: str | None = None
    try:
        for line in child.stdout:
            event = json.loads(line)
            if event["event"] == "revision":
                done += 1
                yield PhaseAdvanced("upgrade", done, event["id"])
                # Here one just ended.
                signals.check("Run the same command again: it goes on with the next revision.")
            elif event["event"] == "note":
                yield Note(event["text"])
            elif event["event"] == "error":
                failure = f"{event['kind']}: {event['message']}"
    except BaseException:
        # The child has a session of its own, so that Ctrl-C does not cut a revision in half.
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        raise
    child.wait()
    child.stdin.close()
    spoken.seek(0)
    words = spoken.read()
    spoken.close()
    if child.returncode != 0:
        why = failure or (words.strip().splitlines() or [f"The child ended with {child.returncode}."])[-1]
        if DISK_FULL.search(why) or GONE.search(why):
            raise lost(TargetError, target.uri, Exception(why))
        raise TargetError(
            "MLflow's upgrade of the copy failed.",
            where=target.uri.redacted,
            why=redact_text(why),
            next_step="Run the same command with --no-upgrade to keep the copy at its own revision, or report the error to MLflow.",
            kind="upgrade_failed",
            resumable=True,
        )
    target.reopen()
    yield PhaseFinished("upgrade", done, time.perf_counter() - started)
