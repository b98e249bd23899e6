"""The log summed up by attempt, and how well the masks of different authors agree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from medsam2.annotation.cases import Case, list_cases
from medsam2.annotation.clock import Event, Part, Tally, num_interactions, tally
from medsam2.annotation.journal import list_events
from medsam2.annotation.project import Project
from medsam2.annotation.rounds import Round, list_rounds
from medsam2.annotation.versions import Version, latest_done, list_versions, read_version
from medsam2.errors import MedSAM2Error
from medsam2.measure.overlap import dice

SAVE = "save"


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """The work of one user on one case in one mode."""

    case: str
    user: str
    baseline: bool
    """Whether it was done without the model."""
    round: int
    """The round whose weights were in use at its end."""
    started_ms: int
    active_s: float
    acts: Mapping[str, int]
    """Number of events by kind, including those that change no mask."""
    hand_voxels: int
    is_finished: bool
    """Whether the user saved it, and saved a mask of the case as done."""

    @property
    def num_interactions(self) -> int:
        """Number of events that were to change a mask."""
        return num_interactions(self.acts)


@dataclass(frozen=True, kw_only=True)
class Record:
    """Everything in a project's database that the report needs, read once."""

    name: str
    cases: Sequence[Case]
    versions: Sequence[Version]
    events: Sequence[Event]
    tallies: Mapping[Part, Tally]
    attempts: Sequence[Attempt]
    rounds: Sequence[Round]

    def case_name(self, case_id: int) -> str:
        """Return the name of a case."""
        return next(case.name for case in self.cases if case.id == case_id)


def gather(project: Project) -> Record:
    """Read the record of a project."""
    cases, versions, events = list_cases(project), list_versions(project), list_events(project)
    tallies = tally(events)
    return Record(
        name=project.name,
        cases=cases,
        versions=versions,
        events=events,
        tallies=tallies,
        attempts=_attempts(cases, versions, events, tallies),
        rounds=list_rounds(project),
    )


def _attempts(
    cases: Sequence[Case],
    versions: Sequence[Version],
    events: Sequence[Event],
    tallies: Mapping[Part, Tally],
) -> list[Attempt]:
    names = {case.id: case.name for case in cases}
    authors = {(version.case, version.author) for version in versions if version.is_done}
    starts: dict[tuple[int, str, bool], int] = {}
    for event in events:
        key = (event.case, event.user, event.baseline)
        starts[key] = min(event.at_ms, starts.get(key, event.at_ms))
    sums: dict[tuple[int, str, bool], Tally] = {}
    rounds: dict[tuple[int, str, bool], int] = {}
    for part, one in tallies.items():
        key = (part.case, part.user, part.baseline)
        sums.setdefault(key, Tally()).add(one)
        rounds[key] = max(part.round, rounds.get(key, part.round))
    return [
        Attempt(
            case=names[case],
            user=user,
            baseline=baseline,
            round=rounds[case, user, baseline],
            started_ms=starts[case, user, baseline],
            active_s=one.active_s,
            acts=Counter(one.acts),
            hand_voxels=one.hand_voxels,
            is_finished=one.acts[SAVE] > 0 and (case, user) in authors,
        )
        for (case, user, baseline), one in sorted(sums.items(), key=lambda item: (names[item[0][0]], item[0]))
    ]


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How well two masks of one object agree."""

    case: str
    object: str
    first: str
    second: str
    """The authors; for a proposal, the name of the model."""
    round: int
    """The round in which the second mask was made."""
    dice: float
    """2 |A and B| / (|A| + |B|); 1 if neither mask has the object."""


def between_authors(project: Project, record: Record) -> list[Agreement]:
    """Compare the newest finished masks of different authors of the same case.

    Masks that can no longer be read are left out.
    """
    found: list[Agreement] = []
    for case in record.cases:
        done: dict[str, Version] = {}
        for version in record.versions:
            if version.case == case.id and version.is_done:
                done[version.author] = version  # in the order in which they were saved
        for first, second in combinations(sorted(done), 2):
            found += _compare(project, case.name, done[first], done[second])
    return found


def with_proposals(project: Project, record: Record) -> list[Agreement]:
    """Compare each finished mask with the newest proposal that the case had before."""
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


def mean_dice(found: Sequence[Agreement]) -> float | None:
    """Return the mean Dice over objects, None if there are no objects."""
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
