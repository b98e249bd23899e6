"""Rounds of improvement: what each learns from, is given and gives back."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from sqlalchemy import Connection, RowMapping, select, update

from medsam2.annotation.cases import list_cases
from medsam2.annotation.database import PROJECTS, ROUNDS
from medsam2.annotation.layout import make_folder
from medsam2.annotation.project import FINISHED, FIRST_ROUND, Project
from medsam2.annotation.versions import Version, digest, latest_done, list_versions
from medsam2.errors import Conflict, InputError
from medsam2.imaging.replacing import replacing

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


LEAST_TRAINING = 2
"""One to learn from, and one to tell when to stop by."""
FEWEST_CASES = LEAST_TRAINING + 1
"""With one to measure on."""
HELD_OUT_SHARE = 5
"""One case of so many is measured on and never learnt from."""

_FILE = "plan.json"
_PARTS = ("training", "held_out")


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
    start: str
    """Name or file of the weights that the project began with, to learn from: a round depends on the masks
    alone, and a mask that was wrong and is corrected leaves no trace."""
    weights: str
    """Name or file of the weights in use, to compare with."""
    folder: Path
    """For whatever the training writes; a round that goes on finds there what it has left."""


def finished_scans(project: Project) -> list[LabelledScan]:
    """List the cases that are done or reviewed and have something drawn, with their newest finished masks.

    A mask in which nothing is drawn is an answer, but there is no outline to learn in it.
    """
    found = []
    for case in list_cases(project):
        newest = latest_done(list_versions(project, case.id)) if case.state in FINISHED else None
        if newest is not None and _shows_something(newest):
            image, mask = project.folder / case.path, project.folder / newest.path
            found.append(LabelledScan(name=case.name, image=image, mask=mask))
    return found


def split(scans: Sequence[LabelledScan]) -> tuple[list[LabelledScan], list[LabelledScan]]:
    """Divide cases into those to learn from and those to measure on, by their names alone.

    A case stays on its side, whatever comes beside it. Only where the one side would be too small are cases
    taken from the other.

    Raises:
        InputError: There are too few.
    """
    if len(scans) < FEWEST_CASES:
        raise InputError(f"training needs {FEWEST_CASES} finished cases, one of them to measure on")
    ranks = {scan.name: int(hashlib.sha256(scan.name.encode()).hexdigest(), 16) for scan in scans}
    by_rank = sorted(ranks, key=lambda name: ranks[name])
    held = [name for name in by_rank if ranks[name] % HELD_OUT_SHARE == 0] or by_rank[:1]
    kept = set(held[-(len(scans) - LEAST_TRAINING) :])
    return [scan for scan in scans if scan.name not in kept], [scan for scan in scans if scan.name in kept]


def keep_plan(project: Project, plan: Plan) -> None:
    """Write beside a round which cases it learns from and measures on, whatever becomes of them later.

    Raises:
        InputError: The file cannot be written.
    """
    scans = {"training": plan.training, "held_out": plan.held_out}
    listed = {part: [_plain(project, scan) for scan in scans[part]] for part in _PARTS}
    make_folder(plan.folder)
    with replacing(plan.folder / _FILE, ".part") as temporary:
        temporary.write_text(json.dumps(listed, indent=1) + "\n", encoding="utf-8")


def read_plan(project: Project, number: int, folder: Path, *, start: str, weights: str) -> Plan:
    """Read what `keep_plan` has written.

    Raises:
        InputError: It is not there, or damaged.
    """
    try:
        listed = json.loads((folder / _FILE).read_text(encoding="utf-8"))
        training, held_out = (
            [
                LabelledScan(
                    name=str(one["name"]),
                    image=project.folder / one["image"],
                    mask=project.folder / one["mask"],
                )
                for one in listed[part]
            ]
            for part in _PARTS
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"round {number} cannot go on: its plan is missing or damaged") from error
    return Plan(
        number=number, training=training, held_out=held_out, start=start, weights=weights, folder=folder
    )


def _shows_something(version: Version) -> bool:
    return any(facts["voxels"] for facts in version.objects.values())


def _plain(project: Project, scan: LabelledScan) -> Mapping[str, str]:
    """A scan with its files below the project's folder, which may be moved."""
    facts = dataclasses.asdict(scan)
    for part in ("image", "mask"):
        facts[part] = facts[part].relative_to(project.folder).as_posix()
    return facts
