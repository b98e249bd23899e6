"""Run a predictor on cases and measure its masks."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from medsam2.errors import MedSAM2Error
from medsam2.evaluation.cases import Case, Task, read_task
from medsam2.evaluation.metrics import Agreement, load_monai, measure
from medsam2.evaluation.simulated_user import RunOptions, Segmenter, auc, prompt_case
from medsam2.imaging.geometry import slices_along
from medsam2.measure.overlap import dice, measure_overreach, poor_slices, volume_error_percent
from medsam2.measure.sizes import volume_ml


@dataclass(frozen=True, kw_only=True)
class Scores:
    """The measures of one mask."""

    dice: float
    surface_dice: float
    """At a tolerance of 2 mm; of 2 pixels where `hd95_px` is given."""
    hd95_mm: float | None
    """Infinite if nothing was found; None for a picture without a spacing."""
    hd95_px: float | None
    """The same for such a picture, in pixels; None for all others."""
    key_slice_dice: float
    """In the slice that was prompted first."""
    over_slices: int
    """Slices with a mask and no object."""
    under_slices: int
    """Slices with the object and no mask."""
    seconds: float
    """Of the segmentation alone, all interactions together, without reading and measuring."""
    num_slices: int
    """Of the scan."""
    strict_surface_dice: float | None = None
    """At a tolerance of 1 mm; of 1 pixel where `hd95_px` is given."""
    assd_mm: float | None = None
    """Average symmetric surface distance; infinite and None as `hd95_mm`."""
    assd_px: float | None = None
    volume_ml: float | None = None
    """Of the mask; None for a picture, as the three that follow."""
    true_volume_ml: float | None = None
    volume_error_ml: float | None = None
    """Positive if the mask is too large."""
    slice_mm: float | None = None
    """Distance between slices."""
    volume_error_percent: float | None = None
    """Of the object; of its area in a picture."""
    over_above_slices: int | None = None
    """How many slices the mask goes on beyond the object's last one, and before its first one; and in mm."""
    over_below_slices: int | None = None
    over_above_mm: float | None = None
    over_below_mm: float | None = None
    object_slices: int | None = None
    """Slices that hold the object."""
    peak_mib: float | None = None
    """The most memory that the process used meanwhile; None where the system does not tell."""
    dice_auc: float | None = None
    """Area under the Dice over the clicks; None for a protocol without clicks. See `simulated_user.auc`."""
    surface_dice_auc: float | None = None


def score(
    found: np.ndarray,
    task: Task,
    agreement: Agreement,
    *,
    seconds: float,
    peak_mib: float | None = None,
) -> Scores:
    """Measure a mask against a case's truth.

    Args:
        found: Boolean `(z, y, x)` on the scan's grid.
        task: The case.
        agreement: From `metrics.measure`, of the mask and the truth.
        seconds: How long the segmentation took.
        peak_mib: The most memory in use meanwhile.

    Raises:
        GeometryError: The mask does not have the scan's shape.
    """
    slices, true_slices = (slices_along(array, task.axis) for array in (found, task.truth))
    is_found, is_there = slices.any(axis=(1, 2)), true_slices.any(axis=(1, 2))
    is_scan, has_mm = task.case.axis is not None, task.has_mm
    step_mm = task.spacing[task.axis] if is_scan else math.nan
    ends = measure_overreach(slices, true_slices, step_mm)
    volume, true_volume = (
        volume_ml(int(np.count_nonzero(mask)), task.volume.affine) if is_scan else None
        for mask in (found, task.truth)
    )
    return Scores(
        dice=agreement.dice,
        surface_dice=agreement.surface_dice,
        hd95_mm=agreement.hd95 if has_mm else None,
        hd95_px=None if has_mm else agreement.hd95,
        key_slice_dice=dice(slices[task.case.key_slice], true_slices[task.case.key_slice]),
        over_slices=int(np.count_nonzero(is_found & ~is_there)),
        under_slices=int(np.count_nonzero(is_there & ~is_found)),
        seconds=seconds,
        num_slices=len(slices),
        strict_surface_dice=agreement.strict_surface_dice,
        assd_mm=agreement.assd if has_mm else None,
        assd_px=None if has_mm else agreement.assd,
        volume_ml=volume,
        true_volume_ml=true_volume,
        volume_error_ml=None if volume is None or true_volume is None else volume - true_volume,
        slice_mm=step_mm if is_scan else None,
        volume_error_percent=volume_error_percent(found, task.truth),
        over_above_slices=ends.above_slices,
        over_below_slices=ends.below_slices,
        over_above_mm=ends.above_mm if is_scan else None,
        over_below_mm=ends.below_mm if is_scan else None,
        object_slices=int(np.count_nonzero(is_there)),
        peak_mib=peak_mib,
    )


