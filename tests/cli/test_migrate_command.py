"""``mlflowctl migrate`` around the engine: settings in, documents and exit codes out."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mlflowctl.cli import main
from mlflowctl.core import redact
from mlflowctl.core.errors import DifferError, MlflowctlError, SourceError, TargetError
from mlflowctl.core.events import Engine, Note
from mlflowctl.migrate import api
from mlflowctl.migrate import run as engine
from mlflowctl.migrate import verify as verifier
from tests.cli.conftest import Cli, clean_environment
from tests.cli.test_schemas import validator

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """Run a command line in this process."""
    redact.forget_secrets()
    for name in list(os.environ):
        if name.startswith(("MLFLOWCTL_", "MLFLOW_")):
            monkeypatch.delenv(name)
    for name, value in clean_environment(folder.parent).items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(folder)

    def call(*arguments: str) -> tuple[int, str, str]:
        code = main.run(arguments)
        out, err = capsys.readouterr()
        return code, out, err

    yield call
    ours = [
        handler for handler in logging.getLogger("mlflowctl").handlers if "LogCapture" not in type(handler).__name__
    ]
    assert not ours
    redact.forget_secrets()


class _Engine:
    """Stands in for the engine and remembers its settings."""

    def __init__(self) -> None:
        self.settings: list[Any] = []
        self.error: BaseException | None = None
        self.result: Any = api.MigrateResult(
            status="verified",
            source={"uri": "./mlruns", "kind": "files", "revision": "r", "snapshot": "none"},
            target={"uri": "sqlite:///mlflow.db", "kind": "sqlite", "revision": "r", "mlflow_version": "3"},
            next_command="mlflow server --backend-store-uri sqlite:///mlflow.db",
        )

    def __call__(self, settings: Any) -> Engine[Any]:
        self.settings.append(settings)
        yield Note("something", "warning")
        if self.error is not None:
            raise self.error
        return self.result


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> _Engine:
    fake = _Engine()
    monkeypatch.setattr(engine, "migrate", fake)
    monkeypatch.setattr(verifier, "verify", fake)
    return fake


def test_defaults(run: Run, fake: _Engine) -> None:
    code, out, err = run("migrate", "--from", "./mlruns")
    assert code == 0
    assert out.startswith("Verified")
    assert err == "warning: something\n"
    (settings,) = fake.settings
    cores = settings.jobs
    assert settings == api.MigrateSettings(source="./mlruns", target="sqlite:///mlflow.db", jobs=cores)


def test_every_flag_arrives(run: Run, fake: _Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PW", "s3cret pw")
    monkeypatch.setenv("AUTH", "postgresql://eve:other-secret@h/auth")
    code, out, err = run(
        *(
            "migrate",
            "--from",
            "mysql://ada@h/d",
            "--from-password",
            "env://PW",
            "--to",
            "postgresql://bob:inline-pw@h/d",
        ),
        *("--dry-run", "--scan", "--target-version", "3.1", "--jobs", "7", "--experiment-ids", "keep"),
        *("--map-artifacts", "/a=s3://b", "--map-artifacts", "/c=/d", "--reroot-artifacts", "s3://r"),
        *("--auth-from", "env://AUTH", "--auth-to", "sqlite:///auth.db", "-vv", "-o", "json"),
    )
    assert code == 0, err
    assert fake.settings == [
        api.MigrateSettings(
            source="mysql://ada:s3cret%20pw@h/d",
            target="postgresql://bob:inline-pw@h/d",
            dry_run=True,
            scan=True,
            target_version="3.1",
            jobs=7,
            map_artifacts=(("/a", "s3://b"), ("/c", "/d")),
            reroot_artifacts="s3://r",
            experiment_ids="keep",
            auth_source="postgresql://eve:other-secret@h/auth",
            auth_target="sqlite:///auth.db",
        )
    ]
    for secret in ("s3cret", "inline-pw", "other-secret"):
        assert secret not in out + err
    validator("mlflowctl.migrate.result/v1").validate(json.loads(out))


def test_no_upgrade(run: Run, fake: _Engine) -> None:
    assert run("migrate", "--from", "x", "--no-upgrade")[0] == 0
    assert fake.settings[0].upgrade is False


def test_the_source_falls_back_to_mlflows_variable(run: Run, fake: _Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///old.db")
    assert run("migrate")[0] == 0
    assert fake.settings[0].source == "sqlite:///old.db"


def test_verify_takes_flags_on_both_sides_of_its_name(run: Run, fake: _Engine) -> None:
    fake.result = api.VerifyResult()
    assert run("migrate", "--from", "a", "verify", "--to", "b")[0] == 0
    assert run("migrate", "verify", "--from", "a", "--to", "b", "-o", "json")[0] == 0
    assert fake.settings == [
        api.VerifySettings(source="a", target="b"),
        api.VerifySettings(source="a", target="b", all_differences=True),
    ]


def test_stores_that_differ_exit_11(run: Run, fake: _Engine) -> None:
    verdict = api.TableVerdict("tags", 2, 2, "aa", "bb", "*")
    fake.result = api.VerifyResult(
        tables=[verdict], differences=[api.Difference("tags", {"run_uuid": "r", "key": "k"}, "changed", ("value",))]
    )
    code, out, _ = run("migrate", "verify", "--from", "a", "--to", "b", "-o", "json")
    document = json.loads(out)
    assert (code, document["exit_code"], document["equal"], document["error"]) == (11, 11, False, None)
    validator("mlflowctl.verify.result/v1").validate(document)
    code, out, _ = run("migrate", "verify", "--from", "a", "--to", "b")
    assert code == 11
    assert "changed  tags [run_uuid=r, key=k]: value" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["migrate"], "No source is named."),
        (["migrate", "--from", "a", "--auth-from", "b"], "--auth-from needs --auth-to."),
        (["migrate", "--from", "a", "--auth-to", "b"], "--auth-to needs --auth-from."),
        (["migrate", "--from", "a", "--no-upgrade", "--target-version", "3.1"], "exclude each other"),
        (["migrate", "--from", "a", "--to-password", "literal-pw"], "No secret is taken as a flag's value"),
        (["migrate", "--from", "a", "--jobs", "none"], "'none' is not a whole number."),
        (["migrate", "--from", ""], "The value is empty."),
    ],
)
def test_usage(arguments: list[str], words: str, run: Run, fake: _Engine) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert words in err
    assert "literal-pw" not in err
    code, out, _ = run(*arguments, "-o", "json")
    document = json.loads(out)
    assert (code, document["exit_code"], document["status"]) == (2, 2, "refused")
    validator("mlflowctl.migrate.result/v1").validate(document)
    assert fake.settings == []


def test_a_password_from_a_file_does_not_bother_a_folder(run: Run, fake: _Engine, folder: Path) -> None:
    (folder / "mlflowctl.yaml").write_text("migrate:\n  from: mysql://a@h/d\n  from-password: env://PW\n")
    assert run("migrate", "--from", "./mlruns")[0] == 0
    assert fake.settings[0].source == "./mlruns"
    code, _, err = run("migrate")
    assert code == 3
    assert "The variable PW is not set." in err


def _with_result(error: MlflowctlError, result: api.MigrateResult) -> MlflowctlError:
    error.result = result  # type: ignore[attr-defined]
    return error


def test_a_failure_reports_what_is_known(run: Run, fake: _Engine) -> None:
    fake.error = _with_result(
        TargetError(
            "The target refused.",
            where="postgresql://a:geheim@h/d",
            why="password=geheim",
            next_step="Again.",
            resumable=True,
        ),
        api.MigrateResult(
            status="incomplete", source={"uri": "x", "kind": "files", "revision": "r", "snapshot": "none"}
        ),
    )
    code, out, err = run("migrate", "--from", "x", "-o", "json")
    document = json.loads(out)
    assert code == 5
    assert err.endswith(
        "error: The target refused.\n  where: postgresql://a:***@h/d\n  why: password=***\n  next: Again.\n"
    )
    assert document["error"] == {
        "kind": "target",
        "message": "The target refused. password=***",
        "where": "postgresql://a:***@h/d",
        "next": "Again.",
    }
    assert (document["exit_code"], document["resumable"], document["status"]) == (5, True, "incomplete")
    assert document["source"]["kind"] == "files"
    assert document["target"]["kind"] is None
    validator("mlflowctl.migrate.result/v1").validate(document)


def test_all_troubles_are_named(run: Run, fake: _Engine) -> None:
    result = api.MigrateResult(
        status="failed", troubles=[{"rule": "r", "where": f"f{n}", "text": "bad"} for n in range(30)]
    )
    fake.error = _with_result(SourceError("30 files are malformed.", details=("a", "b")), result)
    code, out, err = run("migrate", "--from", "x")
    assert code == 4
    assert out.count(": bad\n") == 30
    assert err.count("\n") == 2


def test_a_final_proof_that_fails_is_11(run: Run, fake: _Engine) -> None:
    fake.error = _with_result(DifferError("Not the same."), api.MigrateResult(status="failed"))
    code, out, _ = run("migrate", "--from", "x", "-o", "json")
    assert (code, json.loads(out)["exit_code"]) == (11, 11)


def test_a_bug_is_one_line_and_a_log(run: Run, fake: _Engine, folder: Path) -> None:
    fake.error = KeyError("postgresql://a:geheim@h/d")
    code, out, err = run("migrate", "--from", "x", "-o", "json", "--progress", "none")
    document = json.loads(out)
    (log,) = (folder.parent / "home/state/mlflowctl/log").glob("*.log")
    assert code == 1
    assert document["error"]["kind"] == "bug"
    assert str(log) in document["error"]["next"]
    assert "Traceback" not in out + err
    text = log.read_text()
    assert "Traceback" in text
    assert "KeyError" in text
    assert "geheim" not in text + out + err
    validator("mlflowctl.migrate.result/v1").validate(document)


def test_the_log_file(run: Run, fake: _Engine, folder: Path) -> None:
    assert run("migrate", "--from", "mysql://a:geheim@h/d", "--log-file", "x.log")[0] == 0
    text = (folder / "x.log").read_text()
    assert "migrate.from='mysql://a:***@h/d'" in text
    assert "Note(text='something'" in text


def test_ndjson_on_standard_error_is_whole(run: Run, fake: _Engine, folder: Path) -> None:
    fake.error = SourceError("No.", where="w")
    (folder / "mlflowctl.yaml").write_text("migrate:\n  to-password: literal\n  to: mysql://a@h/d\n")
    code, _, err = run("migrate", "--from", "x", "--progress", "json")
    assert code == 4
    lines = [json.loads(line) for line in err.splitlines()]
    assert [line["event"] for line in lines] == ["warning", "note", "error"]
    assert lines[-1]["exit_code"] == 4


def test_quiet(run: Run, fake: _Engine) -> None:
    code, out, err = run("migrate", "--from", "x", "-q")
    assert (code, err) == (0, "")
    assert out


def test_the_result_goes_to_the_file_in_failure_too(run: Run, fake: _Engine, folder: Path) -> None:
    fake.error = SourceError("No.")
    code, out, _ = run("migrate", "--from", "x", "-o", "json", "--out-file", "r.json")
    assert (code, out) == (4, "")
    assert json.loads((folder / "r.json").read_text())["exit_code"] == 4
    assert list(folder.iterdir()) == [folder / "r.json"]


_SLEEPER = """
import sys, time
from mlflowctl.cli import main
from mlflowctl.core import signals
from mlflowctl.core.events import PhaseStarted
from mlflowctl.migrate import run

