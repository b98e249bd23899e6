"""What a painted stack shows where its label map has nothing."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from medsam2.synthesis.fields import Floats, Grid, smooth_field

SMALLEST_SHARE = 0.1
"""Where less of a stack is empty, it is one grey."""
FLAT_SHARE = 0.2
PATCHY_SHARE = 0.6
"""Of textured surroundings that have patches as of several tissues."""
BODY_SHARE = 0.55
"""Of textured surroundings that end at a skin around the structures, with air beyond."""
COARSENESS_PX = 4
"""The body is found on every fourth row and column."""


def paint_surroundings(rng: np.random.Generator, grid: Grid, is_empty: npt.NDArray[np.bool_]) -> Floats:
    """Paint tissue that nobody has labelled, and air.

    Args:
        rng: Source of randomness.
        grid: Voxels to fill.
        is_empty: (z, y, x), where the map has nothing.

    Returns:
        Grey values (z, y, x).
    """
    air = float(rng.choice([0.0, 0.02, rng.uniform(0.0, 0.15)]))
    if is_empty.mean() < SMALLEST_SHARE or rng.random() < FLAT_SHARE:
        return np.full(grid.shape, rng.choice([air, rng.uniform(0.1, 0.45)]), dtype=np.float32)
    tissue = _paint_tissue(rng, grid)
    if rng.random() > BODY_SHARE:
        return tissue
    return np.asarray(air + _body(rng, grid, is_empty) * (tissue - air), dtype=np.float32)


def _paint_tissue(rng: np.random.Generator, grid: Grid) -> Floats:
    """Paint patches with borders, or one grey, with a texture."""
    view_mm, pixel_mm = grid.size_mm[2], grid.step_mm[2]
    ground = float(rng.uniform(0.08, 0.6))
    tissue = np.full(grid.shape, ground, dtype=np.float32)
    if rng.random() < PATCHY_SHARE:
        field = smooth_field(rng, grid, view_mm * float(rng.uniform(0.04, 0.2)))
        borders = np.sort(rng.normal(0.0, 0.9, size=int(rng.integers(1, 4))))
        greys = ground + rng.uniform(-0.2, 0.3, size=borders.size + 1)
        tissue = np.clip(greys, 0.0, 1.0).astype(np.float32)[np.digitize(field, borders)]
    tissue += np.float32(rng.uniform(0.005, 0.045)) * smooth_field(
        rng, grid, pixel_mm * rng.uniform(2.0, 8.0)
    )
    return tissue


def _body(rng: np.random.Generator, grid: Grid, is_empty: npt.NDArray[np.bool_]) -> Floats:
    """Return 1 within a smooth body around the structures and 0 in the air."""
    filled = ~is_empty[:, ::COARSENESS_PX, ::COARSENESS_PX]
    reach = float(rng.uniform(2.0, 7.0))
    near = ndimage.gaussian_filter(filled.astype(np.float32), (1.0, reach, reach), truncate=2.5)
    num_rows, num_columns = grid.shape[1:]
    for axis, size in ((1, num_rows), (2, num_columns)):
        near = _stretch(near, axis, size)
    near += np.float32(0.02) * smooth_field(rng, grid, grid.size_mm[2] * 0.3)
    return np.clip((near - np.float32(rng.uniform(0.05, 0.2))) / np.float32(0.02), 0.0, 1.0)


def _stretch(values: Floats, axis: int, size: int) -> Floats:
    """Interpolate linearly between every fourth row or column."""
    place = np.arange(size, dtype=np.float32) / COARSENESS_PX
    first = np.minimum(place.astype(np.intp), values.shape[axis] - 1)
    second = np.minimum(first + 1, values.shape[axis] - 1)
    fraction = (place - first).reshape((1, -1, 1) if axis == 1 else (1, 1, -1)).astype(np.float32)
    lower, upper = values.take(first, axis), values.take(second, axis)
    return np.asarray(lower + np.clip(fraction, 0.0, 1.0) * (upper - lower))
