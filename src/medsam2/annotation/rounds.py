"""Rounds of improvement as the database remembers them, and what a training is given and gives back.

The training itself is the application's: it gives an `Improver`; `improvement` runs it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from sqlalchemy import Connection, RowMapping, select, update

from medsam2.annotation.conflict import Conflict
from medsam2.annotation.plans import Plan
from medsam2.annotation.project import FIRST_ROUND, Project
from medsam2.annotation.tables import PROJECTS, ROUNDS
from medsam2.annotation.versions import digest

RUNNING, READY, FAILED, STOPPED = "running", "ready", "failed", "stopped"
"""One that is stopped can go on where it was."""
SERVER_ENDED = "the server ended while it was training"

logger = logging.getLogger(__name__)

_SILENT_S = 120.0  # a round that shows no life for so long has ended with its process


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a round has brought."""

    weights: Path
    before: Mapping[str, float]
    """Measure -> value on the held-out cases with the weights that were in use."""
    after: Mapping[str, float]
    message: str = "ready"
    """What a person should know of it, in a sentence."""


class Improver(Protocol):
    """Training and the change of weights, as the application does them."""

    def train(self, plan: Plan, report: Callable[[float, str], None]) -> Outcome:
        """Train, or go on with what the plan's folder holds.

        `report` takes the part done, 0 to 1, and a sentence; it is called every second, with news or without,
        and raises `Ended` when the training is to end.
        """
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
    """`running`, `ready`, `failed` or `stopped`."""
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

    @property
    def title(self) -> str:
        """What its weights are called."""
        return f"round {self.number}"


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
    return [_round(project, row, current) for row in rows]


def record_start(project: Project, user: str, num_cases: int) -> int:
    """Remember that a round begins.

    Returns:
        Its number; 1 is what the project began with.

    Raises:
        Conflict: Another one is running.
    """
    with project.transaction() as db:
        rows = _none_running(db, project)
        number = max((int(row["number"]) for row in rows), default=FIRST_ROUND) + 1
        now = project.now_ms()
        values = {
            "project": project.key, "number": number, "state": RUNNING, "user": user, "progress": 0.0,
            "num_cases": num_cases, "started_ms": now, "beat_ms": now, "message": "starting",
        }  # fmt: skip
        db.execute(ROUNDS.insert().values(**values))
    return number


def record_going_on(project: Project, number: int) -> None:
    """Remember that a round that was stopped runs again.

    Raises:
        Conflict: Another one is running.
    """
    this = (ROUNDS.c.project == project.key) & (ROUNDS.c.number == number)
    with project.transaction() as db:
        _none_running(db, project)
        values = {"state": RUNNING, "beat_ms": project.now_ms(), "ended_ms": None, "message": "going on"}
        db.execute(update(ROUNDS).where(this).values(**values))


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


def round_in_use(project: Project) -> Round | None:
    """Return the round whose weights are in use; None if they are those that the project began with.

    Where a round's weights are gone the project is put back to what it began with, and the log says so.
    """
    one = next((one for one in list_rounds(project) if one.is_in_use), None)
    if one is None or digest(Path(str(one.weights))) == one.weights_sha256:
        return one
    logger.warning(
        "the weights of round %d are missing or were changed; those that the project began with are in use",
        one.number,
    )
    record_use(project, FIRST_ROUND, None)
    return None


def _none_running(db: Connection, project: Project) -> Sequence[RowMapping]:
    """List the rounds' rows, and keep others from starting one until the transaction ends."""
    db.execute(select(PROJECTS).where(PROJECTS.c.key == project.key).with_for_update())
    rows = db.execute(select(ROUNDS).where(ROUNDS.c.project == project.key)).mappings().all()
    if any(_state(row, project.now_ms()) == RUNNING for row in rows):
        raise Conflict("a round is running; wait until it has ended")
    return rows


def _state(row: RowMapping, now_ms: int) -> str:
    is_silent = now_ms - row["beat_ms"] > _SILENT_S * 1000
    return STOPPED if row["state"] == RUNNING and is_silent else str(row["state"])


def _round(project: Project, row: RowMapping, current: int) -> Round:
    state = _state(row, project.now_ms())
    names = ("number", "user", "num_cases", "started_ms", "ended_ms", "progress", "before", "after")
    return Round(
        **{name: row[name] for name in (*names, "weights_sha256")},
        state=state,
        message=row["message"] if state == row["state"] else SERVER_ENDED,
        # Below the project's folder, as that may be moved.
        weights=None if row["weights"] is None else str(project.folder.absolute() / row["weights"]),
        is_in_use=row["number"] == current,
    )