def engine(settings):
    yield PhaseStarted("copy")
    print("ready", file=sys.stderr, flush=True)
    end = time.monotonic() + 60
    while time.monotonic() < end:
        {body}
    yield

run.migrate = engine
sys.exit(main.run(["migrate", "--from", "x", *sys.argv[1:]]))
"""


def _sleeper(folder: Path, body: str, *arguments: str) -> subprocess.Popen[str]:
    script = folder / "sleeper.py"
    script.write_text(textwrap.dedent(_SLEEPER).replace("{body}", body))
    process = subprocess.Popen(
        [sys.executable, str(script), *arguments],
        cwd=folder,
        env=clean_environment(folder.parent),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    assert process.stderr is not None
    while process.stderr.readline() != "ready\n":
        assert process.poll() is None
    return process


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_at_a_safe_point(folder: Path, number: int, code: int) -> None:
    process = _sleeper(folder, "time.sleep(0.02); signals.check()", "-o", "json")
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    document = json.loads(out)
    assert (process.returncode, document["exit_code"], document["resumable"]) == (code, code, True)
    assert document["error"]["kind"] == "interrupted"
    assert "Stopping at a safe point" in err
    validator("mlflowctl.migrate.result/v1").validate(document)


@pytest.mark.parametrize("arguments", [("-o", "json"), ()])
def test_a_second_signal_stops_at_once(folder: Path, arguments: tuple[str, ...]) -> None:
    process = _sleeper(folder, "time.sleep(0.02)", *arguments)
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    assert "Stopping at a safe point" in process.stderr.readline()
    time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 130
    if arguments:
        assert json.loads(out)["exit_code"] == 130
    else:
        assert out == ""


def test_a_reader_that_goes_away_is_no_failure(folder: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "mlflowctl", "config", "schema"],
        cwd=folder,
        env=clean_environment(folder.parent),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == b""
    assert process.wait(timeout=30) == 0


def test_a_full_disk_for_the_result_is_said(cli: Cli, folder: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "mlflowctl", "config", "show"],
            cwd=folder,
            env=clean_environment(folder.parent),
            stdout=full,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            check=False,
        )
    assert done.returncode == 2
    assert done.stderr == "error: The result cannot be written: No space left on device.\n"


def test_an_ascii_terminal_is_no_failure(cli: Cli, folder: Path) -> None:
    (folder / "mlflowctl.yaml").write_text("migrate:\n  to: sqlite:///dänisch-😀.db\n", encoding="utf-8")
    done = cli("config", "show", PYTHONUTF8="0", PYTHONIOENCODING="ascii", LC_ALL="C")
    assert done.returncode == 0
    assert "d\\xe4nisch-\\U0001f600" in done.stdout
