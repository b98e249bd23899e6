"""How much the masks of different authors, and those of the model and of a person, have in common."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from medsam2.annotation.attempts import Record
from medsam2.annotation.project import Project
from medsam2.annotation.versions import Version, latest_done, read_version
from medsam2.errors import MedSAM2Error


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Two masks of one object."""

    case: str
    object: str
    first: str
    second: str
    """Authors; of a proposal, the model's name."""
    round: int
    """In which the second one was made."""
    dice: float
    """2 |A and B| / (|A| + |B|); 1 where neither has the object."""


def between_authors(project: Project, record: Record) -> list[Agreement]:
    """Compare the newest finished masks of different authors of the same case.

    A mask that cannot be read any more is left out.
    """
    found: list[Agreement] = []
    for case in record.cases:
        done: dict[str, Version] = {}
        for version in record.versions:
            if version.case == case.id and version.is_done:
                done[version.author] = version  # they come in the order of saving
        for first, second in combinations(sorted(done), 2):
            found += _compare(project, case.name, done[first], done[second])
    return found


def with_proposals(project: Project, record: Record) -> list[Agreement]:
    """Compare the newest proposal that a case had before it was done with the mask that was made of it."""
    found: list[Agreement] = []
    for case in record.cases:
        versions = [version for version in record.versions if version.case == case.id]
        final = latest_done(versions)
        if final is None:
            continue
        before = [one for one in versions if one.is_proposal and one.number < final.number]
        if before:
            found += _compare(project, case.name, before[-1], final)
    return found


def dice(first: np.ndarray, second: np.ndarray) -> float:
    """Return the Dice coefficient of two boolean masks of one shape; 1 where both are empty."""
    size = int(first.sum()) + int(second.sum())
    return 2 * int((first & second).sum()) / size if size else 1.0


def mean_dice(found: Sequence[Agreement]) -> float | None:
    """Return the mean over objects; None of none."""
    return float(np.mean([one.dice for one in found])) if found else None


def _compare(project: Project, case: str, first: Version, second: Version) -> Iterator[Agreement]:
    try:
        one, other = (read_version(project, version).array for version in (first, second))
    except MedSAM2Error:
        return
    for label in sorted({int(key) for key in (*first.objects, *second.objects)}):
        facts = second.objects.get(str(label)) or first.objects.get(str(label)) or {}
        yield Agreement(
            case=case,
            object=str(facts.get("name", f"object {label}")),
            first=first.author,
            second=second.author,
            round=second.round,
            dice=dice(one == label, other == label),
        )
