"""Masks that are carried from slice to slice, spoilt on purpose: moved outlines, lost objects."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812

from medsam2.model.network import ABSENT_LOGIT
from medsam2.tracking.step import FrameResult


def disturb(result: FrameResult, rng: np.random.Generator) -> FrameResult:
    """Grow, shrink or shift masks that are carried on: the next outline is to be found in the image.

    A mask that would vanish is left as it is, since an empty one says that the object has ended.
    """
    logits = result.low_res_logits
    kind = rng.integers(3)
    if kind == 0:
        disturbed = F.max_pool2d(logits, kernel_size=3, stride=1, padding=1)
    elif kind == 1:
        disturbed = -F.max_pool2d(-logits, kernel_size=3, stride=1, padding=1)
    else:
        disturbed = logits.roll(tuple(rng.integers(-1, 2, 2).tolist()), dims=(2, 3))
    is_left = (disturbed > 0).flatten(1).any(dim=1)[:, None, None, None]
    return dataclasses.replace(result, low_res_logits=torch.where(is_left, disturbed, logits))


def lose(result: FrameResult, sources: Sequence[np.random.Generator], share: float) -> FrameResult:
    """Withhold the masks of some objects, as if they had not been found in the slice before.

    With a mask in sight the network has no need to remember: shown it in every slice, it learnt to ignore
    its memory altogether.
    """
    logits = result.low_res_logits
    is_lost = torch.tensor([rng.random() < share for rng in sources], device=logits.device)
    return dataclasses.replace(
        result, low_res_logits=torch.where(is_lost[:, None, None, None], ABSENT_LOGIT, logits)
    )
