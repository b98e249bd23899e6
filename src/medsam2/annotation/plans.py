"""What a round learns from and measures on, and the file that lets a round that was stopped go on."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medsam2.annotation.cases import list_cases
from medsam2.annotation.layout import make_folder
from medsam2.annotation.project import Project
from medsam2.annotation.states import FINISHED
from medsam2.annotation.versions import Version, latest_done, list_versions
from medsam2.errors import InputError
from medsam2.imaging.replacing import replacing

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
