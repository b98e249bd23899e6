"""One or two ways of segmenting over the same cases, and all that a report says about them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from medsam2.evaluation.comparison import Difference, compare_runs
from medsam2.evaluation.cost import CostSummary, TimeModel, annotation_cost
from medsam2.evaluation.metrics import measure_dice
from medsam2.evaluation.protocol import Case
from medsam2.evaluation.provenance import Provenance
from medsam2.evaluation.rounds import RunOptions, Segmenter
from medsam2.evaluation.runner import CaseResult, run_cases
from medsam2.imaging.labels import from_run_lengths, run_lengths


@dataclass(frozen=True, kw_only=True, eq=False)
class Arm:
    """A way of segmenting."""

    name: str
    segmenter: Segmenter
    options: RunOptions


@dataclass(kw_only=True, eq=False)
class Masks:
    """The masks of a run, as run lengths: a thousand scans of them fit into memory."""

    kept: dict[tuple[str, int], tuple[np.ndarray, tuple[int, ...]]] = field(default_factory=dict)
    alike: dict[tuple[str, int], float] = field(default_factory=dict)
    """Dice of the two ways' masks with one another, where both found one."""

    def keep(self, result: CaseResult, mask: np.ndarray) -> None:
        """Take a mask `(z, y, x)` in."""
        self.kept[result.name, result.repeat] = run_lengths(mask), mask.shape

    def compare(self, result: CaseResult, mask: np.ndarray) -> None:
        """Measure how much a mask of the second way is that of the first; nothing is kept of it."""
        key = result.name, result.repeat
        if key in self.kept:
            self.alike[key] = measure_dice(self.get(result), mask)

    def get(self, result: CaseResult) -> np.ndarray:
        """Return the mask of a result, bool `(z, y, x)`."""
        return from_run_lengths(*self.kept[result.name, result.repeat])


@dataclass(frozen=True, kw_only=True, eq=False)
class Study:
    """What was found."""

    cases: tuple[Case, ...]
    arms: tuple[str, ...]
    """One or two names."""
    options: RunOptions
    """Of the first arm."""
    results: tuple[tuple[CaseResult, ...], ...]
    """Of each arm, in the order of the cases."""
    masks: Masks
    """Of the first arm."""
    differences: tuple[Difference, ...]
    """The second arm minus the first; empty for one arm."""
    costs: tuple[CostSummary | None, ...]
    """Of each arm; None where the list has no scan."""
    provenance: Provenance | None
    """None where no report is made."""


def run_arms_of(cases: Sequence[Case], arms: Sequence[Arm], masks: Masks) -> Iterator[tuple[int, CaseResult]]:
    """Run every case with every arm, one after the other, so that a machine's moods meet all arms alike.

    Args:
        cases: What to run.
        arms: With one and the same protocol, noise and seed: then they get the same first prompts.
        masks: Takes the masks of the first arm, and compares those of the second with them.

    Yields:
        The number of the arm, and a result of it.
    """
    for case in cases:
        for number, arm in enumerate(arms):
            keep = masks.keep if number == 0 else masks.compare
            for result in run_cases([case], arm.segmenter, arm.options, keep=keep):
                yield number, result


def conclude(
    cases: Sequence[Case],
    arms: Sequence[Arm],
    results: Sequence[tuple[int, CaseResult]],
    masks: Masks,
    provenance: Provenance | None = None,
    *,
    model: TimeModel | None = None,
) -> Study:
    """Compare and add up what `run_arms_of` has given.

    Args:
        cases: What was run.
        arms: What it was run with.
        results: All of them.
        masks: Of the first arm.
        provenance: Of the run.
        model: Of the time that users take.
    """
    options = arms[0].options
    by_arm = tuple(tuple(r for number, r in results if number == arm) for arm in range(len(arms)))
    return Study(
        cases=tuple(cases),
        arms=tuple(arm.name for arm in arms),
        options=options,
        results=by_arm,
        masks=masks,
        differences=tuple(compare_runs(*by_arm, seed=options.seed)) if len(arms) == 2 else (),
        costs=tuple(annotation_cost(part, options.protocol, model, seed=options.seed) for part in by_arm),
        provenance=provenance,
    )
