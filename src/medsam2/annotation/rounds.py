"""Rounds of fine-tuning: their rows in the database, and the cases that each learns from."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from sqlalchemy import Connection, RowMapping, Update, select, update

from medsam2.annotation.cases import list_cases
from medsam2.annotation.database import PROJECTS, ROUNDS, value_of
from medsam2.annotation.layout import make_folder
from medsam2.annotation.project import FINISHED, FIRST_ROUND, Project
from medsam2.annotation.versions import digest, latest_done, list_versions
from medsam2.errors import Conflict, InputError
from medsam2.imaging.replacing import replacing

RUNNING, READY, FAILED, STOPPED = "running", "ready", "failed", "stopped"
"""States of a round; a stopped one can be resumed."""
SERVER_ENDED = "the server ended while it was training"

logger = logging.getLogger(__name__)

_SILENT_S = 120.0  # a running round that has not reported for so long has ended with its process


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The result of a round."""

    weights: Path
    before: Mapping[str, float]
    """Measure -> value on the held-out cases, with the weights that were in use."""
    after: Mapping[str, float]
    message: str = "ready"
    """A sentence for the user."""


class Improver(Protocol):
    """How the application trains and changes weights."""

    def train(self, plan: Plan, report: Callable[[float, str], None]) -> Outcome:
        """Train, or resume the training in the plan's folder.

        `report` takes the finished part, 0 to 1, and a sentence. It must be called every second, also without
        news, because it raises `Ended` when the training must end.
        """
        ...

    def use(self, weights: str) -> None:
        """Use these weights, a name or a file, from now on."""
        ...


class Ended(Exception):
    """The program ends, so the training must end."""


@dataclass(frozen=True, kw_only=True)
class Round:
    """A round, as the database has it."""

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
        """Return the name of its weights."""
        return f"round {self.number}"


def current_round(project: Project) -> int:
    """Return the number of the round whose weights are in use."""
    with project.transaction() as db:
        wanted = select(PROJECTS.c.round).where(PROJECTS.c.key == project.key)
        return int(db.execute(wanted).scalar_one())


def list_rounds(project: Project) -> list[Round]:
    """List the rounds of a project, without round 1, which stands for the first weights."""
    wanted = select(ROUNDS).where(ROUNDS.c.project == project.key).order_by(ROUNDS.c.number)
    current = current_round(project)
    with project.transaction() as db:
        return [_round(project, row, current) for row in db.execute(wanted).mappings()]


def record_start(project: Project, user: str, num_cases: int) -> int:
    """Record that a round starts.

    Returns:
        Its number; 1 stands for the project's first weights.

    Raises:
        Conflict: Another round is running.
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


def record_resume(project: Project, number: int) -> None:
    """Record that a stopped round runs again.

    Raises:
        Conflict: Another round is running.
    """
    with project.transaction() as db:
        _none_running(db, project)
        values = {"state": RUNNING, "beat_ms": project.now_ms(), "ended_ms": None, "message": "resuming"}
        db.execute(_update(project, number).values(**values))


def record_progress(project: Project, number: int, values: Mapping[str, object]) -> None:
    """Record that the process of a round is alive, with new values for the columns of its row."""
    with project.transaction() as db:
        db.execute(_update(project, number).values(beat_ms=project.now_ms(), **values))


def record_use(project: Project, number: int, previous: int | None) -> None:
    """Record which round's weights are in use and, if given, which round's were in use before."""
    with project.transaction() as db:
        db.execute(update(PROJECTS).where(PROJECTS.c.key == project.key).values(round=number))
        if previous is not None:
            db.execute(_update(project, number).values(previous=previous))


def previous_round(project: Project) -> int | None:
    """Return the round whose weights were in use before the present ones, None if there was none."""
    wanted = select(ROUNDS.c.previous).join(PROJECTS, PROJECTS.c.key == ROUNDS.c.project)
    is_current = (PROJECTS.c.key == project.key) & (ROUNDS.c.number == PROJECTS.c.round)
    with project.transaction() as db:
        return db.execute(wanted.where(is_current)).scalar()


def round_in_use(project: Project) -> Round | None:
    """Return the round whose weights are in use; None if these are the project's first weights.

    If the weights of that round are missing or changed, the project goes back to its first weights.
    """
    one = next((one for one in list_rounds(project) if one.is_in_use), None)
    if one is None or digest(Path(str(one.weights))) == one.weights_sha256:
        return one
    logger.warning(
        "the weights of round %d are missing or were changed; the project's first weights are in use",
        one.number,
    )
    record_use(project, FIRST_ROUND, None)
    return None


def _update(project: Project, number: int) -> Update:
    return update(ROUNDS).where(ROUNDS.c.project == project.key, ROUNDS.c.number == number)


def _none_running(db: Connection, project: Project) -> Sequence[RowMapping]:
    """List the rows of rounds, and prevent the start of another round until the transaction ends."""
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
    return value_of(
        Round,
        row,
        state=state,
        message=row["message"] if state == row["state"] else SERVER_ENDED,
        # The row has a path relative to the project's folder, because the folder may be moved.
        weights=None if row["weights"] is None else str(project.folder.absolute() / row["weights"]),
        is_in_use=row["number"] == current,
    )


LEAST_TRAINING = 2
"""One case to learn from, and one to decide when to stop."""
FEWEST_CASES = LEAST_TRAINING + 1
"""These, and one case to measure the result on."""
HELD_OUT_SHARE = 5
"""One case in so many is held out: the result is measured on it, and training never sees it."""

_FILE = "plan.json"


@dataclass(frozen=True, kw_only=True)
class LabelledScan:
    """A finished case."""

    name: str
    image: Path
    mask: Path
    """Labels on the image's grid."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a round works with."""

    number: int
    training: Sequence[LabelledScan]
    held_out: Sequence[LabelledScan]
    """Cases to measure on, before and after the training."""
    start: str
    """Name or file of the project's first weights, where every round starts. So a round depends on the masks
    alone, and a wrong mask has no effect once it is corrected."""
    weights: str
    """Name or file of the weights in use, for the comparison."""
    folder: Path
    """Folder for the files of the training, which a resumed round continues from."""


