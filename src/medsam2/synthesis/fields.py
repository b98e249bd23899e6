"""Smooth random fields on a grid of voxels."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The voxel grid of one stack."""

    shape: tuple[int, int, int]
    """Voxels along (z, y, x)."""
    spacing_mm: tuple[float, float, float]
    """Distance of voxel centres along (x, y, z) in mm."""
    thickness_mm: float
    """Slice thickness in mm: less than the spacing leaves gaps, more lets slices overlap."""

    @property
    def step_mm(self) -> tuple[float, float, float]:
        """Distance of voxel centres in the order of the array, (z, y, x)."""
        x_mm, y_mm, z_mm = self.spacing_mm
        return z_mm, y_mm, x_mm

    @property
    def size_mm(self) -> tuple[float, float, float]:
        """Edge lengths (z, y, x) of the whole grid in mm."""
        depth, height, width = (n * step for n, step in zip(self.shape, self.step_mm, strict=True))
        return depth, height, width

    def axes_mm(self) -> tuple[Floats, Floats, Floats]:
        """Return centred coordinates in mm, shaped (z, 1, 1), (1, y, 1) and (1, 1, x) to broadcast."""
        z, y, x = (
            ((np.arange(n) - (n - 1) / 2) * step).astype(np.float32)
            for n, step in zip(self.shape, self.step_mm, strict=True)
        )
        return z[:, None, None], y[None, :, None], x[None, None, :]


def smooth_field(
    rng: np.random.Generator, grid: Grid, scale_mm: float | tuple[float, float, float]
) -> Floats:
    """Draw a smooth random field of mean 0 and standard deviation 1.

    Noise on a coarse lattice is interpolated with cubic B-splines, axis by axis as matrix products: some
    milliseconds a field, where a Gaussian filter of that width would take a second.

    Args:
        rng: Source of randomness.
        grid: Voxels to fill.
        scale_mm: Distance of lattice nodes in mm, about the size of the field's features; one value, or
            one for each of (z, y, x).

    Returns:
        Array (z, y, x), float32.
    """
    scales = (scale_mm,) * 3 if isinstance(scale_mm, float | int) else scale_mm
    z_weights, y_weights, x_weights = (
        _spline_weights(n, max(scale / step, 1e-3), float(rng.random()))
        for n, step, scale in zip(grid.shape, grid.step_mm, scales, strict=True)
    )
    nodes = rng.standard_normal(
        (z_weights.shape[1], y_weights.shape[1], x_weights.shape[1]), dtype=np.float32
    )
    # The longest array appears in the last product only.
    field = np.tensordot(z_weights, nodes, axes=(1, 0))
    field = y_weights @ field
    # One flat product: NumPy's product of stacks of matrices is many times slower.
    field = (field.reshape(-1, x_weights.shape[1]) @ x_weights.T).reshape(grid.shape)
    variance = math.prod(float(np.mean(np.sum(w * w, axis=1))) for w in (z_weights, y_weights, x_weights))
    field /= np.float32(math.sqrt(variance))
    return np.asarray(field, dtype=np.float32)


def _spline_weights(num_samples: int, samples_per_node: float, phase: float) -> Floats:
    """Return the matrix (samples, nodes) that evaluates a uniform cubic B-spline."""
    if samples_per_node <= 1.0:  # finer than the grid: white noise
        return np.eye(num_samples, dtype=np.float32)
    position = np.arange(num_samples) / samples_per_node + phase
    first = np.floor(position).astype(np.intp)
    t = position - first
    weights = np.zeros((num_samples, int(first[-1]) + 4), dtype=np.float32)
    rows = np.arange(num_samples)
    for offset, value in enumerate(
        ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3)
    ):
        weights[rows, first + offset] = value / 6
    return weights


def soft_occupancy(level: Floats, slice_width: float = 1.0) -> Floats:
    """Return how much of each voxel lies where a level function is positive.

    To first order the share of a box cut by a surface depends on the level at its centre and on its
    differences between neighbours, so no finer grid is needed.

    Args:
        level: Array (z, y, x), positive inside, smooth near zero.
        slice_width: Slice thickness as a multiple of the distance between slices.

    Returns:
        Array (z, y, x), float32, 0 to 1.
    """
    width = np.full(level.shape, 1e-6, dtype=np.float32)
    for axis, weight in ((0, slice_width), (1, 1.0), (2, 1.0)):
        if level.shape[axis] < 2:
            continue
        change = np.abs(np.diff(level, axis=axis))
        if weight != 1.0:
            change *= np.float32(weight)
        inner = [slice(None)] * 3
        inner[axis] = slice(0, -1)
        width[tuple(inner)] += change
        inner[axis] = slice(-1, None)
        width[tuple(inner)] += np.take(change, [-1], axis=axis)
    occupancy = level / width
    occupancy += np.float32(0.5)
    return np.clip(occupancy, 0.0, 1.0, out=occupancy)


def paint(canvas: Floats, occupancy: Floats, value: Floats | float) -> None:
    """Cover the canvas with a value, in place, as far as each voxel is occupied."""
    canvas += occupancy * (value - canvas)
