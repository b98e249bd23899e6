"""From exact greys to what a scanner shows: smooth random fields, blur, noise, bias, speckle, 8 bits."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import ndimage

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

    def sized(self, shape: tuple[int, ...]) -> Grid:
        """Return a grid of the same voxels with another number of them along (z, y, x)."""
        depth, height, width = shape
        return replace(self, shape=(depth, height, width))

    def axes_mm(self) -> tuple[Floats, Floats, Floats]:
        """Return centred coordinates in mm, shaped (z, 1, 1), (1, y, 1) and (1, 1, x) to broadcast."""
        z, y, x = (
            ((np.arange(n) - (n - 1) / 2) * step).astype(np.float32)
            for n, step in zip(self.shape, self.step_mm, strict=True)
        )
        return z[:, None, None], y[None, :, None], x[None, None, :]


def log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """Draw a positive number whose logarithm is spread evenly: halves and doubles come equally often."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


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
        change = np.abs(np.diff(level, axis=axis)) * np.float32(weight)
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


DYNAMIC_RANGE_DB = 60.0
"""Echo strengths that an ultrasound machine spreads over black to white, typically."""


def render_ct(rng: np.random.Generator, grid: Grid, grey: Floats, noise: float) -> Floats:
    """Blur within slices and add noise whose grain is that of a soft or a sharp kernel."""
    sharp = float(rng.random())
    image = _blur(grey, float(rng.uniform(0.45, 0.7 + 0.5 * (1 - sharp))))
    return np.asarray(image + noise * _grain(rng, grid.shape, sharp), dtype=np.float32)


def render_mr(rng: np.random.Generator, grid: Grid, grey: Floats, noise: float) -> Floats:
    """Blur, shade with the coils' smooth sensitivity, sometimes ghost, add Rician noise."""
    image = _blur(np.maximum(grey, 0.0), float(rng.uniform(0.4, 1.0)))
    size = max(grid.size_mm[1:])
    shading = smooth_field(rng, grid, (size, size * 0.6, size * 0.6))
    image *= np.exp(np.float32(rng.uniform(0.03, 0.3)) * shading)
    if rng.random() < 0.15:
        axis = int(rng.integers(1, 3))
        shift = int(rng.integers(grey.shape[axis] // 6, grey.shape[axis] // 2))
        image += np.float32(rng.uniform(0.02, 0.08)) * np.roll(image, shift, axis=axis)
    sharp = float(rng.uniform(0.0, 0.6))
    real = image + noise * _grain(rng, grey.shape, sharp)
    imaginary = noise * _grain(rng, grey.shape, sharp)
    return np.asarray(np.sqrt(real * real + imaginary * imaginary), dtype=np.float32)


def render_us(rng: np.random.Generator, grey: Floats, seen: npt.NDArray[np.bool_]) -> Floats:
    """Add what ultrasound adds: speckle, loss with depth, shadows, black outside of the field of view."""
    speckle_y, speckle_x = float(rng.uniform(0.5, 1.0)), float(rng.uniform(0.8, 2.2))
    real, imaginary = (
        _blur(rng.standard_normal(grey.shape, dtype=np.float32), speckle_y, speckle_x) for _ in range(2)
    )
    envelope = np.sqrt(real**2 + imaginary**2)
    envelope /= np.sqrt(np.mean(envelope**2))
    decibel = 20.0 * np.log10(np.maximum(envelope, 0.25))
    image = _blur(grey, float(rng.uniform(0.5, 0.9)))
    # Strong echoes take energy from what lies behind; little echo leaves more than usual.
    cost = np.clip(image - 0.55, 0.0, 1.0) * np.float32(rng.uniform(0.01, 0.08))
    cost += np.float32(rng.uniform(-0.1, 0.3) / grey.shape[1])
    cost -= np.float32(rng.uniform(0.0, 0.004)) * (image < 0.12)
    loss = np.cumsum(cost, axis=1)
    loss = ndimage.uniform_filter1d(ndimage.uniform_filter1d(loss, 7, axis=2), 7, axis=2)
    # Several looks averaged by the machine make speckle weaker than theory.
    image += np.float32(rng.uniform(0.35, 0.9) / DYNAMIC_RANGE_DB) * decibel.astype(np.float32)
    image -= np.maximum(loss, -0.12)
    image = np.maximum(image * np.float32(rng.uniform(0.8, 1.25)) - np.float32(rng.uniform(-0.05, 0.08)), 0.0)
    return np.asarray(image * seen, dtype=np.float32)


def field_of_view(rng: np.random.Generator, grid: Grid) -> npt.NDArray[np.bool_]:
    """Return where the probe sees: everything, or a fan from above."""
    height = grid.size_mm[1]
    _, y, x = grid.axes_mm()
    if rng.random() < 0.6:
        top = float(rng.uniform(-0.05, 0.06)) * height - height / 2
        return np.broadcast_to(y > top, grid.shape)
    apex = -height / 2 - height * float(rng.uniform(0.02, 0.6))
    distance = np.sqrt((y - apex) ** 2 + x**2)
    angle = np.abs(np.arctan2(x, y - apex))
    near, far = -height / 2 - apex, height / 2 - apex
    widest = float(rng.uniform(0.45, 0.8))
    seen = (distance > near + 0.02 * height) & (distance < far) & (angle < widest)
    return np.broadcast_to(seen, grid.shape)


def finish(rng: np.random.Generator, image: Floats, invert_share: float) -> npt.NDArray[np.uint8]:
    """Vary single slices, gamma and polarity a little, then cut off to 8 bits.

    Args:
        rng: Source of randomness.
        image: Array (z, y, x), 0 to 1 is the range shown.
        invert_share: Share of stacks shown black for white.
    """
    if rng.random() < 0.3:
        spread = float(rng.uniform(0.005, 0.04))
        per_slice = rng.normal(0.0, spread, size=(2, image.shape[0], 1, 1)).astype(np.float32)
        image = image * (1.0 + per_slice[0]) + 0.5 * per_slice[1] * (image > 0.02)
    image = np.clip(image, 0.0, 1.0)
    if rng.random() < 0.3:
        image = image ** np.float32(rng.uniform(0.7, 1.4))
    if rng.random() < invert_share:
        image = 1.0 - image
    return np.asarray(np.rint(image * 255.0), dtype=np.uint8)


def _blur(grey: Floats, sigma: float, sigma_x: float | None = None) -> Floats:
    """Blur within slices with a Gaussian of so many pixels, along x of another width if given."""
    sigmas = (0.0, sigma, sigma if sigma_x is None else sigma_x)
    return np.asarray(ndimage.gaussian_filter(grey, sigmas, truncate=2.5), dtype=np.float32)


def _grain(rng: np.random.Generator, shape: tuple[int, ...], sharp: float) -> Floats:
    """Return noise of standard deviation 1, coarse (sharp = 0) to fine (sharp = 1)."""
    white = rng.standard_normal(shape, dtype=np.float32)
    if sharp > 0.8:
        return white
    grain = _blur(white, 0.35 + 0.75 * (0.8 - sharp))
    return np.asarray(grain / grain.std(), dtype=np.float32)
