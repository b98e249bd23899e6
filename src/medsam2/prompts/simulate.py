"""Prompts as a user would give them, made from a known mask."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from medsam2.errors import PromptError
from medsam2.prompts.types import Box, Point

MAX_BOX_NOISE_PX = 20.0  # MedSAM2's limit, in pixels of the network's input


def tight_box(mask: npt.NDArray[np.bool_]) -> Box:
    """Find the smallest box around a mask `(y, x)`, both ends included.

    Raises:
        PromptError: The mask is empty.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if rows.size == 0:
        raise PromptError("an empty mask has no box")
    return Box(x_min=float(columns[0]), y_min=float(rows[0]), x_max=float(columns[-1]), y_max=float(rows[-1]))


def jitter_box(
    box: Box,
    rng: np.random.Generator,
    *,
    fraction: float,
    shape_yx: tuple[int, int],
    limit_px: float = MAX_BOX_NOISE_PX,
) -> Box:
    """Move each end of a box by up to a fraction of the box's side (MedSAM2's training noise).

    Args:
        box: The box.
        rng: Source of chance.
        fraction: Largest shift as a part of the width (x) or height (y).
        shape_yx: Size of the slice; the result lies in it and keeps some width and height.
        limit_px: Largest shift in pixels.
    """
    height, width = shape_yx
    shift_x = min(fraction * (box.x_max - box.x_min + 1), limit_px)
    shift_y = min(fraction * (box.y_max - box.y_min + 1), limit_px)
    noise = rng.uniform(-1, 1, 4) * (shift_x, shift_y, shift_x, shift_y)
    x_min, y_min, x_max, y_max = np.asarray(box.xyxy) + noise
    x_min, x_max = _ordered(x_min, x_max, width - 1)
    y_min, y_max = _ordered(y_min, y_max, height - 1)
    return Box(x_min=x_min, y_min=y_min, x_max=x_max, y_max=y_max)


def _ordered(low: float, high: float, last: int) -> tuple[float, float]:
    """Clip an interval to 0..last and keep it at least a pixel long where there is room."""
    low, high = sorted((float(np.clip(low, 0, last)), float(np.clip(high, 0, last))))
    if high - low >= 1:
        return low, high
    low = max(0.0, min(low, last - 1))
    return low, min(low + 1.0, float(last))


def random_point(region: npt.NDArray[np.bool_], rng: np.random.Generator, *, is_positive: bool) -> Point:
    """Click somewhere in a region `(y, x)` that is not empty."""
    candidates = np.flatnonzero(region)
    y, x = np.unravel_index(candidates[rng.integers(candidates.size)], region.shape)
    return Point(x=float(x), y=float(y), is_positive=is_positive)


def center_point(region: npt.NDArray[np.bool_], *, is_positive: bool) -> Point:
    """Click where a region `(y, x)` is thickest, as a careful user does."""
    depth = ndimage.distance_transform_edt(np.pad(region, 1))[1:-1, 1:-1]
    y, x = np.unravel_index(int(depth.argmax()), region.shape)
    return Point(x=float(x), y=float(y), is_positive=is_positive)


def correction(
    predicted: npt.NDArray[np.bool_], truth: npt.NDArray[np.bool_], rng: np.random.Generator
) -> Point:
    """Click on a wrong pixel of `predicted` `(y, x)`, or inside the object if there is none.

    An object that is not there at all is answered by a click outside.
    """
    wrong = predicted != truth
    if not wrong.any():
        return random_point(truth if truth.any() else ~truth, rng, is_positive=bool(truth.any()))
    point = random_point(wrong, rng, is_positive=True)
    return Point(x=point.x, y=point.y, is_positive=bool(truth[int(point.y), int(point.x)]))
