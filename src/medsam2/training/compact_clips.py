"""Clips that the compact network learns from: an object, its prompted slice, and those after it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from medsam2.errors import InputError
from medsam2.inference.features import upload
from medsam2.training.augment import change_greys
from medsam2.training.config import DataConfig
from medsam2.training.stack_files import STACKS, StackEntry, list_entries, num_slices

PAINTED = "painted"
"""Data set of stacks that are painted from label maps; see `training.painting`."""


@dataclass(frozen=True, kw_only=True)
class Pick:
    """An object of a stack."""

    seed: int
    """Number of the stack in its folder."""
    label: int


@dataclass
class _Group:
    """One data set: its structures, and where each is found."""

    structures: dict[str, list[Pick]] = field(default_factory=dict)
    objects: set[tuple[str, str]] = field(default_factory=set)
    """Each patient with each of its structures."""

    @property
    def weight(self) -> float:
        """The root of the number of objects, so that a large data set does not outweigh all others.

        One scan with thirty organs has as much to teach as thirty patients with one lesion each.
        """
        return float(np.sqrt(max(1, len(self.objects))))

    def names(self) -> list[str]:
        return list(self.structures)


class Mixture:
    """The objects of all stacks in three pools: painted stacks, stills, volumes with videos."""

    def __init__(self, folder: Path, seeds: range, config: DataConfig) -> None:
        """Sort the objects of some stacks.

        Raises:
            InputError: A data set that is to be left out is not there, or nothing is left.
        """
        entries = dict(zip(seeds, list_entries(folder, seeds), strict=True))
        known = sorted({entry.dataset for entry in entries.values()})
        for name in config.leave_out:
            if name not in known:
                raise InputError(
                    f"{folder}: has no data set {name!r} to leave out; it has {', '.join(known)}"
                )
        pools: dict[str, dict[str, _Group]] = {"painted": {}, "still": {}, "volume": {}}
        for seed, entry in entries.items():
            if entry.dataset not in config.leave_out:
                _add(pools[_pool_of(entry, folder)], entry, seed)
        shares = {"painted": config.painted_share, "still": config.still_share}
        shares["volume"] = max(1 - sum(shares.values()), 0)
        self._pools = [list(pool.values()) for pool in pools.values() if pool]
        if not self._pools:
            raise InputError(f"{folder}: has no stacks to train on")
        chances = [shares[name] for name, pool in pools.items() if pool]
        total = sum(chances)
        self._chances = np.array([c / total if total > 0 else 1 / len(chances) for c in chances])
        self._weights = [np.array([group.weight for group in pool]) for pool in self._pools]

    def draw(self, rng: np.random.Generator) -> Pick:
        """Draw a pool, a data set in it, a structure of that, and a stack that shows it."""
        number = int(rng.choice(len(self._pools), p=self._chances))
        weights = self._weights[number]
        group = self._pools[number][int(rng.choice(len(weights), p=weights / weights.sum()))]
        names = group.names()
        picks = group.structures[names[int(rng.integers(len(names)))]]
        return picks[int(rng.integers(len(picks)))]


def _pool_of(entry: StackEntry, folder: Path) -> str:
    if entry.dataset == PAINTED:
        return "painted"
    return "still" if num_slices(folder / entry.file) == 1 else "volume"


def _add(pool: dict[str, _Group], entry: StackEntry, seed: int) -> None:
    group = pool.setdefault(entry.dataset, _Group())
    for label, name in enumerate(entry.objects, start=1):
        group.structures.setdefault(name, []).append(Pick(seed=seed, label=label))
        group.objects.add((entry.patient or entry.case, name))


MAX_TRIES = 60
LARGEST_SLICE_SHARE = 0.35  # clips that begin where the object is largest, as users prompt it
END_SHARE = 0.45  # clips in which the object ends, where it can: ends must be learnt too
MIN_AREA_FRACTION = 0.25  # of the largest slice's area, for the slice that is prompted
DOUBLE_STEP_SHARE = 0.25  # clips that skip every other slice: thick slices
JUMP_SHARE = 0.1  # clips that leave out a slice or two somewhere
LONG_STACK = 12  # slices from which on some may be skipped
TURNED_SHARE = 0.6  # clips that are rotated by any angle
ROTATION_STD = 0.25  # radians
STRETCH = 0.1  # largest change of the view's side
BORDER_SHARE = 0.5  # clips that repeat the stack's edge beyond it; the others are black there
SMALLEST_MASK = 4  # pixels of the view in the prompted slice
SHARPEST = 1.6  # pixels of the slice to one of the view; above this a mean is taken first


@dataclass(frozen=True, kw_only=True)
class CompactClips:
    """Clips of equal length, with one more slice at either end that is shown as a neighbour only."""

    images: Tensor
    """Greys 0 to 1, `(B, T + 2, S, S)`; the second slice is the prompted one."""
    targets: Tensor
    """`(B, T, S, S)` of 0 and 1."""
    counts: Tensor
    """`(B, T)`: 1 for a slice of the stack, 0 beyond its end."""

    @property
    def length(self) -> int:
        """Slices of a clip, the two neighbours not counted."""
        return self.targets.shape[1]

    def to(self, device: torch.device) -> CompactClips:
        """Copy the clips to a device."""
        return CompactClips(
            images=upload(self.images, device),
            targets=upload(self.targets, device),
            counts=upload(self.counts, device),
        )


def draw_compact_clips(
    folder: Path,
    mixture: Mixture,
    config: DataConfig,
    generators: Sequence[np.random.Generator],
    *,
    clip_length: int,
    image_size: int,
    augment: bool,
) -> CompactClips:
    """Draw a clip by each random generator; the same state of a generator gives the same clip.

    Raises:
        InputError: No object large enough was found.
    """
    clips = [_draw(folder, mixture, config, rng, clip_length, image_size, augment) for rng in generators]
    images, targets, counts = (torch.stack(parts) for parts in zip(*clips, strict=True))
    return CompactClips(images=images, targets=targets, counts=counts)


def _draw(
    folder: Path,
    mixture: Mixture,
    config: DataConfig,
    rng: np.random.Generator,
    clip_length: int,
    image_size: int,
    augment: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    for _ in range(MAX_TRIES):
        pick = mixture.draw(rng)
        stack = STACKS.get(folder, pick.seed)
        if pick.label >= len(stack.areas) or stack.areas[pick.label].max() < config.min_area:
            continue
        slices = _choose_slices(stack.areas[pick.label], config.min_area, clip_length, rng)
        inside = np.clip(slices, 0, len(stack.image) - 1)
        masks = stack.labels[inside] == pick.label
        grid, left, top, pixels = _place_view(masks, config, rng, image_size, augment=augment)
        part = stack.image[inside][:, top[0] : top[1], left[0] : left[1]]
        padding = "border" if rng.random() < BORDER_SHARE else "zeros"
        images = _sample(part, grid, pixels, padding)
        targets = _sample(masks[:, top[0] : top[1], left[0] : left[1]] * np.uint8(255), grid, pixels, "zeros")
        targets = (targets[1:-1] > 0.5).float()
        if targets[0].sum() < SMALLEST_MASK:
            continue
        if augment:
            images = change_greys(images, stack.modality, rng)
        counts = torch.from_numpy((slices == inside)[1:-1].astype(np.float32))
        return images, targets, counts
    raise InputError(
        f"{folder}: no object for a clip was found in {MAX_TRIES} draws; "
        f"an object needs {config.min_area} pixels in a slice"
    )


def _choose_slices(
    areas: npt.NDArray[np.int64], min_area: int, clip_length: int, rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Choose the slices of a clip from an object's areas; they may lie beyond the stack's ends."""
    largest = int(areas.argmax())
    step = 2 if len(areas) > LONG_STACK and rng.random() < DOUBLE_STEP_SHARE else 1
    direction = 1 if rng.random() < 0.5 else -1
    usable = np.flatnonzero(areas >= max(min_area, MIN_AREA_FRACTION * areas[largest]))
    key = int(rng.choice(usable))
    chance = rng.random()
    if chance < LARGEST_SLICE_SHARE:
        key = largest
    elif chance < LARGEST_SLICE_SHARE + END_SHARE:
        present = np.flatnonzero(areas)
        end = int(present[-1] if direction > 0 else present[0])
        near = usable[(end - usable) * direction < clip_length * step]
        key = int(rng.choice(near)) if len(near) else key
    steps = np.full(clip_length + 1, step)
    if clip_length > 2 and len(areas) > LONG_STACK and rng.random() < JUMP_SHARE:
        steps[int(rng.integers(1, clip_length))] += int(rng.integers(1, 3))
    offsets = np.concatenate(([-step], [0], np.cumsum(steps[:clip_length])))
    return key + direction * offsets


