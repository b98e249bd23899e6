"""From exact grey values to what a scanner shows: blur, noise, bias, speckle, shadows, 8 bits."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from medsam2.synthesis.fields import Floats, Grid, smooth_field

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
    echo = [
        ndimage.gaussian_filter(
            rng.standard_normal(grey.shape, dtype=np.float32), (0.0, speckle_y, speckle_x), truncate=2.5
        )
        for _ in range(2)
    ]
    envelope = np.sqrt(echo[0] ** 2 + echo[1] ** 2)
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


def _blur(grey: Floats, sigma: float) -> Floats:
    """Blur within slices with a Gaussian of so many pixels."""
    return np.asarray(ndimage.gaussian_filter(grey, (0.0, sigma, sigma), truncate=2.5), dtype=np.float32)


def _grain(rng: np.random.Generator, shape: tuple[int, ...], sharp: float) -> Floats:
    """Return noise of standard deviation 1, coarse (sharp = 0) to fine (sharp = 1)."""
    white = rng.standard_normal(shape, dtype=np.float32)
    if sharp > 0.8:
        return white
    sigma = 0.35 + 0.75 * (0.8 - sharp)
    grain = ndimage.gaussian_filter(white, (0.0, sigma, sigma), truncate=2.5)
    return np.asarray(grain / grain.std(), dtype=np.float32)
