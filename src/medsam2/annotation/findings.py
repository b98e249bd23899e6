"""The results of a project: attempts, time by round, time saved, agreement of masks, pictures."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from medsam2.annotation.cases import Case, list_cases
from medsam2.annotation.journal import LOOKING, Event, Part, Tally, list_events, tally
from medsam2.annotation.layout import find_picture, keep_picture, outlined
from medsam2.annotation.project import Project
from medsam2.annotation.rounds import Round, list_rounds
from medsam2.annotation.versions import Version, latest_done, list_versions, read_version
from medsam2.errors import MedSAM2Error
from medsam2.imaging.io import read
from medsam2.measure.intervals import bootstrap_interval
from medsam2.measure.overlap import dice

MAX_PICTURES = 12
_SAVE = "save"


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """The work of one user on one case in one mode."""

    case: str
    user: str
    baseline: bool
    """Whether it was done without the model."""
    round: int
    """The round whose weights were in use at its end."""
    work: Tally
    is_finished: bool
    """Whether the user saved it, and saved a mask of the case as done."""


@dataclass(frozen=True, kw_only=True)
class Saving:
    """How much less time a case takes with the model than without it."""

    value: float
    """1 - seconds with / seconds without; negative if it takes longer with the model."""
    interval: tuple[float, float] | None
    """95 % bootstrap interval over cases; None with fewer than two cases."""
    is_paired: bool
    """Whether the same cases were done with and without the model; otherwise two groups are compared."""
    num_with: int
    num_without: int
    with_s: float
    """Mean seconds per case with the model."""
    without_s: float
    pairs: tuple[tuple[str, float, float], ...]
    """Case, seconds without, seconds with; of the cases that were done both with and without the model."""
    num_baseline_first: int
    """Number of pairs in which the work without the model came first."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """The finished attempts of one round in one mode."""

    round: int
    baseline: bool
    seconds: Mapping[str, float]
    """Case -> active seconds."""
    mean_s: float
    interval_s: tuple[float, float] | None
    """95 % bootstrap interval of the mean over cases; None with fewer than two cases."""
    acts: Mapping[str, float]
    """Kind of interaction -> mean number per case."""
    hand_voxels: float
    """Mean number of voxels per case that were changed by hand."""

    @property
    def title(self) -> str:
        """Return its name in tables and figures."""
        return "without the model" if self.baseline else f"round {self.round}, with the model"


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


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A finished mask, drawn on its scan."""

    case: str
    author: str
    objects: tuple[str, ...]
    png: bytes


@dataclass(frozen=True, kw_only=True)
class Findings:
    """Everything that the report shows."""

    name: str
    cases: Sequence[Case]
    events: Sequence[Event]
    tallies: Mapping[Part, Tally]
    rounds: Sequence[Round]
    attempts: Sequence[Attempt]
    groups: Sequence[Group]
    saving: Saving | None
    savings_by_round: Sequence[tuple[int, Saving]]
    authors: Sequence[Agreement]
    """The newest finished masks of different authors of one case."""
    proposals: Sequence[Agreement]
    """Each finished mask with the newest proposal that the case had before."""
    pictures: Sequence[Picture]

    @property
    def finished(self) -> list[Attempt]:
        """Return the finished attempts, which alone count for means."""
        return [one for one in self.attempts if one.is_finished]


def find(project: Project) -> Findings:
    """Read a project's database once, and compute the results."""
    cases, events = list_cases(project), list_events(project)
    versions: dict[int, list[Version]] = defaultdict(list)
    for version in list_versions(project):
        versions[version.case].append(version)
    tallies = tally(events)
    attempts = _attempts(cases, versions, tallies)
    finished = [one for one in attempts if one.is_finished]
    savings = []
    for number in sorted({one.round for one in finished if not one.baseline}):
        saving = compare([one for one in finished if one.baseline or one.round == number])
        if saving is not None:
            savings.append((number, saving))
    return Findings(
        name=project.name,
        cases=cases,
        events=events,
        tallies=tallies,
        rounds=list_rounds(project),
        attempts=attempts,
        groups=group_attempts(finished),
        saving=compare(finished),
        savings_by_round=savings,
        authors=[one for case in cases for one in _between_authors(project, case, versions[case.id])],
        proposals=[one for case in cases for one in _with_proposal(project, case, versions[case.id])],
        pictures=list(_pictures(project, cases, versions)),
    )


def _attempts(
    cases: Sequence[Case], versions: Mapping[int, Sequence[Version]], tallies: Mapping[Part, Tally]
) -> list[Attempt]:
    work: dict[tuple[int, str, bool], Tally] = {}
    rounds: dict[tuple[int, str, bool], int] = {}
    for part, one in tallies.items():
        key = (part.case, part.user, part.baseline)
        work.setdefault(key, Tally()).add(one)
        rounds[key] = max(part.round, rounds.get(key, part.round))
    attempts = []
    for case in cases:
        authors = {version.author for version in versions[case.id] if version.is_done}
        for key in sorted(key for key in work if key[0] == case.id):
            _, user, baseline = key
            is_finished = work[key].acts[_SAVE] > 0 and user in authors
            attempts.append(
                Attempt(
                    case=case.name, user=user, baseline=baseline, round=rounds[key], work=work[key],
                    is_finished=is_finished,
                )
            )  # fmt: skip
    return attempts