def _place_view(
    masks: npt.NDArray[np.bool_],
    config: DataConfig,
    rng: np.random.Generator,
    size: int,
    *,
    augment: bool,
) -> tuple[Tensor, tuple[int, int], tuple[int, int], float]:
    """Place a square on the prompted slice's object.

    Returns:
        The sampling grid `(1, S, S, 2)` in the part of the slices that it covers, the part's columns and
        rows, and how many pixels of the slice one of the view covers.
    """
    height, width = masks.shape[1:]
    x_min, x_max, y_min, y_max = _extent(masks[1])
    longest = max(x_max - x_min, y_max - y_min)
    zoom = config.far_zoom if config.far_share and rng.random() < config.far_share else config.zoom
    side = max(longest * rng.uniform(*zoom), rng.uniform(*config.min_side))
    x_low, x_high, y_low, y_high = _extent(np.asarray(masks.any(axis=0)))
    reach = 2 * max(x_high - (x_min + x_max) / 2, (x_min + x_max) / 2 - x_low)
    reach = max(reach, 2 * max(y_high - (y_min + y_max) / 2, (y_min + y_max) / 2 - y_low))
    side = max(side, min(1.05 * reach, 2 * side))  # the view does not move with the object
    shift = rng.uniform(-1, 1, 2) * config.center_shift * longest
    x, y = (x_min + x_max) / 2 + shift[0], (y_min + y_max) / 2 + shift[1]
    angle, flip = 0.0, 1.0
    if augment:
        angle = rng.normal(0, ROTATION_STD) if rng.random() < TURNED_SHARE else 0.0
        angle += math.pi / 2 * int(rng.integers(4)) if rng.random() < 0.3 else 0.0
        flip = 1.0 if rng.random() < 0.5 else -1.0
        side *= rng.uniform(1 - STRETCH, 1 + STRETCH)
    middle = (torch.arange(size) + 0.5) / size - 0.5
    across, down = side * flip * middle[None, :], side * middle[:, None]
    columns = x + math.cos(angle) * across - math.sin(angle) * down
    rows = y + math.sin(angle) * across + math.cos(angle) * down
    left = _covered(columns, width)
    top = _covered(rows, height)
    grid = torch.stack(
        (
            (columns - left[0]) * 2 / (left[1] - left[0]) - 1,
            (rows - top[0]) * 2 / (top[1] - top[0]) - 1,
        ),
        dim=-1,
    )
    return grid[None].float(), left, top, side / size


