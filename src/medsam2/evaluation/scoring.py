"""What is measured of one mask, with units."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from medsam2.evaluation.extent import measure_overreach, volume_error_percent
from medsam2.evaluation.metrics import Agreement, measure_dice
from medsam2.evaluation.task import Task
from medsam2.imaging.geometry import slices_along
from medsam2.imaging.measure import volume_ml


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
    """In the slice that was prompted first."""
    over_slices: int
    """Slices in which something was found and nothing is."""
    under_slices: int
    """Slices in which nothing was found and something is."""
    seconds: float
    """Of the segmentation alone, all rounds together, without reading and measuring."""
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
    """That hold the object."""
    peak_mib: float | None = None
    """Most memory that the process held meanwhile; None where the system does not tell."""
    dice_auc: float | None = None
    """Area under the Dice over the clicks; None for a protocol without clicks. See `rounds.auc`."""
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
        agreement: What `metrics.measure` says of both.
        seconds: That the segmentation took.
        peak_mib: Most memory that was in use meanwhile.

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
        key_slice_dice=measure_dice(slices[task.case.key_slice], true_slices[task.case.key_slice]),
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
