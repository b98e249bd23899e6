"""Run a predictor over cases and measure what it finds."""

import logging
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from medsam2.errors import InputError, MedSAM2Error
from medsam2.evaluation.metrics import load_monai, measure, measure_dice
from medsam2.evaluation.protocol import XYXY, Case
from medsam2.evaluation.task import Task, choose_box, read_task
from medsam2.imaging.geometry import slices_along
from medsam2.imaging.volume import Volume

# The last three are what a machine that is too small, or a file that vanishes, looks like.
_FAILURES = (MedSAM2Error, RuntimeError, MemoryError, OSError)

_logger = logging.getLogger(__name__)


class Segmenter(Protocol):
    """What can be evaluated: the network's predictor, or another method that answers the same question."""

    def segment(
        self,
        volume: Volume,
        *,
        slice: int,  # noqa: A002 - the public API's word
        box: XYXY,
        window: str | tuple[float, float] | None = None,
        axis: int = 2,
        memory: str = "recent",
    ) -> Volume:
        """Return the mask, 0 and 1 on the volume's grid, of what is in a box on a slice along a file axis."""


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How cases are prompted.

    Raises:
        InputError: A number is out of its range, or repeats would only repeat.
    """

    box_noise: float = 0.0
    """Largest shift of each end of the box, as a part of its width or height; 0 leaves it as it is."""
    repeats: int = 1
    """How often each case is run, each time with other noise."""
    seed: int = 0
    """Of the noise."""
    memory: str = "recent"
    """The network's memory policy."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        if not 0 <= self.box_noise <= 1:
            raise InputError(f"box noise is a part of the box's side, 0 to 1, not {self.box_noise:g}")
        if self.repeats < 1 or self.seed < 0:
            raise InputError(f"repeats start at 1 and seeds at 0, these are {self.repeats} and {self.seed}")
        if self.repeats > 1 and self.box_noise == 0:
            raise InputError(f"{self.repeats} repeats without noise on the box would give the same numbers")


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What was measured of one mask."""

    dice: float
    surface_dice: float
    """At a tolerance of 2 mm; of 2 pixels where `hd95_px` is given."""
    hd95_mm: float | None
    """Infinite if nothing was found; None for a picture without a spacing."""
    hd95_px: float | None
    """The same for such a picture, in pixels; None for all others."""
    key_slice_dice: float
    """In the slice that was prompted."""
    over_slices: int
    """Slices in which something was found and nothing is."""
    under_slices: int
    """Slices in which nothing was found and something is."""
    seconds: float
    """Of the segmentation alone, without reading and measuring."""
    num_slices: int
    """Of the scan."""


@dataclass(frozen=True, kw_only=True)
class CaseResult:
    """One run of one case."""

    name: str
    modality: str
    target: str
    dimensions: int
    """3, or 2 for a picture."""
    repeat: int = 0
    """Counted from 0."""
    scores: Scores | None = None
    """None if the case failed."""
    error: str | None = None
    """Why it failed, in a sentence."""


@dataclass(frozen=True, kw_only=True)
class Means:
    """Means over runs; those that failed are counted and left out, None stands for a mean of nothing."""

    num_runs: int
    num_failed: int
    num_missed: int
    """Runs that found nothing at all: in each mean but those of HD95, where they would be infinite."""
    dice: float | None
    surface_dice: float | None
    hd95_mm: float | None
    hd95_px: float | None
    key_slice_dice: float | None
    over_slices: float | None
    under_slices: float | None
    seconds: float | None


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Means of an evaluation, over 3D scans and over 2D pictures apart."""

    volumes: Means
    stills: Means
    by_modality: dict[str, Means]
    """Modality -> means over all its cases, in the order in which they came."""