def _extent(mask: npt.NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """First and last column and row of a mask, the last ones excluded."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return int(columns[0]), int(columns[-1]) + 1, int(rows[0]), int(rows[-1]) + 1


def _covered(places: Tensor, length: int) -> tuple[int, int]:
    """The pixels of an axis that a view needs, a few more at both ends."""
    low = min(max(int(places.min()) - 3, 0), length - 1)
    return low, max(min(int(places.max()) + 4, length), low + 1)


def _sample(part: npt.NDArray[np.uint8], grid: Tensor, pixels: float, padding: str) -> Tensor:
    """Sample `(T, h, w)` of 0 to 255 at a grid as 0 to 1, averaged first where pixels are many."""
    maps = torch.from_numpy(part.astype(np.float32)).div_(255)[None]
    if pixels > SHARPEST:
        window = max(2, int(pixels / 1.2))
        maps = F.avg_pool2d(maps, window, ceil_mode=True, count_include_pad=False)
        height, width = part.shape[1:]
        covered = torch.tensor([maps.shape[-1] * window / width, maps.shape[-2] * window / height])
        grid = (grid + 1) / covered - 1  # the last window may reach beyond the edge
    sampled: Tensor = F.grid_sample(maps, grid, mode="bilinear", padding_mode=padding, align_corners=False)
    return sampled[0]