def finished_scans(project: Project) -> list[LabelledScan]:
    """List the cases that are done or reviewed, with their newest finished masks.

    Cases with an empty mask are left out, because training needs an outline.
    """
    found = []
    for case in list_cases(project):
        newest = latest_done(list_versions(project, case.id)) if case.state in FINISHED else None
        if newest is not None and any(facts["voxels"] for facts in newest.objects.values()):
            image, mask = project.folder / case.path, project.folder / newest.path
            found.append(LabelledScan(name=case.name, image=image, mask=mask))
    return found


def split(scans: Sequence[LabelledScan]) -> tuple[list[LabelledScan], list[LabelledScan]]:
    """Split cases into those to learn from and those to measure on, by a digest of their names.

    A case stays in its part when other cases are added, unless one part would be too small.

    Raises:
        InputError: There are too few cases.
    """
    if len(scans) < FEWEST_CASES:
        raise InputError(f"training needs {FEWEST_CASES} finished cases, one of them to measure on")
    ranks = {scan.name: int(hashlib.sha256(scan.name.encode()).hexdigest(), 16) for scan in scans}
    by_rank = sorted(ranks, key=lambda name: ranks[name])
    chosen = [name for name in by_rank if ranks[name] % HELD_OUT_SHARE == 0] or by_rank[:1]
    held_out = set(chosen[-(len(scans) - LEAST_TRAINING) :])
    training = [scan for scan in scans if scan.name not in held_out]
    return training, [scan for scan in scans if scan.name in held_out]


def keep_plan(project: Project, plan: Plan) -> None:
    """Write the cases of a round into its folder, so that later changes of their states do not matter.

    Raises:
        InputError: The file cannot be written.
    """
    # With paths relative to the project's folder, because it may be moved.
    listed = {
        part: [
            {
                "name": scan.name,
                "image": scan.image.relative_to(project.folder).as_posix(),
                "mask": scan.mask.relative_to(project.folder).as_posix(),
            }
            for scan in scans
        ]
        for part, scans in (("training", plan.training), ("held_out", plan.held_out))
    }
    make_folder(plan.folder)
    with replacing(plan.folder / _FILE, ".part") as temporary:
        temporary.write_text(json.dumps(listed, indent=1) + "\n", encoding="utf-8")


def read_plan(project: Project, number: int, folder: Path, *, start: str, weights: str) -> Plan:
    """Read the plan that `keep_plan` has written.

    Raises:
        InputError: It is missing or damaged.
    """
    try:
        listed = json.loads((folder / _FILE).read_text(encoding="utf-8"))
        training, held_out = (
            [
                LabelledScan(
                    name=one["name"], image=project.folder / one["image"], mask=project.folder / one["mask"]
                )
                for one in listed[part]
            ]
            for part in ("training", "held_out")
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"round {number} cannot be resumed: its plan is missing or damaged") from error
    return Plan(
        number=number, training=training, held_out=held_out, start=start, weights=weights, folder=folder
    )
