"""What was logged, put together by attempt: one user on one case, with the model or without."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from medsam2.annotation.cases import Case, list_cases
from medsam2.annotation.clock import LOOKING, Event, Part, Tally, tally
from medsam2.annotation.journal import list_events
from medsam2.annotation.project import Project
from medsam2.annotation.rounds import Round, list_rounds
from medsam2.annotation.versions import Version, list_versions

SAVE = "save"


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """The work of one user on one case in one mode."""

    case: str
    user: str
    baseline: bool
    """Whether it was done without the model."""
    round: int
    """Whose weights were in use when it ended."""
    started_ms: int
    active_s: float
    acts: Mapping[str, int]
    """Events by kind, looking included."""
    hand_voxels: int
    is_finished: bool
    """Whether it was saved, and the user called a mask of the case done."""

    @property
    def num_interactions(self) -> int:
        """Acts that meant to change a mask."""
        return sum(count for kind, count in self.acts.items() if kind not in LOOKING)


@dataclass(frozen=True, kw_only=True)
class Record:
    """Everything that a project's database says, read once."""

    name: str
    cases: Sequence[Case]
    versions: Sequence[Version]
    events: Sequence[Event]
    tallies: Mapping[Part, Tally]
    attempts: Sequence[Attempt]
    rounds: Sequence[Round]

    def case_name(self, case_id: int) -> str:
        """What a case is called."""
        return next(case.name for case in self.cases if case.id == case_id)


def gather(project: Project) -> Record:
    """Read what a report needs."""
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
