"""The results in a project's record: time by round, time saved, agreement, pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from medsam2.annotation.attempts import Agreement, Attempt, Record, between_authors, gather, with_proposals
from medsam2.annotation.clock import LOOKING
from medsam2.annotation.layout import find_picture, keep_picture, outlined
from medsam2.annotation.project import Project
from medsam2.annotation.versions import Version, latest_done, read_version
from medsam2.errors import MedSAM2Error
from medsam2.imaging.io import read
from medsam2.measure.intervals import bootstrap_interval


@dataclass(frozen=True, kw_only=True)
class Mean:
    """A mean over cases with its 95 % bootstrap interval, which needs at least two cases."""

    value: float
    interval: tuple[float, float] | None
    num_cases: int


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


def seconds_by_case(attempts: Sequence[Attempt]) -> dict[str, float]:
    """Return case -> active seconds of its finished attempts, the mean of several users."""
    found: dict[str, list[float]] = {}
    for attempt in attempts:
        if attempt.is_finished:
            found.setdefault(attempt.case, []).append(attempt.active_s)
    return {case: float(np.mean(seconds)) for case, seconds in found.items()}


def mean_of(values: Sequence[float], *, seed: int = 0) -> Mean | None:
    """Return the mean over cases, None if there are no cases."""
    if not values:
        return None
    array = np.asarray(values, np.float64)
    interval = bootstrap_interval(
        (array,), lambda values, axis=-1: values.mean(axis=axis), seed, is_paired=False
    )
    return Mean(value=float(array.mean()), interval=interval, num_cases=len(array))


def compare(attempts: Sequence[Attempt], *, seed: int = 0) -> Saving | None:
    """Compare finished attempts with the model and without it.

    If at least two cases were done both with and without the model, only these count, in pairs, and the
    bootstrap draws pairs. Otherwise the means of the two groups of cases are compared, and the bootstrap
    draws from each group.

    Returns:
        None if there is no attempt with the model, or none without it.
    """
    with_model = seconds_by_case([one for one in attempts if not one.baseline])
    without = seconds_by_case([one for one in attempts if one.baseline])
    if not with_model or not without or sum(without.values()) <= 0:
        return None
    both = sorted(with_model.keys() & without.keys())
    is_paired = len(both) >= 2 or (bool(both) and len(with_model) == len(without) == 1)
    ours = np.array([with_model[case] for case in (both if is_paired else with_model)])
    theirs = np.array([without[case] for case in (both if is_paired else without)])
    if theirs.sum() <= 0:
        return None
    interval = bootstrap_interval(
        (ours, theirs),
        lambda o, t, axis=-1: 1 - o.mean(axis=axis) / t.mean(axis=axis),
        seed,
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
        num_baseline_first=sum(_baseline_came_first(attempts, case) for case in both),
    )


def _baseline_came_first(attempts: Sequence[Attempt], case: str) -> bool:
    starts = {
        baseline: min(
            one.started_ms for one in attempts
            if one.case == case and one.baseline is baseline and one.is_finished
        )
        for baseline in (True, False)
    }  # fmt: skip
    return starts[True] < starts[False]


MAX_PICTURES = 12


@dataclass(frozen=True, kw_only=True)
class Group:
    """The finished attempts of one round in one mode."""

    round: int
    baseline: bool
    seconds: Mapping[str, float]
    """Case -> active seconds."""
    mean_s: Mean
    median_s: float
    acts: Mapping[str, float]
    """Kind of interaction -> mean number per case."""
    hand_voxels: float
    """Mean number of voxels per case that were changed by hand."""

    @property
    def title(self) -> str:
        """Return its name in tables and figures."""
        return "without the model" if self.baseline else f"round {self.round}, with the model"


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

    record: Record
    groups: Sequence[Group]
    saving: Saving | None
    savings_by_round: Sequence[tuple[int, Saving]]
    authors: Sequence[Agreement]
    proposals: Sequence[Agreement]
    pictures: Sequence[Picture]

    @property
    def finished(self) -> list[Attempt]:
        """Return the finished attempts, which alone count for means."""
        return [one for one in self.record.attempts if one.is_finished]


def find(project: Project) -> Findings:
    """Read a project's record and compute the results."""
    record = gather(project)
    finished = [one for one in record.attempts if one.is_finished]
    baseline = [one for one in finished if one.baseline]
    savings = []
    for number in sorted({one.round for one in finished if not one.baseline}):
        of_round = [one for one in finished if not one.baseline and one.round == number]
        saving = compare([*of_round, *baseline])
        if saving is not None:
            savings.append((number, saving))
    return Findings(
        record=record,
        groups=list(_groups(finished)),
        saving=compare(finished),
        savings_by_round=savings,
        authors=between_authors(project, record),
        proposals=with_proposals(project, record),
        pictures=list(_pictures(project, record)),
    )


def _groups(finished: Sequence[Attempt]) -> Iterator[Group]:
    """Group attempts by round; those without the model are one group, because no weights take part."""
    keys = sorted({(not one.baseline, 0 if one.baseline else one.round) for one in finished})
    for has_model, number in keys:
        chosen = [
            one
            for one in finished
            if one.baseline is not has_model and (not has_model or one.round == number)
        ]
        seconds = seconds_by_case(chosen)
        mean = mean_of(list(seconds.values()))
        assert mean is not None
        kinds = sorted({kind for one in chosen for kind in one.acts if kind not in LOOKING})
        yield Group(
            round=number,
            baseline=not has_model,
            seconds=seconds,
            mean_s=mean,
            median_s=float(np.median(list(seconds.values()))),
            acts={kind: float(np.mean([one.acts.get(kind, 0) for one in chosen])) for kind in kinds},
            hand_voxels=float(np.mean([one.hand_voxels for one in chosen])),
        )


def _pictures(project: Project, record: Record) -> Iterator[Picture]:
    """Draw the newest finished masks; cases whose files cannot be read are left out."""
    shown = 0
    for case in record.cases:
        version = latest_done([one for one in record.versions if one.case == case.id])
        if version is None or shown == MAX_PICTURES:
            continue
        png = find_picture(project.folder, f"outlined {version.sha256}") or _draw(project, case.path, version)
        if png is not None:
            shown += 1
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
