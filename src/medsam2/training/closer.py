"""A view that closes in on an object in the middle of a clip, as it does when a volume is segmented.

Where an object shrinks from slice to slice, its view shrinks with it: the object always fills about a third
of the view. A network that was trained with one view for each clip does not learn to end such an object.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from medsam2.model.compact.memory import Square
from medsam2.training.compact_clips import CompactClips

LEAST_SIDE, MOST_SIDE = 0.45, 0.95  # of the new view, in sides of the old one
MARGIN = (1.2, 3.0)  # side of the new view over that of the mask


def choose_squares(masks: Tensor, generators: Sequence[np.random.Generator]) -> list[Square]:
    """Choose a square around each mask: left, top and side, in sides of the view.

    Args:
        masks: Bool `(B, S, S)`; around an empty one the square lies in the middle.
        generators: One for each clip.
    """
    return [
        _choose(mask, rng.uniform(*MARGIN)) for mask, rng in zip(masks.cpu().numpy(), generators, strict=True)
    ]


def _choose(mask: np.ndarray, margin: float) -> Square:
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    x, y, reach = 0.5, 0.5, 0.0
    if columns.size:
        x, y = ((places[0] + places[-1] + 1) / 2 / len(mask) for places in (columns, rows))
        reach = max(int(np.ptp(columns)), int(np.ptp(rows))) / len(mask)
    side = min(max(reach * margin, LEAST_SIDE), MOST_SIDE)
    left, top = (float(min(max(middle - side / 2, 0), 1 - side)) for middle in (x, y))
    return left, top, side


def look_closer(maps: Tensor, squares: Sequence[Square]) -> Tensor:
    """Enlarge a square of each of the maps, `(B, T, S, S)` or `(B, S, S)`, to the whole view."""
    stacked = maps if maps.ndim == 4 else maps[:, None]
    theta = torch.tensor(
        [[[side, 0, 2 * left + side - 1], [0, side, 2 * top + side - 1]] for left, top, side in squares]
    )
    grid = F.affine_grid(theta.to(maps), list(stacked.shape), align_corners=False)
    closer = F.grid_sample(stacked, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return closer.view_as(maps)


def clips_closer(clips: CompactClips, squares: Sequence[Square]) -> CompactClips:
    """Enlarge a square of each clip, in all slices and masks."""
    targets = (look_closer(clips.targets, squares) > 0.5).float()
    return CompactClips(images=look_closer(clips.images, squares), targets=targets, counts=clips.counts)


def seen_from(memory: Square, square: Square) -> Square:
    """Where a memory lies in the view that a square of the old view has become."""
    left, top, side = square
    return ((memory[0] - left) / side, (memory[1] - top) / side, memory[2] / side)