def seconds_by_case(attempts: Sequence[Attempt]) -> dict[str, float]:
    """Return case -> active seconds of its finished attempts, the mean of several users."""
    found: dict[str, list[float]] = {}
    for attempt in attempts:
        if attempt.is_finished:
            found.setdefault(attempt.case, []).append(attempt.work.active_s)
    return {case: float(np.mean(seconds)) for case, seconds in found.items()}


def compare(attempts: Sequence[Attempt]) -> Saving | None:
    """Compare finished attempts with the model and without it.

    If at least two cases were done both with and without the model, only these count, in pairs, and the
    bootstrap draws pairs. Otherwise the means of the two groups of cases are compared, and the bootstrap
    draws from each group.

    Returns:
        None if there is no attempt with the model, or none without it.
    """
    with_model = seconds_by_case([one for one in attempts if not one.baseline])
    without = seconds_by_case([one for one in attempts if one.baseline])
    both = sorted(with_model.keys() & without.keys())
    is_paired = len(both) >= 2 or (bool(both) and len(with_model) == len(without) == 1)
    ours = np.array([with_model[case] for case in (both if is_paired else with_model)])
    theirs = np.array([without[case] for case in (both if is_paired else without)])
    if ours.size == 0 or theirs.sum() <= 0:
        return None
    interval = bootstrap_interval(
        (ours, theirs),
        lambda o, t, axis=-1: 1 - o.mean(axis=axis) / t.mean(axis=axis),
        0,
        is_paired=is_paired,
    )
    return Saving(
        value=float(1 - ours.mean() / theirs.mean()),
        interval=interval,
        is_paired=is_paired,
        num_with=len(ours),
        num_without=len(theirs),
        with_s=float(ours.mean()),
        without_s=float(theirs.mean()),
        pairs=tuple((case, without[case], with_model[case]) for case in both),
        num_baseline_first=sum(
            _start(attempts, case, baseline=True) < _start(attempts, case, baseline=False) for case in both
        ),
    )


def _start(attempts: Sequence[Attempt], case: str, *, baseline: bool) -> int:
    chosen = [one for one in attempts if one.case == case and one.baseline is baseline and one.is_finished]
    return min(one.work.started_ms for one in chosen)


def group_attempts(finished: Sequence[Attempt]) -> list[Group]:
    """Group attempts by round; those without the model are one group, because no weights take part."""
    groups: dict[tuple[bool, int], list[Attempt]] = {}
    for attempt in finished:
        key = (not attempt.baseline, 0 if attempt.baseline else attempt.round)
        groups.setdefault(key, []).append(attempt)
    found = []
    for (has_model, number), chosen in sorted(groups.items()):
        seconds = seconds_by_case(chosen)
        values = np.array(list(seconds.values()))
        kinds = sorted({kind for one in chosen for kind in one.work.acts} - LOOKING)
        found.append(
            Group(
                round=number,
                baseline=not has_model,
                seconds=seconds,
                mean_s=float(values.mean()),
                interval_s=bootstrap_interval((values,), np.mean, 0, is_paired=False),
                acts={kind: float(np.mean([one.work.acts[kind] for one in chosen])) for kind in kinds},
                hand_voxels=float(np.mean([one.work.hand_voxels for one in chosen])),
            )
        )
    return found


def mean_dice(found: Sequence[Agreement]) -> float | None:
    """Return the mean Dice over objects, None if there are no objects."""
    return float(np.mean([one.dice for one in found])) if found else None


def _between_authors(project: Project, case: Case, versions: Sequence[Version]) -> Iterator[Agreement]:
    newest = {version.author: version for version in versions if version.is_done}  # in the order of saving
    for first, second in combinations(sorted(newest), 2):
        yield from _compare_masks(project, case.name, newest[first], newest[second])


def _with_proposal(project: Project, case: Case, versions: Sequence[Version]) -> Iterator[Agreement]:
    final = latest_done(versions)
    before = [one for one in versions if final and one.is_proposal and one.number < final.number]
    if final is not None and before:
        yield from _compare_masks(project, case.name, before[-1], final)


def _compare_masks(project: Project, case: str, first: Version, second: Version) -> Iterator[Agreement]:
    """Compare two masks object by object; masks that can no longer be read are left out."""
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


def _pictures(
    project: Project, cases: Sequence[Case], versions: Mapping[int, Sequence[Version]]
) -> Iterator[Picture]:
    """Draw the newest finished masks; cases whose files cannot be read are left out."""
    num_shown = 0
    for case in cases:
        version = latest_done(versions[case.id])
        if version is None or num_shown == MAX_PICTURES:
            continue
        png = find_picture(project.folder, f"outlined {version.sha256}") or _draw(project, case.path, version)
        if png is not None:
            num_shown += 1
            names = tuple(str(facts["name"]) for facts in version.objects.values())
            yield Picture(case=case.name, author=version.author, objects=names, png=png)


def _draw(project: Project, path: str, version: Version) -> bytes | None:
    colours = {int(label): str(facts["colour"]) for label, facts in version.objects.items()}
    try:
        labels = read_version(project, version).array
        png = outlined(read(project.folder / path), labels, colours)
    except MedSAM2Error:
        return None
    keep_picture(project.folder, f"outlined {version.sha256}", png)
    return png
