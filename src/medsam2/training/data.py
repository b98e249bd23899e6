"""Clips cut from a bank's stacks, and the sources of chance of one training step."""

from __future__ import annotations

from collections import OrderedDict
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
from medsam2.training.bank import BankedStack, load_stack, stack_path
from medsam2.training.config import DataConfig


class Chance:
    """What a batch, or a part of one, is drawn by.

    No dataclass: Lightning Fabric looks through those for tensors to convert, and refuses frozen ones.
    """

    def __init__(self, *, shared: np.random.Generator, clips: Sequence[np.random.Generator]) -> None:
        self.shared = shared
        """Of what all clips of a step have in common: their first prompt's kind, how many clicks follow."""
        self.clips = tuple(clips)
        """Of each clip, whichever process it is on and whatever other clips are beside it."""


def chance_of_step(seed: int, step: int, clips: range) -> Chance:
    """Make the sources of some clips of a step.

    They follow from the numbers alone: a resumed run repeats nothing, and a batch that is shared among
    processes, or worked through in parts, is the same batch.

    Args:
        seed: Of the run.
        step: Number of the step.
        clips: Numbers of the clips in the step's whole batch.
    """
    # Counted from 1: to numpy, a seed that ends in 0 is the seed without it.
    return Chance(
        shared=np.random.default_rng((seed, step)),
        clips=[np.random.default_rng((seed, step, clip + 1)) for clip in clips],
    )


LARGEST_SLICE_SHARE = 0.5  # clips that begin where the object is largest, as users prompt it
MIN_AREA_FRACTION = 0.25  # of the largest slice's area, for the slice that is prompted
END_SHARE = 0.5  # clips that walk out of the object, where there is a way: ends must be learnt too
DOUBLE_STEP_SHARE = 0.35  # clips that skip every other slice: thick slices
MAX_TRIES = 50
CACHED_BYTES = 4 * 2**30  # of stacks, the latest ones


@dataclass(frozen=True, kw_only=True)
class ClipBatch:
    """Clips of equal length; the first slice of each is the one that is prompted."""

    images: Tensor
    """uint8 `(B, T, S, S)`."""
    targets: Tensor
    """float32 `(B, T, S, S)` of 0 and 1."""


def draw_batch(
    folder: Path,
    seeds: range,
    config: DataConfig,
    sources: Sequence[np.random.Generator],
    *,
    clip_length: int,
    image_size: int,
    augment: bool,
) -> ClipBatch:
    """Draw a clip from each source of chance; the same state of a source gives the same clip.

    Raises:
        InputError: The stacks are too short, or their objects too small, for such clips.
    """
    clips = [_draw_clip(folder, seeds, config, rng, clip_length, image_size, augment) for rng in sources]
    images, targets = zip(*clips, strict=True)
    return ClipBatch(
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
    clip: npt.NDArray[np.uint8], stack: BankedStack, config: DataConfig, rng: np.random.Generator
) -> npt.NDArray[np.uint8]:
    changed = change_intensities(clip, rng)
    return change_as_modality(changed, stack.modality, rng) if config.augment.by_modality else changed


class StackCache:
    """The latest stacks, as many as fit: those of a prepared bank are of any size."""

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self.num_bytes = 0
        self.stacks: OrderedDict[Path, BankedStack] = OrderedDict()

    def get(self, folder: Path, seed: int) -> BankedStack:
        key = stack_path(folder, seed)
        if key in self.stacks:
            self.stacks.move_to_end(key)
            return self.stacks[key]
        stack = load_stack(folder, seed)
        self.stacks[key] = stack
        self.num_bytes += _size(stack)
        while self.num_bytes > self.most_bytes and len(self.stacks) > 1:
            self.num_bytes -= _size(self.stacks.popitem(last=False)[1])
        return stack


def _size(stack: BankedStack) -> int:
    return stack.image.nbytes + stack.labels.nbytes


STACKS = StackCache(CACHED_BYTES)
"""What clips are cut from."""


def _choose_slices(
    areas: npt.NDArray[np.int64], min_area: int, clip_length: int, rng: np.random.Generator, *, returns: bool
) -> npt.NDArray[np.int64] | None:
    """Choose a key slice and walk from it, up or down, or there and back; None if the object is too small."""
    largest = int(areas.argmax())
    if areas[largest] < min_area:
        return None
    step = 2 if rng.random() < DOUBLE_STEP_SHARE else 1
    walk = np.arange(clip_length)
    if returns:
        walk = np.minimum(walk, walk[::-1])
    reach = step * int(walk.max())
    usable = np.flatnonzero(areas >= max(min_area, MIN_AREA_FRACTION * areas[largest]))
    if rng.random() < LARGEST_SLICE_SHARE:
        usable = np.array([largest])
    ways = [(int(key), d) for key in usable for d in (1, -1) if 0 <= key + d * reach < len(areas)]
    leaving = [(key, d) for key, d in ways if areas[key + d * reach] == 0]
    if leaving and rng.random() < END_SHARE:
        ways = leaving
    if not ways:
        return None
    key, direction = ways[rng.integers(len(ways))]
    return key + direction * step * walk


def _draw_view(mask: npt.NDArray[np.bool_], config: DataConfig, rng: np.random.Generator) -> View:
    box = tight_box(mask)
    side = max(box.longest_side * rng.uniform(*config.zoom), rng.uniform(*config.min_side))
    shift = rng.uniform(-1, 1, 2) * config.center_shift * side
    center = (box.center_xy[0] + float(shift[0]), box.center_xy[1] + float(shift[1]))
    return square_view(center, round(side), (mask.shape[0], mask.shape[1]))
