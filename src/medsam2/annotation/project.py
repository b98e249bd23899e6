"""A project: a folder of scans, the database with their states, and which state may follow which."""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from sqlalchemy import Connection, Engine, select

from medsam2.annotation.database import CASES, PROJECTS, check_url, open_engine, transaction
from medsam2.annotation.layout import DATABASE, MARKER, LeftOut, find_scans, store_thumbnail
from medsam2.errors import Conflict, InputError, MedSAM2Error, reading
from medsam2.imaging.io import read

NEW = "new"
PROPOSED = "proposed"
IN_WORK = "in work"
DONE = "done"
REVIEWED = "reviewed"
REJECTED = "rejected"

MAY_FOLLOW: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        NEW: (PROPOSED, IN_WORK),
        PROPOSED: (PROPOSED, IN_WORK),
        # Back to the state before it was opened, if nothing was drawn.
        IN_WORK: (IN_WORK, DONE, NEW, PROPOSED, REJECTED),
        DONE: (DONE, IN_WORK, REVIEWED, REJECTED),
        REVIEWED: (REJECTED,),
        REJECTED: (IN_WORK,),
    }
)
"""State -> states that may follow. A reviewed mask can change only after a reviewer has rejected it."""
STATES = tuple(MAY_FOLLOW)
OPENS_TO_WORK = (NEW, PROPOSED, REJECTED)
"""Opening a case in one of these states puts it in work; other cases can be opened to view them."""
FINISHED = (DONE, REVIEWED)


def check_change(before: str, after: str) -> None:
    """Refuse a change of state that is not in `MAY_FOLLOW`.

    Raises:
        InputError: There is no such state.
        Conflict: The new state may not follow the present one.
    """
    if after not in MAY_FOLLOW:
        raise InputError(f"there is no state {after!r}; the states are {', '.join(STATES)}")
    if after not in MAY_FOLLOW[before]:
        allowed = [state for state in MAY_FOLLOW[before] if state != before]
        raise Conflict(f"a case that is {before} cannot become {after}; it can become {' or '.join(allowed)}")


FIRST_ROUND = 1
LOCK_S = 300
"""How long a case stays locked if the page of the user who opened it does not answer."""
_MAX_NAME = 200
_FRAME_WORDS = re.compile(r"name it by frame=0 \.\.\.")  # how `imaging` words it for callers from Python


def wall_clock_ms() -> int:
    """Return milliseconds since 1970 in UTC."""
    return time.time_ns() // 1_000_000


@dataclass(frozen=True, kw_only=True)
class Project:
    """An open project. Threads may share it; close it at the end."""

    folder: Path
    key: str
    name: str
    engine: Engine
    now_ms: Callable[[], int] = wall_clock_ms
    """The clock; simulations use their own."""
    lock_s: float = LOCK_S

    def transaction(self) -> AbstractContextManager[Connection]:
        """Make several changes in the database: all of them, or none if something fails.

        Raises:
            DatabaseAway: The database does not answer.
        """
        return transaction(self.engine)

    def close(self) -> None:
        """Close the connections to the database."""
        self.engine.dispose()


