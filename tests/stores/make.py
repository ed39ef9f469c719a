"""Make the golden stores: real MLflow releases write small stores, packed under ``golden/``.

For each release of ``RELEASES`` this makes an environment with ``uv``, runs ``writer.py`` inside
it (once per kind of store) and packs what it wrote.  Needs Python 3.10+, the command ``uv`` and
the interpreters that the releases ask for.  See README.md beside this file.
"""

from __future__ import annotations

import argparse
import io
import lzma
import os
import shutil
import sqlite3
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
GOLDEN = HERE / "golden"
SAMPLE = HERE / "sample"
SAMPLE_VERSION = "3.6.0"
#: Where the stores claim to have been made; no folder of the machine that runs this gets in.
HOME = "/srv/ml"
#: Fixed keys, so that tests can decrypt what the stores hold; they protect nothing.
WEBHOOK_KEY = "Z29sZGVuLXN0b3Jlcy1vZi1tbGZsb3djdGwtdGVzdHM="
KEK_PASSPHRASE = "golden stores, not a secret"
OLD = ("sqlalchemy<1.4", "alembic<1.5", "pandas<1.2", "numpy<1.20", "setuptools<60")
#: With a newer one these releases lose the spans of every trace (a warning says so).
OTEL = "opentelemetry-sdk<1.35"


@dataclass(frozen=True)
class Release:
    """One MLflow release and what its environment needs to install today."""

    version: str
    python: str
    before: str | None = None
    pins: tuple[str, ...] = ()
    auth: bool = False


RELEASES = (
    Release(
        "0.9.1",
        "3.7",
        "2021-01-20",
        (*OLD, "protobuf<4", "werkzeug<1", "jinja2<3", "click<8", "flask<1.2"),
    ),
    Release("1.0.0", "3.7", "2021-01-20", (*OLD, "werkzeug<1")),
    Release("1.8.0", "3.7", "2021-01-20", OLD),
    Release("1.20.2", "3.8", "2021-09-05"),
    Release("1.30.1", "3.9", "2023-04-25", ("setuptools<70", "sqlalchemy<2")),
    Release("2.3.2", "3.9", "2023-05-25"),
    Release("2.9.2", "3.10", "2023-12-20", ("setuptools<70",), auth=True),
    Release("2.14.3", "3.10", "2024-07-15", ("setuptools<75",), auth=True),
    Release("2.22.5", "3.10", None, ("setuptools<70", OTEL), auth=True),
    Release("3.1.4", "3.10", None, ("setuptools<75", OTEL), auth=True),
    Release("3.6.0", "3.12", "2025-11-20", auth=True),
    Release("3.17.2", "3.12", None, auth=True),
)


def interpreter(series: str) -> str:
    """Find a Python of a series such as ``3.7``: on the PATH or among pyenv's versions."""
    roots = [os.environ.get("PYENV_ROOT"), str(Path.home() / ".pyenv")]
    for root in filter(None, roots):
        for found in sorted(Path(root).glob(f"versions/{series}.*/bin/python")):
            return str(found)
    return shutil.which(f"python{series}") or series


def environment(release: Release, folder: Path) -> Path:
    """Make the release's environment, unless it is there already; returns its Python."""
    python = folder / release.version / "bin" / "python"
    done = folder / release.version / "installed"
    if done.exists():
        return python
    shutil.rmtree(folder / release.version, ignore_errors=True)
    subprocess.run(
        ["uv", "venv", "-q", "-p", interpreter(release.python), str(folder / release.version)],
        check=True,
    )
    command = ["uv", "pip", "install", "-q", "-p", str(python)]
    command += ["--only-binary", "pandas", "--only-binary", "numpy"]
    if release.before:
        command += ["--exclude-newer", release.before]
    packages = [f"mlflow=={release.version}", *release.pins]
    if release.auth:
        packages.append("Flask-WTF")
    subprocess.run([*command, *packages], check=True)
    done.touch()
    return python


