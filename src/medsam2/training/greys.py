"""Chance changes to the greys of a clip: what another scanner, window or coil would have made of it."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

GAMMA_STD = 0.3
CONTRAST_STD = 0.2
BRIGHTNESS_STD = 0.08
CHANGE_SHARE = 0.5
INVERT_SHARE = 0.06
NOISE_SHARE = 0.3
MOST_NOISE = 0.08
BLUR_SHARE = 0.15
BIAS_SHARE = 0.2
BIAS_STD = 0.2
SLICE_SHARE = 0.3  # clips whose slices differ in brightness
SLICE_STD = 0.02
SHADOW_SHARE = 0.3  # of ultrasound


def change_greys(clip: Tensor, modality: str | None, rng: np.random.Generator) -> Tensor:
    """Change the greys of a clip `(T, S, S)`, 0 to 1, all slices alike but for noise and brightness."""
    if rng.random() < CHANGE_SHARE:
        clip = clip.clamp(0, 1) ** math.exp(rng.normal(0, GAMMA_STD))
    if rng.random() < CHANGE_SHARE:
        contrast, brightness = math.exp(rng.normal(0, CONTRAST_STD)), rng.normal(0, BRIGHTNESS_STD)
        clip = (clip - 0.5) * contrast + 0.5 + brightness
    if rng.random() < INVERT_SHARE:
        clip = 1 - clip
    if modality != "CT" and rng.random() < BIAS_SHARE:
        clip = clip * _bias(rng, clip.shape[-1])
    if modality == "US" and rng.random() < SHADOW_SHARE:
        clip = clip * _shadow(rng, clip.shape[-1])
    if rng.random() < SLICE_SHARE:
        shifts = rng.normal(0, SLICE_STD, len(clip)).astype(np.float32)
        clip = clip + torch.from_numpy(shifts)[:, None, None]
    if rng.random() < BLUR_SHARE:
        clip = F.avg_pool2d(clip[None], 3, stride=1, padding=1, count_include_pad=False)[0]
    if rng.random() < NOISE_SHARE:
        noise = torch.from_numpy(rng.standard_normal(tuple(clip.shape), dtype=np.float32))
        clip = clip + noise * rng.uniform(0, MOST_NOISE)
    return clip.clamp(0, 1)


def _bias(rng: np.random.Generator, size: int) -> Tensor:
    """A smooth factor, as of a coil's field, `(S, S)`."""
    coarse = torch.from_numpy(rng.standard_normal((1, 1, 3, 3), dtype=np.float32)) * BIAS_STD
    field: Tensor = F.interpolate(coarse, size=(size, size), mode="bilinear", align_corners=True)
    return field[0, 0].exp()


def _shadow(rng: np.random.Generator, size: int) -> Tensor:
    """A dark strip from some depth down, as behind bone or gas, `(S, S)`."""
    middle, half = rng.uniform(0, size), size * rng.uniform(0.03, 0.12)
    pixel = torch.arange(size, dtype=torch.float32)
    across = (-0.5 * ((pixel - middle) / half) ** 2).exp()
    down = (pixel >= size * rng.uniform(0.1, 0.6)).float()
    return 1 - rng.uniform(0.4, 0.9) * down[:, None] * across