# The last three are raised on a machine that is too small, or when a file vanishes.
_FAILURES = (MedSAM2Error, RuntimeError, MemoryError, OSError)

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Step:
    """What the mask was after one interaction."""

    interactions: int
    """So far, this one included."""
    dice: float
    surface_dice: float
    seconds: float
    """That the machine took for this interaction."""
    poor_slices: int
    """Slices of the object or the mask whose own Dice is below `overlap.TARGET_DICE`."""


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
    scan: int | None = None
    """Cases of one patient, or of one image, share a number; see `cases.Case`."""
    reference: str | None = None
    """How the truth was made; see `cases.Case`."""
    scores: Scores | None = None
    """Of the last mask; None if the case failed."""
    steps: tuple[Step, ...] = ()
    """The mask after each interaction."""
    error: str | None = None
    """Why it failed, in a sentence."""


Keep = Callable[[CaseResult, np.ndarray], None]
"""Receives a result and its mask, bool `(z, y, x)`, which is not kept otherwise."""


def run_cases(
    cases: Iterable[Case],
    segmenter: Segmenter,
    options: RunOptions | None = None,
    *,
    keep: Keep | None = None,
) -> Iterator[CaseResult]:
    """Run cases one by one; one that fails does not stop the rest.

    Args:
        cases: What to run.
        segmenter: What to run it with.
        options: How to prompt; the tight box once if not given.
        keep: Is given each result with its last mask.

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
            yield from (_failed(case, repeat, error) for repeat in range(options.repeats))
            continue
        for repeat in range(options.repeats):
            try:
                result, mask = _run_task(task, segmenter, options, repeat)
            except _FAILURES as error:
                yield _failed(case, repeat, error)
                continue
            if keep is not None:
                keep(result, mask)
            yield result


def _run_task(
    task: Task, segmenter: Segmenter, options: RunOptions, repeat: int
) -> tuple[CaseResult, np.ndarray]:
    steps: list[Step] = []
    peaks: list[float] = []
    for answer in prompt_case(task, segmenter, options, repeat):
        mask = answer.mask
        agreement = measure(mask, task.truth, task.spacing)
        slices, truth = (slices_along(array, task.axis) for array in (mask, task.truth))
        steps.append(
            Step(
                interactions=answer.interactions,
                dice=agreement.dice,
                surface_dice=agreement.surface_dice,
                seconds=answer.seconds,
                poor_slices=poor_slices(slices, truth),
            )
        )
        peaks += [] if answer.peak_mib is None else [answer.peak_mib]
    seconds, peak_mib = sum(step.seconds for step in steps), max(peaks, default=None)
    scores = score(mask, task, agreement, seconds=seconds, peak_mib=peak_mib)
    if options.has_clicks:
        after_clicks = [step for step in steps if step.interactions > 1 or options.protocol == "clicks"]
        scores = dataclasses.replace(
            scores,
            dice_auc=auc([step.dice for step in after_clicks]),
            surface_dice_auc=auc([step.surface_dice for step in after_clicks]),
        )
    result = dataclasses.replace(_blank(task.case, repeat), scores=scores, steps=tuple(steps))
    return result, mask


def _failed(case: Case, repeat: int, error: Exception) -> CaseResult:
    if not isinstance(error, MedSAM2Error):
        _logger.error("case %s failed", case.name, exc_info=error)
    return dataclasses.replace(_blank(case, repeat), error=str(error) or type(error).__name__)


def _blank(case: Case, repeat: int) -> CaseResult:
    return CaseResult(
        name=case.name,
        modality=case.modality,
        target=case.target,
        dimensions=2 if case.axis is None else 3,
        repeat=repeat,
        scan=case.scan,
        reference=case.reference,
    )
