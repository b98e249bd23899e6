"""How well masks agree with references: Dice, ends and volume."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medsam2.errors import GeometryError

TARGET_DICE = 0.9
"""From here on a slice, or a whole mask, counts as done."""


def dice(first: np.ndarray, second: np.ndarray) -> float:
    """Return the Dice coefficient of two masks, 0 to 1; 1 if both are empty.

    Args:
        first: Boolean, of any shape.
        second: Boolean, of the same shape.
    """
    size = np.count_nonzero(first) + np.count_nonzero(second)
    return 2 * int(np.count_nonzero(first & second)) / int(size) if size else 1.0


@dataclass(frozen=True, kw_only=True)
class Overreach:
    """How far a mask goes on beyond the object's ends, along the slices; 0 where it stops in time."""

    above_slices: int
    """From the object's last slice to the mask's last one."""
    below_slices: int
    """From the object's first slice to the mask's first one."""
    above_mm: float
    below_mm: float


def measure_overreach(found: np.ndarray, truth: np.ndarray, step_mm: float) -> Overreach:
    """Measure over-propagation at both ends.

    Args:
        found: Boolean `(z, y, x)` along the sliced axis.
        truth: Boolean, of the same shape; not empty.
        step_mm: Distance between slices in mm; NaN for a picture, whose distances are then NaN.

    Raises:
        GeometryError: The shapes differ, or the object is in no slice.
    """
    if found.shape != truth.shape:
        raise GeometryError(f"masks of shapes {found.shape} and {truth.shape} cannot be compared")
    filled, there = (np.flatnonzero(mask.any(axis=(1, 2))) for mask in (found, truth))
    if not there.size:
        raise GeometryError("the object is in no slice, so it has no ends that a mask could go beyond")
    above = max(0, int(filled[-1] - there[-1])) if filled.size else 0
    below = max(0, int(there[0] - filled[0])) if filled.size else 0
    return Overreach(
        above_slices=above, below_slices=below, above_mm=above * step_mm, below_mm=below * step_mm
    )


def volume_error_percent(found: np.ndarray, truth: np.ndarray) -> float:
    """Return by how much a mask is larger than the object, in per cent of the object; -100 if it is empty.

    Args:
        found: Boolean, of any shape.
        truth: Boolean, of the same shape; not empty.

    Raises:
        GeometryError: The shapes differ, or the object is empty.
    """
    if found.shape != truth.shape or not truth.any():
        raise GeometryError("a volume error needs two masks of one shape and an object that is not empty")
    true_count = int(np.count_nonzero(truth))
    return 100 * (int(np.count_nonzero(found)) - true_count) / true_count


def poor_slices(found: np.ndarray, truth: np.ndarray, target: float = TARGET_DICE) -> int:
    """Count the slices of two masks `(z, y, x)` in which their Dice is below a target."""
    common = (found & truth).sum(axis=(1, 2))
    total = found.sum(axis=(1, 2)) + truth.sum(axis=(1, 2))
    return int(np.count_nonzero(2 * common[total > 0] < target * total[total > 0]))
