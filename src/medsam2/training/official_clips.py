"""Clips that the official network learns from, cut from stacks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from medsam2.errors import InputError
from medsam2.inference.features import resample_mask, resample_slice
from medsam2.inference.zoom import View, square_view, whole_slice
from medsam2.prompts.simulate import tight_box
from medsam2.training.augment import change_as_modality, change_intensities, move, turn
from medsam2.training.config import DataConfig
from medsam2.training.stack_files import STACKS, StoredStack

LARGEST_SLICE_SHARE = 0.5  # clips that begin where the object is largest, as users prompt it
MIN_AREA_FRACTION = 0.25  # of the largest slice's area, for the slice that is prompted
END_SHARE = 0.5  # clips that leave the object, where one can: its end must be learnt too
DOUBLE_STEP_SHARE = 0.35  # clips that skip every other slice: thick slices
MAX_TRIES = 50


@dataclass(frozen=True, kw_only=True)
class OfficialClips:
    """Clips of equal length; the first slice of each is the prompted one."""

    images: Tensor
    """uint8 `(B, T, S, S)`."""
    targets: Tensor
    """float32 `(B, T, S, S)` of 0 and 1."""


def draw_official_clips(
    folder: Path,
    seeds: range,
    config: DataConfig,
    generators: Sequence[np.random.Generator],
    *,
    clip_length: int,
    image_size: int,
    augment: bool,
) -> OfficialClips:
    """Draw a clip by each random generator; the same state of a generator gives the same clip.

    Raises:
        InputError: The stacks are too short, or their objects too small, for such clips.
    """
    clips = [_draw_clip(folder, seeds, config, rng, clip_length, image_size, augment) for rng in generators]
    images, targets = zip(*clips, strict=True)
    return OfficialClips(
        images=torch.from_numpy(np.stack(images)),
        targets=torch.stack(targets),
    )


def _draw_clip(
    folder: Path,
    seeds: range,
    config: DataConfig,
    rng: np.random.Generator,
    clip_length: int,
    image_size: int,
    augment: bool,
) -> tuple[npt.NDArray[np.uint8], Tensor]:
    for _ in range(MAX_TRIES):
        stack = STACKS.get(folder, int(seeds[rng.integers(len(seeds))]))
        label = int(rng.integers(1, len(stack.areas)))
        returns = config.augment.return_share > 0 and augment and rng.random() < config.augment.return_share
        chosen = _choose_slices(stack.areas[label], config.min_area, clip_length, rng, returns=returns)
        if chosen is None:
            continue
        flips = int(rng.integers(8)) if augment else 0
        image = turn(stack.image[chosen], flips)
        masks = turn(stack.labels[chosen] == label, flips)
        shape_yx = (masks.shape[1], masks.shape[2])
        view = whole_slice(shape_yx) if config.whole_slices else _draw_view(masks[0], config, rng)
        clip = np.stack([resample_slice(plane, view, image_size) for plane in image])
        targets = torch.stack([resample_mask(mask, view, image_size) for mask in masks])
        if augment:
            clip, targets = move(clip, targets, config.augment, rng)
        if targets[0].any():
            return _change_greys(clip, stack, config, rng) if augment else clip, targets
    raise InputError(
        f"{folder}: no object for a clip was found in {MAX_TRIES} draws; a clip of {clip_length} slices "
        f"needs stacks of as many, and an object with {config.min_area} pixels in a slice"
    )


def _change_greys(
    clip: npt.NDArray[np.uint8], stack: StoredStack, config: DataConfig, rng: np.random.Generator
) -> npt.NDArray[np.uint8]:
    changed = change_intensities(clip, rng)
    return change_as_modality(changed, stack.modality, rng) if config.augment.by_modality else changed


def _choose_slices(
    areas: npt.NDArray[np.int64], min_area: int, clip_length: int, rng: np.random.Generator, *, returns: bool
) -> npt.NDArray[np.int64] | None:
    """Choose a key slice and those after it, up, down, or there and back; None if the object is too small."""
    largest = int(areas.argmax())
    if areas[largest] < min_area:
        return None
    step = 2 if rng.random() < DOUBLE_STEP_SHARE else 1
    offsets = np.arange(clip_length)
    if returns:
        offsets = np.minimum(offsets, offsets[::-1])
    reach = step * int(offsets.max())
    usable = np.flatnonzero(areas >= max(min_area, MIN_AREA_FRACTION * areas[largest]))
    if rng.random() < LARGEST_SLICE_SHARE:
        usable = np.array([largest])
    starts = [(int(key), d) for key in usable for d in (1, -1) if 0 <= key + d * reach < len(areas)]
    leaving = [(key, d) for key, d in starts if areas[key + d * reach] == 0]
    if leaving and rng.random() < END_SHARE:
        starts = leaving
    if not starts:
        return None
    key, direction = starts[rng.integers(len(starts))]
    return key + direction * step * offsets


def _draw_view(mask: npt.NDArray[np.bool_], config: DataConfig, rng: np.random.Generator) -> View:
    box = tight_box(mask)
    side = max(box.longest_side * rng.uniform(*config.zoom), rng.uniform(*config.min_side))
    shift = rng.uniform(-1, 1, 2) * config.center_shift * side
    center = (box.center_xy[0] + float(shift[0]), box.center_xy[1] + float(shift[1]))
    return square_view(center, round(side), (mask.shape[0], mask.shape[1]))
