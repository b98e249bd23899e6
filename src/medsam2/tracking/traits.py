"""What a memory is compared by: how sure it is, and what the object looks like in it."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from medsam2.tracking.memory import FrameMemory, Traits
from medsam2.tracking.step import FrameResult


def describe(memory: FrameMemory, level2: Tensor, result: FrameResult) -> Traits:
    """Make the traits of one object's memory.

    Args:
        memory: Of one slice, batch 1; compared as it is stored, rounded to bfloat16.
        level2: Features of the slice before memory, `(1, C, S/16, S/16)`.
        result: What was found in it.
    """
    assert memory.spatial is not None
    side = memory.spatial.shape[-1]
    inside = (result.low_res_logits > 0).float()
    region = F.adaptive_avg_pool2d(inside, side)[0, 0]
    present = float(result.object_logits.float())
    overlap = float(result.iou.float())
    return Traits(
        confidence=overlap * float(torch.sigmoid(torch.tensor(present))) if present > 0 else 0.0,
        descriptor=pool(memory.spatial, region),
        appearance=pool(level2, region),
        region=region,
    )


def pool(maps: Tensor, region: Tensor) -> Tensor:
    """Average maps `(1, C, H, W)` over a region `(H, W)`, or over all where it is empty; length 1, `(C,)`."""
    flat = maps[0].float().flatten(1)  # (C, HW)
    weight = region.to(flat.device).flatten()
    total = weight.sum()
    pooled = flat @ weight / total if float(total) > 0 else flat.mean(dim=1)
    return F.normalize(pooled, dim=0)
