"""A correcting click changes the part of a mask that it points at, and nothing else."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch import Tensor

OUT_OF_REACH_LOGIT = -10.0
HELD_LOGIT = 1.0  # of a clicked cell that the network would not give its user
_EIGHT = np.ones((3, 3), dtype=bool)


def merge_clicks(
    before: Tensor, after: Tensor, clicks: Sequence[tuple[float, float, bool]], *, stride: int
) -> Tensor:
    """Take over what changed around each click, and keep the mask as it was elsewhere.

    The progressive merge of FocalClick (Chen et al. 2022): a network that looks at the whole slice again may
    spoil what the user was content with. Of a click inside, the part of what was added that reaches it is
    taken; of one outside, the part of what was removed. The cells that the clicked pixel of the slice is
    interpolated from are the user's in any case.

    Args:
        before: Mask logits `(1, 1, H, W)` that were corrected.
        after: Those that the network answered.
        clicks: `(x, y, is_positive)` in pixels of the network's input, centres on centres, in the order of
            clicking.
        stride: Pixels of the network's input to one of the mask's.
    """
    old = (before[0, 0] > 0).cpu().numpy()
    new = (after[0, 0] > 0).cpu().numpy()
    merged = before.clone()
    for x, y, is_positive in clicks:
        rows, columns = (_around((v + 0.5) / stride - 0.5, len(old)) for v in (y, x))
        change = _reaching(new & ~old if is_positive else old & ~new, rows, columns)
        inside = torch.from_numpy(change).to(before.device)
        merged[0, 0] = torch.where(inside, after[0, 0], merged[0, 0])
        clicked = merged[0, 0, rows, columns]
        held = HELD_LOGIT if is_positive else -HELD_LOGIT
        merged[0, 0, rows, columns] = torch.where((clicked > 0) == is_positive, clicked, held)
    return merged


def _around(place: float, length: int) -> slice:
    """The cells, one or two, that a place is interpolated from."""
    place = min(max(place, 0), length - 1)
    return slice(math.floor(place), math.ceil(place) + 1)


def _reaching(change: npt.NDArray[np.bool_], rows: slice, columns: slice) -> npt.NDArray[np.bool_]:
    """The 8-connected parts of a change that lie at some cells or beside them."""
    labels, _ = ndimage.label(change, structure=_EIGHT)
    top, left = max(rows.start - 1, 0), max(columns.start - 1, 0)
    near = np.unique(labels[top : rows.stop + 1, left : columns.stop + 1])
    return np.isin(labels, near[near > 0])


def keep_reaching(logits: Tensor, before: Tensor) -> Tensor:
    """Drop the 8-connected parts of a mask that do not touch the mask of the slice before.

    Args:
        logits: Mask logits `(1, 1, H, W)`.
        before: That mask, bool `(1, H, W)`; where it is empty, everything is kept.
    """
    labels, count = ndimage.label((logits[0, 0] > 0).cpu().numpy(), structure=_EIGHT)
    inside = before[0].cpu().numpy()
    if count == 0 or not inside.any():
        return logits
    met = np.unique(labels[inside])
    dropped = torch.from_numpy((labels > 0) & ~np.isin(labels, met)).to(logits.device)
    return torch.where(dropped, OUT_OF_REACH_LOGIT, logits)
