"""Bad input through the command itself: exit code, words, and nothing written that looks finished."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.generate import make_store
from tests.stores.golden import SAMPLE

HEAD = "dc11669786a5"


def run(
    *arguments: str, cwd: Path, env: dict[str, str] | None = None, code: str | None = None, limit: int | None = None
) -> tuple[int, dict[str, Any], str]:
    """Run the command with -o json; returns the exit code, the document and stderr."""
    start = ["-c", code] if code else ["-m", "mlflowctl"]

    def before() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    root = str(Path(__file__).resolve().parents[2])
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "MLFLOWCTL_"))}
    environment |= {"PYTHONPATH": root, "XDG_STATE_HOME": str(cwd / "state"), **(env or {})}
    done = subprocess.run(
        [sys.executable, *start, *arguments, "-o", "json", "--progress", "none"],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=before,
    )
    return done.returncode, json.loads(done.stdout) if done.stdout else {}, done.stderr


def check(outcome: tuple[int, dict[str, Any], str], exit_code: int, kind: str) -> dict[str, Any]:
    """The promised exit code and kind, in the document too; returns the error."""
    code, document, stderr = outcome
    assert code == exit_code, (document.get("error"), stderr)
    assert document["exit_code"] == exit_code
    assert document["error"]["kind"] == kind
    assert document["error"]["message"]
    assert document["status"] in ("failed", "refused", "incomplete")
    return dict(document["error"])


def digest(folder: Path) -> dict[str, str]:
    """Every file below a folder with the hash of its bytes."""
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    place = tmp_path / "source" / "mlruns"
    shutil.copytree(SAMPLE, place)
    return place


def test_a_path_that_is_not_there(tmp_path: Path) -> None:
    error = check(run("migrate", "--from", "./nowhere", cwd=tmp_path), 4, "not_found")
    assert "nowhere" in error["where"]
    assert not (tmp_path / "mlflow.db").exists()


def test_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    check(run("migrate", "--from", "./empty", cwd=tmp_path), 4, "not_a_store")


def test_a_folder_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "photos" / "2024").mkdir(parents=True)
    (tmp_path / "photos" / "2024" / "a.jpg").write_bytes(b"x")
    check(run("migrate", "--from", "./photos", cwd=tmp_path), 4, "not_a_store")


def test_a_database_of_something_else(tmp_path: Path) -> None:
    sqlite3.connect(tmp_path / "other.db").execute("CREATE TABLE invoices (id INTEGER)").connection.close()
    error = check(run("migrate", "--from", "sqlite:///other.db", cwd=tmp_path), 4, "not_a_store")
    assert "not an MLflow store" in error["message"]


def test_a_text_file_as_database(tmp_path: Path) -> None:
    (tmp_path / "notes.db").write_text("dear diary" * 500)
    check(run("migrate", "--from", "sqlite:///notes.db", cwd=tmp_path), 4, "not_a_store")


def test_an_empty_database_file(tmp_path: Path) -> None:
    (tmp_path / "empty.db").touch()
    check(run("migrate", "--from", "sqlite:///empty.db", cwd=tmp_path), 4, "not_a_store")


def test_a_revision_of_the_future_names_what_to_install(tmp_path: Path) -> None:
    source = tmp_path / "future.db"
    make_store(source, HEAD, rows=1)
    connection = sqlite3.connect(source)
    connection.execute("UPDATE alembic_version SET version_num = 'f4a9b2c7d1e6'")
    connection.commit()
    connection.close()
    error = check(run("migrate", "--from", "sqlite:///future.db", cwd=tmp_path), 4, "unknown_revision")
    assert "3.18" in error["next"]


def test_an_unheard_of_revision(tmp_path: Path) -> None:
    source = tmp_path / "odd.db"
    make_store(source, HEAD, rows=1)
    connection = sqlite3.connect(source)
    connection.execute("UPDATE alembic_version SET version_num = 'deadbeef0000'")
    connection.commit()
    connection.close()
    error = check(run("migrate", "--from", "sqlite:///odd.db", cwd=tmp_path), 4, "unknown_revision")
    assert "deadbeef0000" in error["message"]


def test_a_half_applied_upgrade_is_recognised(tmp_path: Path) -> None:
    source = tmp_path / "half.db"
    make_store(source, HEAD, rows=1)
    connection = sqlite3.connect(source)
    connection.execute("DROP TABLE scheduler_leases")
    connection.commit()
    connection.close()
    error = check(run("migrate", "--from", "sqlite:///half.db", cwd=tmp_path), 4, "half_applied_revision")
    assert "scheduler_leases" in error["message"]


def test_malformed_files_are_all_named_and_nothing_looks_finished(sample: Path, tmp_path: Path) -> None:
    runs = sorted(p.parent for p in sample.glob("[0-9]*/*/metrics") if any(f.is_file() for f in p.rglob("*")))
    point_file = next(f for f in sorted((runs[1] / "metrics").rglob("*")) if f.is_file())
    metas = [runs[0] / "meta.yaml", runs[1] / "meta.yaml"]
    metas[0].write_text("run_id: [unclosed")
    point_file.write_text("not a point\n")
    before = digest(sample)
    outcome = run("migrate", "--from", str(sample), cwd=tmp_path)
    check(outcome, 4, "malformed_file")
    named = " ".join(t["where"] for t in outcome[1]["troubles"])
    assert str(metas[0]) in named
    assert str(metas[1].parent / "metrics") in named
    assert digest(sample) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["source"] or not (tmp_path / "mlflow.db").exists()
    scanned = run("migrate", "--from", str(sample), "--scan", cwd=tmp_path)
    check(scanned, 4, "malformed_file")
    assert len(scanned[1]["troubles"]) == len(outcome[1]["troubles"])


def test_an_experiment_that_is_half_deleted(sample: Path, tmp_path: Path) -> None:
    experiment = next(p.parent for p in sample.glob("*/meta.yaml") if any(p.parent.glob("*/meta.yaml")))
    (experiment / "meta.yaml").unlink()
    outcome = run("migrate", "--from", str(sample), cwd=tmp_path)
    check(outcome, 4, "malformed_file")
    assert any(str(experiment) in t["where"] for t in outcome[1]["troubles"])


def test_an_unreachable_host(tmp_path: Path) -> None:
    error = check(run("migrate", "--from", "postgresql://ada:s3cret@127.0.0.1:1/ml", cwd=tmp_path), 4, "unreachable")
    assert "s3cret" not in json.dumps(error)
    check(
        run("migrate", "--from", str(SAMPLE), "--to", "mysql://ada:s3cret@127.0.0.1:1/ml", cwd=tmp_path),
        5,
        "unreachable",
    )


@pytest.mark.mysql
def test_a_wrong_password(mysql_server: str, mysql_url: str, tmp_path: Path) -> None:
    import pymysql

    connection = pymysql.connect(user="root", unix_socket=mysql_server, autocommit=True)
    connection.cursor().execute("CREATE OR REPLACE USER ada@localhost IDENTIFIED BY 'right'")
    connection.close()
    database = mysql_url.split("/")[3].split("?")[0]
    uri = f"mysql://ada:wr0ng-pw@localhost/{database}?unix_socket={mysql_server}"
    code, document, stderr = run("migrate", "--from", str(SAMPLE), "--to", uri, cwd=tmp_path)
    check((code, document, stderr), 5, "wrong_password")
    assert "wr0ng-pw" not in json.dumps(document) + stderr


@pytest.mark.parametrize(
    ("scheme", "module", "extra"), [("postgresql", "adbc_driver_postgresql", "postgres"), ("mysql", "pymysql", "mysql")]
)
def test_a_missing_driver_names_its_extra(scheme: str, module: str, extra: str, tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.split('.')[0] == {module!r}: raise ImportError(name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "from mlflowctl.cli.main import main\nmain()"
    )
    error = check(
        run("migrate", "--from", str(SAMPLE), "--to", f"{scheme}://u@h/d", cwd=tmp_path, code=code), 5, "missing_driver"
    )
    assert f"mlflowctl[{extra}]" in error["next"]


def test_a_target_folder_that_is_missing_or_cannot_be_written(tmp_path: Path) -> None:
    check(run("migrate", "--from", str(SAMPLE), "--to", "sqlite:///no/such/folder/t.db", cwd=tmp_path), 5, "not_found")
    check(run("migrate", "--from", str(SAMPLE), "--to", "sqlite:////proc/t.db", cwd=tmp_path), 5, "unwritable")


def test_a_file_size_limit_is_told_before_anything_is_written(sample: Path, tmp_path: Path) -> None:
    outcome = run("migrate", "--from", str(sample), cwd=tmp_path, limit=300_000)
    check(outcome, 5, "file_size_limit")
    assert list(tmp_path.glob("mlflow.db*")) == []
    assert run("migrate", "--from", str(sample), cwd=tmp_path)[1]["status"] == "verified"


def test_source_and_target_the_same(tmp_path: Path) -> None:
    make_store(tmp_path / "one.db", HEAD, rows=1)
    before = (tmp_path / "one.db").read_bytes()
    error = check(
        run("migrate", "--from", "sqlite:///one.db", "--to", f"sqlite:///{tmp_path}/one.db", cwd=tmp_path),
        5,
        "same_store",
    )
    assert "same" in error["message"]
    assert (tmp_path / "one.db").read_bytes() == before


def test_a_target_that_is_no_database(sample: Path, tmp_path: Path) -> None:
    check(run("migrate", "--from", str(sample), "--to", "./out", cwd=tmp_path), 5, "unsupported_store")
    check(run("migrate", "--from", str(sample), "--to", "mssql://u@h/d", cwd=tmp_path), 5, "unsupported_store")


def test_typos_in_a_flag_and_in_a_config_key(sample: Path, tmp_path: Path) -> None:
    code, _, stderr = run("migrate", "--form", str(sample), cwd=tmp_path)
    assert code == 2
    assert "--from" in stderr
    (tmp_path / "mlflowctl.yaml").write_text("migrate:\n  jbos: 2\n")
    code, document, stderr = run("migrate", "--from", str(sample), cwd=tmp_path)
    assert code == 3
    assert "mlflowctl.yaml:2:3" in json.dumps(document["error"])
    assert "jobs" in json.dumps(document) + stderr
    assert not (tmp_path / "mlflow.db").exists()


def test_a_target_version_below_the_source(sample: Path, tmp_path: Path) -> None:
    code, _, stderr = run("migrate", "--from", str(sample), "--target-version", "2.9", cwd=tmp_path)
    assert code == 2
    assert "never lowered" in stderr
    assert run("migrate", "--from", str(sample), "--target-version", "9.9", cwd=tmp_path)[0] == 2


def test_the_dry_run_writes_nothing(sample: Path, tmp_path: Path) -> None:
    code, document, _ = run(
        "migrate", "--from", str(sample), "--dry-run", "--map-artifacts", "file:///srv/ml=s3://b", cwd=tmp_path
    )
    assert (code, document["status"]) == (0, "planned")
    assert {t["name"] for t in document["plan"]["tables"]} >= {"runs", "metrics"}
    assert document["artifacts"]["mapped"][0]["rows"] > 5
    assert sorted(p.name for p in tmp_path.iterdir()) == ["source"]


@pytest.mark.parametrize("moment", [0.35, 0.6])
def test_killed_at_any_moment_the_same_line_finishes(moment: float, sample: Path, tmp_path: Path) -> None:
    root = str(Path(__file__).resolve().parents[2])
    command = [sys.executable, "-m", "mlflowctl", "migrate", "--from", str(sample), "--progress", "none"]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": root},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        process.wait(moment)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    code, document, stderr = run("migrate", "--from", str(sample), cwd=tmp_path)
    assert code == 0, stderr
    assert document["status"] in ("verified", "already_complete")
    assert run("migrate", "verify", "--from", str(sample), "--to", "sqlite:///mlflow.db", cwd=tmp_path)[0] == 0
    assert not list(tmp_path.glob("*.mlflowctl-partial*"))


@pytest.mark.parametrize(("number", "exit_code"), [(2, 130), (15, 143)])
def test_a_signal_stops_at_a_safe_point_and_says_how_to_go_on(number: int, exit_code: int, tmp_path: Path) -> None:
    source = tmp_path / "source.db"
    make_store(source, HEAD, rows=1)
    connection = sqlite3.connect(source)
    connection.executemany(
        "INSERT INTO params (key, value, run_uuid) VALUES (?, 'x', 'run_uuid-0')", ((f"p{i}",) for i in range(400_000))
    )
    connection.commit()
    connection.close()
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    command = [
        sys.executable,
        "-m",
        "mlflowctl",
        "migrate",
        "--from",
        "sqlite:///source.db",
        "--progress",
        "json",
        "-o",
        "json",
    ]
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "copy" in line:
            break
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    document = json.loads(output)
    assert process.returncode == document["exit_code"] == exit_code
    assert document["resumable"] is True
    assert "same command" in document["error"]["next"]
    assert not (tmp_path / "mlflow.db").exists()
    assert run("migrate", "--from", "sqlite:///source.db", cwd=tmp_path)[1]["status"] == "verified"