def run_cases(
    cases: Iterable[Case], segmenter: Segmenter, options: RunOptions | None = None
) -> Iterator[CaseResult]:
    """Run cases one by one; one that fails does not stop the rest.

    Args:
        cases: What to run.
        segmenter: What to run it with.
        options: How to prompt; the tight box once if not given.

    Yields:
        One result for each repeat of each case, as it is done.

    Raises:
        InputError: MONAI, which measures, is not installed.
    """
    options = options or RunOptions()
    load_monai()  # or every case would fail for the same reason
    for case in cases:
        try:
            task = read_task(case)
        except _FAILURES as error:
            yield from (_result(case, repeat, error) for repeat in range(options.repeats))
            continue
        for repeat in range(options.repeats):
            try:
                outcome: Scores | Exception = _run_task(task, segmenter, options, repeat)
            except _FAILURES as error:
                outcome = error
            yield _result(case, repeat, outcome)


def summarise(results: Sequence[CaseResult]) -> Summary:
    """Return the means over 3D scans, over pictures, and by modality."""
    modalities = dict.fromkeys(result.modality for result in results)
    return Summary(
        volumes=_means([result for result in results if result.dimensions == 3]),
        stills=_means([result for result in results if result.dimensions == 2]),
        by_modality={
            name: _means([result for result in results if result.modality == name]) for name in modalities
        },
    )


def _run_task(task: Task, segmenter: Segmenter, options: RunOptions, repeat: int) -> Scores:
    case = task.case
    box = choose_box(task, noise=options.box_noise, seed=options.seed, repeat=repeat)
    start = time.perf_counter()
    mask = segmenter.segment(
        task.volume,
        slice=case.key_slice,
        box=box,
        window=case.window,
        axis=task.axis,
        memory=options.memory,
    )
    seconds = time.perf_counter() - start
    predicted = mask.array != 0
    agreement = measure(predicted, task.truth, task.spacing)
    slices, true_slices = (slices_along(array, task.axis) for array in (predicted, task.truth))
    is_found, is_there = slices.any(axis=(1, 2)), true_slices.any(axis=(1, 2))
    return Scores(
        dice=agreement.dice,
        surface_dice=agreement.surface_dice,
        hd95_mm=agreement.hd95 if task.has_mm else None,
        hd95_px=None if task.has_mm else agreement.hd95,
        key_slice_dice=measure_dice(slices[case.key_slice], true_slices[case.key_slice]),
        over_slices=int(np.count_nonzero(is_found & ~is_there)),
        under_slices=int(np.count_nonzero(is_there & ~is_found)),
        seconds=seconds,
        num_slices=len(slices),
    )


def _result(case: Case, repeat: int, outcome: Scores | Exception) -> CaseResult:
    scores = outcome if isinstance(outcome, Scores) else None
    error = outcome if isinstance(outcome, Exception) else None
    if error is not None and not isinstance(error, MedSAM2Error):
        _logger.error("case %s failed", case.name, exc_info=error)
    return CaseResult(
        name=case.name,
        modality=case.modality,
        target=case.target,
        dimensions=2 if case.axis is None else 3,
        repeat=repeat,
        scores=scores,
        error=None if error is None else str(error) or type(error).__name__,
    )


def _means(results: Sequence[CaseResult]) -> Means:
    scores = [result.scores for result in results if result.scores is not None]

    def mean(name: str) -> float | None:
        values = [getattr(one, name) for one in scores]
        measured = [value for value in values if value is not None and math.isfinite(value)]
        return float(np.mean(measured)) if measured else None

    return Means(
        num_runs=len(results),
        num_failed=len(results) - len(scores),
        num_missed=sum(math.inf in (one.hd95_mm, one.hd95_px) for one in scores),
        dice=mean("dice"),
        surface_dice=mean("surface_dice"),
        hd95_mm=mean("hd95_mm"),
        hd95_px=mean("hd95_px"),
        key_slice_dice=mean("key_slice_dice"),
        over_slices=mean("over_slices"),
        under_slices=mean("under_slices"),
        seconds=mean("seconds"),
    )