def create_project(
    folder: Path,
    *,
    name: str | None = None,
    database: str | None = None,
    now_ms: Callable[[], int] = wall_clock_ms,
) -> Project:
    """Make a folder a project, or open it if it is one; `add_scans` then adds the scans.

    Args:
        folder: The folder with the scans.
        name: Name of the project; the folder's name if not given.
        database: `postgresql://HOST/NAME`; a file in the folder if not given.
        now_ms: The clock.

    Raises:
        InputError: The folder or the database cannot be used.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: is not a folder; a project is a folder of scans")
    url = database or f"sqlite:///{DATABASE}"
    if (folder / MARKER).exists():
        if database is not None and _marker(folder)["database"] != database:
            raise InputError(f"{folder}: is a project already; its database is {_marker(folder)['database']}")
        return open_project(folder, now_ms=now_ms)
    check_url(url)
    called = name if name is not None else folder.absolute().name or "project"
    if not called.strip() or len(called) > _MAX_NAME or not called.isprintable():
        raise InputError(f"a project's name is 1 to {_MAX_NAME} printable characters, not {called[:60]!r}")
    engine = open_engine(url, folder)
    key = secrets.token_hex(16)
    with transaction(engine) as db:
        row = {"key": key, "name": called, "round": FIRST_ROUND, "created_ms": now_ms()}
        db.execute(PROJECTS.insert().values(**row))
    try:
        with (folder / MARKER).open("x", encoding="utf-8") as file:
            json.dump({"name": called, "project": key, "database": url}, file, indent=2)
            file.write("\n")
    except FileExistsError:  # another process was faster; its project counts
        engine.dispose()
        return open_project(folder, now_ms=now_ms)
    except OSError as error:
        engine.dispose()
        raise InputError(f"{folder}: cannot be written: {error.strerror or error}") from error
    return Project(folder=folder, key=key, name=called, engine=engine, now_ms=now_ms)


def open_project(folder: Path, *, now_ms: Callable[[], int] = wall_clock_ms) -> Project:
    """Open a project.

    Raises:
        InputError: The folder is not a project, or its database cannot be reached or has another project.
    """
    marker = _marker(folder)
    engine = open_engine(marker["database"], folder)
    with transaction(engine) as db:
        row = db.execute(select(PROJECTS.c.name).where(PROJECTS.c.key == marker["project"])).first()
    if row is None:
        engine.dispose()
        raise InputError(f"{folder}: its database {marker['database']} does not contain this project")
    return Project(folder=folder, key=marker["project"], name=row.name, engine=engine, now_ms=now_ms)


def add_scans(project: Project) -> tuple[list[str], list[LeftOut]]:
    """Read each new scan in the folder and make a case of it.

    Returns:
        Names of the new cases, and the entries that are left out.

    Raises:
        InputError: The folder cannot be read.
        DatabaseAway: The database does not answer.
    """
    scans, left = find_scans(project.folder)
    with project.transaction() as db:
        known = set(db.execute(select(CASES.c.name).where(CASES.c.project == project.key)).scalars())
    added = []
    for scan in scans:
        if scan.name in known:
            continue
        try:
            volume = read(project.folder / scan.path)
        except (MedSAM2Error, MemoryError) as error:
            left.append(LeftOut(scan.path, _reason(error, project.folder).removeprefix(f"{scan.path}: ")))
            continue
        row = {
            "project": project.key, "name": scan.name, "path": scan.path, "num_slices": volume.shape[0],
            "state": NEW, "updated_ms": project.now_ms(),
        }  # fmt: skip
        with project.transaction() as db:
            # Two processes may add scans at the same time.
            there = select(CASES.c.id).where(CASES.c.project == project.key, CASES.c.name == scan.name)
            if db.execute(there).first() is None:
                db.execute(CASES.insert().values(**row))
                added.append(scan.name)
        store_thumbnail(project.folder, scan.path, volume)
    return added, left


def _reason(error: Exception, folder: Path) -> str:
    """Say why a scan is left out, to a user who has a folder and no options."""
    text = str(error).replace(f"{folder}/", "") or "takes too much memory"
    return _FRAME_WORDS.sub("save the one to segment as a file of its own and leave this one out", text)


def _marker(folder: Path) -> dict[str, str]:
    path = folder / MARKER
    if not path.is_file():
        raise InputError(f"{folder}: is not a project; make it one with medsam2 project create {folder}")
    with reading(path):
        text = path.read_bytes()
    try:
        content = json.loads(text)
        marker = {key: content[key] for key in ("name", "project", "database")}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{path}: is damaged; it must contain name, project and database as JSON") from error
    if not all(isinstance(value, str) for value in marker.values()):
        raise InputError(f"{path}: is damaged; name, project and database must be texts")
    return marker
