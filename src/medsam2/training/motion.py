"""Chance movements of a clip: rotation, shear and size of the whole, and of single slices by themselves."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from medsam2.training.config import AugmentConfig


def move(
    clip: npt.NDArray[np.uint8], targets: Tensor, config: AugmentConfig, rng: np.random.Generator
) -> tuple[npt.NDArray[np.uint8], Tensor]:
    """Move a clip and its masks alike; what comes in from beyond the edge repeats the edge.

    A movement that would take the object out of the first slice, which is prompted, is not made. Nothing is
    drawn from `rng` where the configuration moves nothing.

    Args:
        clip: `(t, y, x)`, square.
        targets: float32 of 0 and 1, of the same shape.
        config: How much.
        rng: Source of chance.
    """
    maps = _draw_maps(len(clip), config, rng)
    if maps is None:
        return clip, targets
    grid = F.affine_grid(maps, [len(clip), 1, *clip.shape[1:]], align_corners=False)
    moved = _sample(targets, grid) >= 0.5
    if not moved[0].any():
        return clip, targets
    greys = _sample(torch.from_numpy(clip.astype(np.float32)), grid)
    return greys.round().clamp(0, 255).to(torch.uint8).numpy(), moved.float()


def _draw_maps(length: int, config: AugmentConfig, rng: np.random.Generator) -> Tensor | None:
    """Where each output pixel comes from, `(t, 2, 3)` in units of half the side; None for no movement."""
    has_whole = config.rotation_degrees > 0 or config.shear_degrees > 0 or config.scale != (1.0, 1.0)
    moves = config.moving_share > 0 and rng.random() < config.moving_share
    if not has_whole and not moves:
        return None
    maps = np.zeros((length, 2, 3))
    maps[:, :, :2] = np.eye(2)
    if has_whole:
        turned = _rotation(rng.uniform(-1, 1) * config.rotation_degrees)
        sheared = np.array([[1, math.tan(math.radians(rng.uniform(-1, 1) * config.shear_degrees))], [0, 1]])
        maps[:, :, :2] = turned @ sheared / rng.uniform(*config.scale)
    if moves:
        for one in maps:
            one[:, :2] = one[:, :2] @ _rotation(rng.uniform(-1, 1) * config.moving_degrees)
            one[:, 2] = 2 * config.moving_shift * rng.uniform(-1, 1, 2)
    return torch.from_numpy(maps.astype(np.float32))


def _rotation(degrees: float) -> npt.NDArray[np.float64]:
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return np.array([[cosine, -sine], [sine, cosine]])


def _sample(planes: Tensor, grid: Tensor) -> Tensor:
    sampled: Tensor = F.grid_sample(
        planes[:, None], grid, mode="bilinear", padding_mode="border", align_corners=False
    )
    return sampled[:, 0]
