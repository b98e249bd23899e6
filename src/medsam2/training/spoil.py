"""Masks that are carried on, spoilt on purpose: the next outline is to be found in the image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from medsam2.training.config import PromptConfig

KINDS = 4  # the truth, grown, shrunk, shifted
MOST_SHIFT = 0.03  # of the view's side


def spoil(
    prior: Tensor, truth: Tensor, config: PromptConfig, sources: Sequence[np.random.Generator]
) -> Tensor:
    """Change some of the masks that the next slice starts from.

    Args:
        prior: Probabilities of the slice before, `(B, S, S)`.
        truth: Its true masks.
        config: `disturbed_share` are corrected, grown, shrunk or shifted; `lost_share` are withheld,
            so that only what is remembered tells where the object is.
        sources: Chance of each clip.
    """
    spoilt = []
    for mask, true, rng in zip(prior, truth, sources, strict=True):
        chance = rng.random()
        if chance < config.lost_share:
            spoilt.append(torch.zeros_like(mask))
        elif chance < config.lost_share + config.disturbed_share:
            spoilt.append(_change(mask, true, rng))
        else:
            spoilt.append(mask)
    return torch.stack(spoilt)


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
