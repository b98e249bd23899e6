"""Compare memory policies on the same objects: one run each, differences in pairs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from medsam2.evaluation.cases import XYXY, Task
from medsam2.evaluation.comparison import estimate_mean, holm, wilcoxon
from medsam2.evaluation.metrics import measure_dice
from medsam2.imaging.geometry import slices_along
from medsam2.imaging.volume import Volume
from medsam2.inference.predictor import Predictor
from medsam2.inference.runtime import InferenceOptions
from medsam2.tracking.policies import Policy


@dataclass(frozen=True, kw_only=True, eq=False)
class Subject:
    """An object to be followed."""

    name: str
    group: str
    """Kind of object, for tables."""
    volume: Volume
    truth: np.ndarray
    """Boolean `(z, y, x)` along the sliced axis."""
    key_slice: int
    box_xyxy: XYXY
    window: str | tuple[float, float] | None
    axis: int = 2


@dataclass(frozen=True, kw_only=True)
class ArmScore:
    """One object followed with one policy, through all slices of its volume."""

    arm: str
    subject: str
    group: str
    num_slices: int
    """That hold the object."""
    dice: float
    over_slices: int
    """Slices in which something was found and nothing is."""
    under_slices: int
    """Slices in which nothing was found and something is."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A policy against the first one over the same objects."""

    arm: str
    num_subjects: int
    mean_dice: float
    mean_over: float
    mean_under: float
    difference: float
    """Mean of the paired differences of Dice."""
    interval: tuple[float, float] | None
    """95 % of bootstrap means of that difference; None for fewer than `statistics.MIN_CLUSTERS` objects."""
    p_value: float
    """Wilcoxon's signed-rank test, by Holm's method for all policies together; 1 where nothing differs."""


def subject_of(task: Task) -> Subject:
    """Turn a case of a list into an object to be followed."""
    return Subject(
        name=task.case.name,
        group=f"{task.case.modality} {task.case.target}",
        volume=task.volume,
        truth=slices_along(task.truth, task.axis),
        key_slice=task.case.key_slice,
        box_xyxy=task.case.box_xyxy,
        window=task.case.window,
        axis=task.axis,
    )


def run_arms(
    subjects: Iterable[Subject], predictor: Predictor, arms: Mapping[str, Policy]
) -> Iterator[ArmScore]:
    """Follow every object with every policy.

    A direction goes on to the end of the volume and nothing is cut off afterwards, so that what a policy
    does beyond an object's end shows.
    """
    for subject in subjects:
        for name, policy in arms.items():
            options = InferenceOptions(memory=policy, keep_component=False, stop_after=0)
            session = predictor.session(
                subject.volume, window=subject.window, axis=subject.axis, options=options
            )
            session.add(1, slice=subject.key_slice, box=subject.box_xyxy)
            session.finish()
            yield _score(name, subject, session.mask(1))


def compare(scores: Sequence[ArmScore], *, seed: int = 0) -> list[Comparison]:
    """Compare every policy with the first one of the scores.

    Args:
        scores: Every policy once for every object.
        seed: Of the bootstrap.
    """
    arms = list(dict.fromkeys(score.arm for score in scores))
    by_arm = {arm: sorted((s for s in scores if s.arm == arm), key=lambda s: s.subject) for arm in arms}
    first = np.array([score.dice for score in by_arm[arms[0]]])
    differences = {arm: np.array([s.dice for s in by_arm[arm]]) - first for arm in arms}
    p_values = holm([wilcoxon(differences[arm]) for arm in arms[1:]])
    return [
        Comparison(
            arm=arm,
            num_subjects=len(by_arm[arm]),
            mean_dice=float(np.mean([s.dice for s in by_arm[arm]])),
            mean_over=float(np.mean([s.over_slices for s in by_arm[arm]])),
            mean_under=float(np.mean([s.under_slices for s in by_arm[arm]])),
            difference=float(differences[arm].mean()),
            interval=estimate_mean(
                differences[arm].tolist(), range(len(differences[arm])), seed=seed
            ).interval,
            p_value=p_value,
        )
        for arm, p_value in zip(arms, [1.0, *p_values], strict=True)
    ]


def _score(arm: str, subject: Subject, found: np.ndarray) -> ArmScore:
    is_found, is_there = found.any(axis=(1, 2)), subject.truth.any(axis=(1, 2))
    return ArmScore(
        arm=arm,
        subject=subject.name,
        group=subject.group,
        num_slices=int(is_there.sum()),
        dice=measure_dice(found, subject.truth),
        over_slices=int((is_found & ~is_there).sum()),
        under_slices=int((is_there & ~is_found).sum()),
    )
