"""Folders of small scans, projects on them with a clock that tests turn, and a PostgreSQL of their own."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import nibabel
import numpy as np
import psycopg
import pytest

from medsam2.annotation.project import Project, add_scans, create_project
from medsam2.imaging.io import read
from medsam2.imaging.volume import Volume

START_MS = 1_790_000_000_000
SHAPE = (6, 20, 24)  # (z, y, x)
_PROGRAMS = ("initdb", "pg_ctl")


class Clock:
    """Stands still until a test turns it."""

    def __init__(self) -> None:
        self.ms = START_MS

    def __call__(self) -> int:
        return self.ms

    def turn(self, seconds: float) -> None:
        self.ms += round(seconds * 1000)


def _write_scan(path: Path, seed: int = 0) -> Path:
    """Noise with a bright box, on a grid that is turned and not isotropic."""
    grey = np.random.default_rng(seed).normal(60, 8, SHAPE)
    grey[2:5, 6:14, 8:18] += 100
    nibabel.save(nibabel.Nifti1Image(grey.T.astype(np.int16), np.diag([-0.8, 0.8, 2.5, 1.0])), path)
    return path


def _box_mask(path: Path, *, shift: int = 0, label: int = 1) -> Volume:
    """The bright box of a scan, moved along x: 3 x 8 x 10 voxels."""
    scan = read(path)
    mask = np.zeros(scan.shape, np.uint8)
    mask[2:5, 6:14, 8 + shift : 18 + shift] = label
    return scan.with_array(mask)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three scans."""
    scans = tmp_path / "scans"
    scans.mkdir()
    for number, name in enumerate(("belly", "chest", "head")):
        _write_scan(scans / f"{name}.nii.gz", number)
    return scans


@pytest.fixture(scope="session")
def write_scan() -> Callable[..., Path]:
    return _write_scan


@pytest.fixture(scope="session")
def box_mask() -> Callable[..., Volume]:
    return _box_mask


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def project(folder: Path, clock: Clock) -> Iterator[Project]:
    """A project of the three scans: cases 1 to 3."""
    made = create_project(folder, now_ms=clock)
    add_scans(made)
    yield made
    made.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def any_project(request: pytest.FixtureRequest, folder: Path, clock: Clock) -> Iterator[Project]:
    """The same in each kind of database."""
    url = None if request.param == "sqlite" else request.getfixturevalue("postgresql")()
    made = create_project(folder, database=url, now_ms=clock)
    add_scans(made)
    yield made
    made.close()


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Callable[[], str]]:
    """A PostgreSQL server on a port of its own; each call empties its database and gives the URL."""
    programs = {name: path for name in _PROGRAMS if (path := _program(name))}
    if len(programs) < len(_PROGRAMS):
        pytest.skip("PostgreSQL is not installed: there is no initdb or pg_ctl")
    user = None
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        try:
            user = pwd.getpwnam("postgres")
        except KeyError:
            pytest.skip("PostgreSQL does not run as root, and there is no user postgres")
    # Not below pytest's own folder, which no other user may enter.
    with tempfile.TemporaryDirectory(prefix="medsam2-pg-") as folder:
        if user is not None:
            os.chown(folder, user.pw_uid, user.pw_gid)
        with _running(Path(folder), programs, user) as empty_database:
            yield empty_database


@contextmanager
def _running(
    root: Path, programs: Mapping[str, str], user: pwd.struct_passwd | None
) -> Iterator[Callable[[], str]]:
    identity = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []} if user else {}

    def run(program: str, *arguments: str) -> None:
        result = subprocess.run(
            [programs[program], *arguments], cwd=root, capture_output=True, text=True, check=False,
            timeout=120, **identity,
        )  # fmt: skip
        assert result.returncode == 0, result.stderr

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    data = str(root / "data")
    run("initdb", "-D", data, "-U", "tester", "--auth=trust", "--no-sync", "-E", "UTF8", "--locale=C")
    options = f"-p {port} -h 127.0.0.1 -k {root} -c fsync=off -c shared_buffers=16MB"
    run("pg_ctl", "-D", data, "-l", str(root / "log"), "-o", options, "-w", "start")
    url = f"postgresql://tester@127.0.0.1:{port}/postgres"

    def empty_database() -> str:
        """The same one each time, as a new one takes a second."""
        with psycopg.connect(url, autocommit=True) as db:
            db.execute("SET lock_timeout = '20s'")
            db.execute("DROP SCHEMA public CASCADE")
            db.execute("CREATE SCHEMA public")
        return url

    try:
        yield empty_database
    finally:
        run("pg_ctl", "-D", data, "-m", "immediate", "stop")


def _program(name: str) -> str | None:
    found = shutil.which(name)
    if found is not None:
        return found
    versions = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: path.parts[-3])
    return str(versions[-1]) if versions else None
