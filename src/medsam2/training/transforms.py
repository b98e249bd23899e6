"""Chance changes to a clip that leave its masks true: flips, turns, intensities, noise."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

GAMMA_RANGE = (0.6, 1.6)
SLICE_JITTER = 0.04  # of the grey range, slice by slice
MAX_NOISE = 0.05
INVERT_SHARE = 0.08
NOISE_SHARE = 0.3
CONTRAST_SHARE = 0.6


def turn(stack: npt.NDArray[np.generic], flips: int) -> npt.NDArray[np.generic]:
    """Flip or turn `(z, y, x)` in the plane into one of its eight positions, 0..7."""
    if flips & 1:
        stack = stack[:, :, ::-1]
    if flips & 2:
        stack = stack[:, ::-1]
    if flips & 4:
        stack = stack.transpose(0, 2, 1)
    return stack


def change_intensities(clip: npt.NDArray[np.uint8], rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Change contrast, brightness and noise of a clip `(t, y, x)`, each with some probability."""
    levels = np.linspace(0, 1, 256)
    if rng.random() < CONTRAST_SHARE:
        low, high = rng.uniform(-0.15, 0.2), rng.uniform(0.8, 1.2)
        levels = np.clip((levels - low) / (high - low), 0, 1) ** np.exp(rng.uniform(*np.log(GAMMA_RANGE)))
    if rng.random() < INVERT_SHARE:
        levels = 1 - levels
    shift = (
        rng.normal(0, SLICE_JITTER / 2, len(clip)) if rng.random() < CONTRAST_SHARE else np.zeros(len(clip))
    )
    tables = np.clip((levels[None] + shift[:, None]) * 255, 0, 255)
    changed = np.stack([table[plane] for table, plane in zip(tables, clip, strict=True)])
    if rng.random() < NOISE_SHARE:
        noise = rng.standard_normal(clip.shape, dtype=np.float32)
        changed = changed + noise * (255 * rng.uniform(0, MAX_NOISE))
    return np.clip(changed, 0, 255).astype(np.uint8)
