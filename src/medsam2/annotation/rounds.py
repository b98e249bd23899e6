"""Rounds of improvement as the database remembers them, and what a training is given and gives back.

The training itself is the application's: it gives an `Improver`; `improvement` runs it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from sqlalchemy import RowMapping, select, update

from medsam2.annotation.cases import list_cases
from medsam2.annotation.conflict import Conflict
from medsam2.annotation.project import FIRST_ROUND, Project
from medsam2.annotation.states import FINISHED
from medsam2.annotation.tables import PROJECTS, ROUNDS
from medsam2.annotation.versions import latest_done, list_versions
from medsam2.errors import InputError

RUNNING, READY, FAILED = "running", "ready", "failed"
FEWEST_CASES = 2
"""One to learn from and one to measure on."""
HELD_OUT_SHARE = 5
"""One case of so many is measured on and never learnt from."""

_SILENT_S = 120.0  # a round that shows no life for so long has ended with its process


@dataclass(frozen=True, kw_only=True)
class LabelledScan:
    """A finished case."""

    name: str
    image: Path
    mask: Path
    """Labels on the image's grid."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a round may use."""

    number: int
    training: Sequence[LabelledScan]
    held_out: Sequence[LabelledScan]
    """To measure on, before and after."""
    weights: str
    """Name or file of the weights in use, to start from."""
    folder: Path
    """Empty, for whatever the training writes."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a round has brought."""

    weights: Path
    before: Mapping[str, float]
    """Measure -> value on the held-out cases with the weights that were in use."""
    after: Mapping[str, float]


class Improver(Protocol):
    """Training and the change of weights, as the application does them."""

    def train(self, plan: Plan, report: Callable[[float, str], None]) -> Outcome:
        """Train; `report` takes the part done, 0 to 1, and a sentence, and raises when it is to end."""
        ...

    def use(self, weights: str) -> None:
        """Let everything from now on use these weights, a name or a file."""
        ...


class Ended(Exception):
    """The program ends, and with it the training."""


@dataclass(frozen=True, kw_only=True)
class Round:
    """What is remembered about a round."""

    number: int
    state: str
    """`running`, `ready` or `failed`."""
    user: str
    num_cases: int
    started_ms: int
    ended_ms: int | None
    progress: float
    message: str
    before: Mapping[str, float] | None
    after: Mapping[str, float] | None
    weights: str | None
    weights_sha256: str | None
    is_in_use: bool


def current_round(project: Project) -> int:
    """Return the round whose weights are in use."""
    with project.transaction() as db:
        wanted = select(PROJECTS.c.round).where(PROJECTS.c.key == project.key)
        return int(db.execute(wanted).scalar_one())


def list_rounds(project: Project) -> list[Round]:
    """List the rounds of a project; the weights it began with, round 1, are none of them."""
    wanted = select(ROUNDS).where(ROUNDS.c.project == project.key).order_by(ROUNDS.c.number)
    with project.transaction() as db:
        rows = db.execute(wanted).mappings().all()
    current = current_round(project)
    return [_round(row, current, project.now_ms()) for row in rows]


def record_start(project: Project, user: str, num_cases: int) -> int:
    """Remember that a round begins.

    Returns:
        Its number; 1 is what the project began with.

    Raises:
        Conflict: Another one is running.
    """
    with project.transaction() as db:
        # Whoever else wants to start one waits here.
        db.execute(select(PROJECTS).where(PROJECTS.c.key == project.key).with_for_update())
        rows = db.execute(select(ROUNDS).where(ROUNDS.c.project == project.key)).mappings().all()
        if any(_state(row, project.now_ms()) == RUNNING for row in rows):
            raise Conflict("a round is running; wait until it has ended")
        number = max((int(row["number"]) for row in rows), default=FIRST_ROUND) + 1
        now = project.now_ms()
        values = {
            "project": project.key, "number": number, "state": RUNNING, "user": user, "progress": 0.0,
            "num_cases": num_cases, "started_ms": now, "beat_ms": now, "message": "starting",
        }  # fmt: skip
        db.execute(ROUNDS.insert().values(**values))
    return number


def record_life(project: Project, number: int, values: Mapping[str, object]) -> None:
    """Remember that a round is alive, and what it says of itself: columns of its row."""
    this = (ROUNDS.c.project == project.key) & (ROUNDS.c.number == number)
    with project.transaction() as db:
        db.execute(update(ROUNDS).where(this).values(beat_ms=project.now_ms(), **values))


def record_use(project: Project, number: int, previous: int | None) -> None:
    """Remember whose weights are in use, and with `previous` whose were before."""
    this = (ROUNDS.c.project == project.key) & (ROUNDS.c.number == number)
    with project.transaction() as db:
        db.execute(update(PROJECTS).where(PROJECTS.c.key == project.key).values(round=number))
        if previous is not None:
            db.execute(update(ROUNDS).where(this).values(previous=previous))


def previous_round(project: Project) -> int | None:
    """Return the round whose weights were in use before those that are, None if there was none."""
    wanted = select(ROUNDS.c.previous).join(PROJECTS, PROJECTS.c.key == ROUNDS.c.project)
    is_current = (PROJECTS.c.key == project.key) & (ROUNDS.c.number == PROJECTS.c.round)
    with project.transaction() as db:
        return db.execute(wanted.where(is_current)).scalar()


def weights_in_use(project: Project) -> str | None:
    """Return the file of the weights in use; None if they are those that the project began with."""
    return next((one.weights for one in list_rounds(project) if one.is_in_use), None)


def finished_scans(project: Project) -> list[LabelledScan]:
    """List the cases that are done or reviewed, with their newest finished masks."""
    found = []
    for case in list_cases(project):
        newest = latest_done(list_versions(project, case.id)) if case.state in FINISHED else None
        if newest is not None:
            image, mask = project.folder / case.path, project.folder / newest.path
            found.append(LabelledScan(name=case.name, image=image, mask=mask))
    return found


def split(scans: Sequence[LabelledScan]) -> tuple[list[LabelledScan], list[LabelledScan]]:
    """Divide cases into those to learn from and those to measure on, by their names alone.

    A case stays on its side, whatever comes beside it. Only where no name falls on the side to measure on one
    is taken that would have been learnt from.

    Raises:
        InputError: There are not two.
    """
    if len(scans) < FEWEST_CASES:
        raise InputError(f"training needs {FEWEST_CASES} finished cases, one of them to measure on")
    ranks = {scan.name: int(hashlib.sha256(scan.name.encode()).hexdigest(), 16) for scan in scans}
    held = {name for name, rank in ranks.items() if rank % HELD_OUT_SHARE == 0}
    held = held or {min(ranks, key=lambda name: ranks[name])}
    if len(held) == len(scans):
        held.remove(min(held, key=lambda name: ranks[name]))
    return [scan for scan in scans if scan.name not in held], [scan for scan in scans if scan.name in held]


def _state(row: RowMapping, now_ms: int) -> str:
    is_silent = now_ms - row["beat_ms"] > _SILENT_S * 1000
    return FAILED if row["state"] == RUNNING and is_silent else str(row["state"])


def _round(row: RowMapping, current: int, now_ms: int) -> Round:
    state = _state(row, now_ms)
    names = ("number", "user", "num_cases", "started_ms", "ended_ms", "progress", "before", "after")
    return Round(
        **{name: row[name] for name in (*names, "weights", "weights_sha256")},
        state=state,
        message=row["message"] if state == row["state"] else "the server ended while it was training",
        is_in_use=row["number"] == current,
    )
