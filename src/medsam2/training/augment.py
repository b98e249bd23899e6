"""Random changes to clips: greys, movements, flips, and disturbed masks of the slice before."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType, ModuleType

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from medsam2.errors import InputError
from medsam2.training.config import AugmentConfig, PromptConfig

GAMMA_STD = 0.3
CONTRAST_STD = 0.2
BRIGHTNESS_STD = 0.08
CHANGE_SHARE = 0.5
INVERT_SHARE = 0.06
NOISE_SHARE = 0.3
MOST_NOISE = 0.08
BLUR_SHARE = 0.15
COARSE_SHARE = 0.25  # clips that look as if their pixels were larger
COARSEST = 4.0  # pixels of the view that one of theirs covers
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
    if rng.random() < COARSE_SHARE:
        clip = _coarse(clip, rng.uniform(1, COARSEST))
    if rng.random() < NOISE_SHARE:
        noise = torch.from_numpy(rng.standard_normal(tuple(clip.shape), dtype=np.float32))
        clip = clip + noise * rng.uniform(0, MOST_NOISE)
    return clip.clamp(0, 1)


def _coarse(clip: Tensor, pixels: float) -> Tensor:
    """Sample a clip with larger pixels, and enlarge it again as a view enlarges a coarse scan."""
    size = clip.shape[-1]
    fewer = max(8, round(size / pixels))
    coarse = F.interpolate(clip[None], size=(fewer, fewer), mode="area")
    enlarged: Tensor = F.interpolate(coarse, size=(size, size), mode="bilinear", align_corners=False)
    return enlarged[0]


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


SHARE = 0.3  # of clips that each MONAI transform changes


def change_as_modality(
    clip: npt.NDArray[np.uint8], modality: str | None, rng: np.random.Generator
) -> npt.NDArray[np.uint8]:
    """Change the greys of a clip as its scanner might have.

    CT gets noise and another kernel's sharpness; MR the bias field of a coil, other contrasts between
    tissues, ringing and Rician noise; ultrasound another gain and sharpness, and shadows that reach to the
    far edge. Anything else is treated as CT.

    Args:
        clip: `(t, y, x)`, square.
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
        changed = changed * _shadow(rng, clip.shape[-1]).numpy()
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


GAMMA_RANGE = (0.6, 1.6)
SLICE_JITTER = 0.04  # of the grey range, slice by slice
MAX_NOISE = 0.05
OFFICIAL_INVERT_SHARE = 0.08

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
    if rng.random() < OFFICIAL_INVERT_SHARE:
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


KINDS = 4  # the truth, grown, shrunk, shifted
MOST_SHIFT = 0.03  # of the view's side


def disturb_masks(
    prior: Tensor, truth: Tensor, config: PromptConfig, generators: Sequence[np.random.Generator]
) -> Tensor:
    """Disturb some of the masks that the next slice begins from.

    Args:
        prior: Probabilities of the slice before, `(B, S, S)`.
        truth: Its true masks.
        config: `disturbed_share` are corrected, grown, shrunk or shifted; `lost_share` are withheld,
            so that only the memory bank tells where the object is.
        generators: One for each clip.
    """
    disturbed = []
    for mask, true, rng in zip(prior, truth, generators, strict=True):
        chance = rng.random()
        if chance < config.lost_share:
            disturbed.append(torch.zeros_like(mask))
        elif chance < config.lost_share + config.disturbed_share:
            disturbed.append(_change(mask, true, rng))
        else:
            disturbed.append(mask)
    return torch.stack(disturbed)


def _change(mask: Tensor, true: Tensor, rng: np.random.Generator) -> Tensor:
    kind = int(rng.integers(KINDS))
    if kind == 0:
        return true
    if kind == 3:
        most = max(1, round(MOST_SHIFT * mask.shape[-1]))
        down, right = rng.integers(-most, most + 1, 2).tolist()
        return mask.roll((down, right), dims=(0, 1))
    side = 2 * int(rng.integers(1, 3)) + 1
    sign = 1.0 if kind == 1 else -1.0
    changed: Tensor = sign * F.max_pool2d(sign * mask[None, None], side, stride=1, padding=side // 2)
    # One that would vanish is left as it is: an empty mask says that the object has ended.
    return changed[0, 0] if bool((changed > 0.5).any()) else mask