def write(release: Release, python: Path, kind: str, folder: Path) -> None:
    """Run writer.py in the environment: it writes a store of a kind into the folder."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "PYTHON"))}
    env.update(
        MLFLOW_ALLOW_FILE_STORE="true",
        MLFLOW_SERVER_ENABLE_CUSTOM_SCORERS="true",
        MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS="true",
        MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY=WEBHOOK_KEY,
        MLFLOW_CRYPTO_KEK_PASSPHRASE=KEK_PASSPHRASE,
        MLFLOW_ENABLE_ASYNC_TRACE_LOGGING="false",
        MLFLOW_DISABLE_TELEMETRY="true",
        DO_NOT_TRACK="true",
        GIT_PYTHON_REFRESH="quiet",
        PYTHONWARNINGS="ignore",
        PYTHONHASHSEED="0",
        PYTHONIOENCODING="utf-8",
        PYTHONPATH=str(folder.parent / "nothing"),
        PYTHONDONTWRITEBYTECODE="1",
        LC_ALL="C.UTF-8",
        LANG="C.UTF-8",
        TZ="UTC",
        USER="ann",
        LOGNAME="ann",
        HOME=str(folder.parent),
    )
    home = Path(HOME)
    home.parent.mkdir(parents=True, exist_ok=True)
    home.mkdir()  # fails when it is there: never write into somebody's folder
    try:
        subprocess.run([str(python), str(HERE / "writer.py"), kind, HOME], check=True, env=env)
        shutil.copytree(home, folder, dirs_exist_ok=True)
    finally:
        shutil.rmtree(home)


def compact(folder: Path) -> None:
    """VACUUM the databases and drop what SQLite and MLflow leave beside the store."""
    for database in sorted(folder.glob("*.db")):
        with sqlite3.connect(database) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            connection.execute("PRAGMA journal_mode=DELETE")
        connection.close()
        connection = sqlite3.connect(database)
        connection.execute("VACUUM")
        connection.close()


def members(folder: Path) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    """The folder's files and folders in order, without owner, time or mode of this machine."""
    for path in sorted(folder.rglob("*")):
        info = tarfile.TarInfo(path.relative_to(folder).as_posix())
        if path.is_dir():
            info.type, info.mode = tarfile.DIRTYPE, 0o755
            yield info, b""
        else:
            data = path.read_bytes()
            info.size, info.mode = len(data), 0o644
            yield info, data


def pack(folder: Path, archive: Path) -> None:
    """Pack a folder into a .tar.xz that depends on nothing but its content."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for info, data in members(folder):
            tar.addfile(info, io.BytesIO(data))
    archive.parent.mkdir(parents=True, exist_ok=True)
    archive.write_bytes(lzma.compress(buffer.getvalue(), preset=9 | lzma.PRESET_EXTREME))


def leaks(folder: Path, words: tuple[str, ...]) -> list[str]:
    """Files that name a folder of this machine."""
    found = []
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            data = path.read_bytes()
            found += [f"{path}: {word}" for word in words if word.encode() in data]
    return found


def golden(release: Release, envs: Path, out: Path, scratch: Path) -> None:
    """Make both stores of a release."""
    python = environment(release, envs)
    for kind in ("files", "sqlite"):
        folder = scratch / f"{release.version}-{kind}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write(release, python, kind, folder)
        compact(folder)
        bad = leaks(folder, (str(scratch), str(envs), str(HERE), str(Path.home())))
        if bad:
            raise SystemExit("paths of this machine in the store:\n" + "\n".join(bad))
        archive = out / f"{release.version}-{kind}.tar.xz"
        pack(folder, archive)
        print(f"{archive.name}: {archive.stat().st_size} bytes", flush=True)


def sample(envs: Path, scratch: Path) -> None:
    """Make the sample FileStore that README's first command migrates."""
    release = next(r for r in RELEASES if r.version == SAMPLE_VERSION)
    folder = scratch / "sample"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write(release, environment(release, envs), "sample", folder)
    bad = leaks(folder, (str(scratch), str(envs), str(HERE), str(Path.home())))
    if bad:
        raise SystemExit("paths of this machine in the store:\n" + "\n".join(bad))
    shutil.rmtree(SAMPLE, ignore_errors=True)
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            target = SAMPLE / path.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    files = [path for path in SAMPLE.rglob("*") if path.is_file()]
    print(f"sample: {len(files)} files, {sum(p.stat().st_size for p in files)} bytes")


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", metavar="VERSION", action="append", help="repeatable")
    parser.add_argument("--envs", metavar="DIR", type=Path, help="where environments are kept")
    parser.add_argument("--out", metavar="DIR", type=Path, default=GOLDEN)
    parser.add_argument("--work", metavar="DIR", type=Path, help="keep the unpacked stores here")
    parser.add_argument("--sample", action="store_true", help="make sample/mlruns instead")
    options = parser.parse_args()
    unknown = set(options.only or ()) - {release.version for release in RELEASES}
    if unknown:
        parser.error(f"not in the table: {', '.join(sorted(unknown))}")
    with tempfile.TemporaryDirectory(prefix="golden-") as temporary:
        envs = (options.envs or Path(temporary) / "envs").resolve()
        scratch = (options.work or Path(temporary) / "stores").resolve()
        if options.sample:
            sample(envs, scratch)
            return 0
        failed = []
        for release in RELEASES:
            if not options.only or release.version in options.only:
                try:
                    golden(release, envs, options.out, scratch)
                except subprocess.CalledProcessError as error:
                    failed.append(f"{release.version}: {error}")
    print("\n".join(failed), end="\n" if failed else "", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
