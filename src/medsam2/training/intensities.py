"""Chance changes to greys as each modality makes them, by MONAI's transforms."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from functools import lru_cache
from types import MappingProxyType, ModuleType

import numpy as np
import numpy.typing as npt
import torch

from medsam2.errors import InputError

SHARE = 0.3
"""How often each change is made."""


def change_as_modality(
    clip: npt.NDArray[np.uint8], modality: str | None, rng: np.random.Generator
) -> npt.NDArray[np.uint8]:
    """Change the greys of a clip as its scanner might have.

    CT gets noise and another kernel's sharpness; MR the bias field of a coil, other contrasts between
    tissues, ringing and Rician noise; ultrasound another gain and sharpness, and shadows that reach to the
    far edge. Anything else is treated as CT.

    Args:
        clip: `(t, y, x)`.
        modality: "CT", "MR", "US" or None.
        rng: Source of chance; the same state makes the same change.

    Raises:
        InputError: MONAI is not installed.
    """
    transforms = _transforms(modality if modality in _CHANGES else "")
    greys = torch.from_numpy(clip.astype(np.float32) / 255)[None]  # one channel, the slices as depth
    seed = int(rng.integers(2**31))
    for number, transform in enumerate(transforms):
        transform.set_random_state(seed=seed + number)  # type: ignore[attr-defined]
        greys = transform(greys)
    changed = np.asarray(greys)[0]
    if modality == "US" and rng.random() < SHARE:
        changed = _shade(changed, rng)
    return (np.clip(changed, 0, 1) * 255).round().astype(np.uint8)


def _any(monai: ModuleType) -> list[Callable[[torch.Tensor], torch.Tensor]]:
    return [
        monai.RandGaussianNoise(prob=SHARE, std=0.05),
        # In the plane alone: slices lie further apart than pixels.
        monai.RandGaussianSmooth(prob=SHARE, sigma_x=(0.0, 0.0), sigma_y=(0.3, 1.0), sigma_z=(0.3, 1.0)),
    ]


def _mr(monai: ModuleType) -> list[Callable[[torch.Tensor], torch.Tensor]]:
    return [
        monai.RandBiasField(prob=SHARE, degree=2, coeff_range=(0.0, 0.25)),
        monai.RandHistogramShift(prob=SHARE, num_control_points=(4, 8)),
        monai.RandGibbsNoise(prob=SHARE, alpha=(0.2, 0.6)),
        monai.RandRicianNoise(prob=SHARE, std=0.05),
    ]


def _us(monai: ModuleType) -> list[Callable[[torch.Tensor], torch.Tensor]]:
    return [
        monai.RandAdjustContrast(prob=SHARE, gamma=(0.6, 1.7)),
        monai.RandGaussianSmooth(prob=SHARE, sigma_x=(0.0, 0.0), sigma_y=(0.3, 1.2), sigma_z=(0.3, 1.2)),
    ]


_CHANGES: Mapping[str, Callable[[ModuleType], list[Callable[[torch.Tensor], torch.Tensor]]]] = (
    MappingProxyType({"CT": _any, "MR": _mr, "US": _us, "": _any})
)


@lru_cache
def _transforms(modality: str) -> tuple[Callable[[torch.Tensor], torch.Tensor], ...]:
    """Make a modality's transforms; importing MONAI takes seconds, so once and late."""
    try:
        monai = importlib.import_module("monai.transforms")
    except ImportError as error:
        raise InputError("augment.by_modality needs MONAI: pip install 'medsam2[train]'") from error
    return tuple(_CHANGES[modality](monai))


def _shade(clip: npt.NDArray[np.float32], rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Darken a strip from some depth down, as behind bone or gas; `(t, y, x)`."""
    height, width = clip.shape[1:]
    middle, half = rng.uniform(0, width), width * rng.uniform(0.03, 0.12)
    across = np.exp(-0.5 * ((np.arange(width) - middle) / half) ** 2)
    down = np.arange(height) >= height * rng.uniform(0.1, 0.6)
    shaded: npt.NDArray[np.float32] = clip * (1 - rng.uniform(0.4, 0.9) * down[:, None] * across)
    return shaded
