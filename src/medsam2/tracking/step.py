"""One step of the recurrence, the same in training and in use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from medsam2.model.network import ABSENT_LOGIT, ImageFeatures, MemoryTokens, Network
from medsam2.tracking.memory import FrameMemory

MASK_PROMPT_LOGIT = 10.0  # logit of a pixel that the user has drawn
PREVIOUS_LOGIT_LIMIT = 32.0  # SAM 2 clamps an earlier mask to it before feeding it back
MAX_POINTS_FOR_CANDIDATES = 1  # more points leave no ambiguity to show candidates for


@dataclass(frozen=True, kw_only=True)
class PromptTensors:
    """Prompts of a batch of objects on one slice, in pixels of the network's input."""

    points: Tensor | None = None
    """`(B, N, 2)` (x, y); a box is its two corners."""
    labels: Tensor | None = None
    """`(B, N)`: 0 negative, 1 positive, 2 and 3 the corners of a box."""
    mask: Tensor | None = None
    """`(B, 1, S, S)` of 0 and 1, instead of points."""


@dataclass(frozen=True, kw_only=True)
class FrameResult:
    """The object in one slice."""

    low_res_logits: Tensor
    """`(B, 1, S/4, S/4)` of the chosen candidate, `ABSENT_LOGIT` throughout where it is absent."""
    iou: Tensor
    """`(B, 1)` predicted overlap with the truth."""
    object_logits: Tensor
    """`(B, 1)` above 0 when the object is in the slice."""
    pointer: Tensor
    """`(B, C)`."""
    candidate_logits: Tensor
    """`(B, M, S/4, S/4)` of all candidates, whether or not the object counts as present."""
    candidate_iou: Tensor
    """`(B, M)`."""

    def part(self, index: int) -> FrameResult:
        """The result of one object of a batch, in memory of its own."""
        parts = {name: value[index : index + 1].clone() for name, value in vars(self).items()}
        return FrameResult(**parts)


def track_frame(
    network: Network,
    features: ImageFeatures,
    *,
    prompt: PromptTensors | None = None,
    memory: MemoryTokens | Sequence[MemoryTokens | None] | None = None,
    previous_logits: Tensor | None = None,
    stability_fallback: bool = True,
) -> FrameResult:
    """Find the objects in one slice.

    Args:
        network: The network.
        features: The slice: one batch entry per object, or a single one that the objects share.
        prompt: The prompts of this slice, if it has any.
        memory: What is remembered; None for a slice that is prompted before any tracking. A list has what
            is remembered of each object.
        previous_logits: `(B, 1, S/4, S/4)` mask logits that new points correct.
        stability_fallback: Replace an unstable single mask by the best candidate; off in training.
    """
    if prompt is not None and prompt.mask is not None:
        return _take_mask(network, features, prompt.mask)
    memories = memory if isinstance(memory, Sequence) else [memory]
    conditioned = torch.cat([network.attend_memory(features, one) for one in memories])
    batch = len(conditioned)
    points = None if prompt is None else prompt.points
    labels = None if prompt is None else prompt.labels
    if previous_logits is not None:
        previous_logits = previous_logits.clamp(-PREVIOUS_LOGIT_LIMIT, PREVIOUS_LOGIT_LIMIT)
    embedding = network.encode_prompts(points, labels, mask_logits=previous_logits, batch=batch)
    num_points = 0 if points is None else points.shape[1]
    decoded = network.decode_masks(
        features,
        conditioned,
        embedding,
        multimask=num_points <= MAX_POINTS_FOR_CANDIDATES,
        stability_fallback=stability_fallback,
    )
    best = decoded.iou.argmax(dim=1)
    index = torch.arange(batch, device=best.device)
    is_present = decoded.object_logits > 0  # (B, 1)
    chosen = decoded.mask_logits[index, best][:, None]
    return FrameResult(
        low_res_logits=torch.where(is_present[:, :, None, None], chosen, ABSENT_LOGIT),
        iou=decoded.iou[index, best][:, None],
        object_logits=decoded.object_logits,
        pointer=network.point_at(decoded.tokens[index, best], is_present),
        candidate_logits=decoded.mask_logits,
        candidate_iou=decoded.iou,
    )


def _take_mask(network: Network, features: ImageFeatures, mask: Tensor) -> FrameResult:
    """Take a drawn mask `(B, 1, S, S)` as the result; the network only gives the object pointer."""
    logits = (2 * mask - 1) * MASK_PROMPT_LOGIT
    size = network.config.mask_size
    low_res = F.interpolate(logits, size=(size, size), mode="bilinear", align_corners=False, antialias=True)
    embedding = network.encode_prompts(None, None, mask_logits=network.mask_as_prompt(mask), batch=len(mask))
    decoded = network.decode_masks(features, features.level2, embedding, multimask=False)
    is_drawn = (mask > 0.5).flatten(1).any(dim=1, keepdim=True)
    pointer = network.point_at(decoded.tokens[:, 0], is_drawn & (decoded.object_logits > 0))
    return FrameResult(
        low_res_logits=low_res,
        iou=torch.ones_like(decoded.iou),
        object_logits=torch.where(is_drawn, MASK_PROMPT_LOGIT, -MASK_PROMPT_LOGIT),
        pointer=pointer,
        candidate_logits=low_res,
        candidate_iou=torch.ones_like(decoded.iou),
    )


def remember(
    network: Network,
    features: ImageFeatures,
    result: FrameResult,
    *,
    slice_index: int,
    binarise: bool,
) -> FrameMemory:
    """Turn a result into a memory.

    Args:
        network: The network.
        features: Of the same slice.
        result: What was found in it.
        slice_index: Where the slice lies.
        binarise: The mask stems from a prompt and counts in full; never so in training.
    """
    size = network.config.image_size
    mask_logits = F.interpolate(
        result.low_res_logits, size=(size, size), mode="bilinear", align_corners=False
    )
    spatial = network.encode_memory(features, mask_logits, result.object_logits, binarise=binarise)
    return FrameMemory(slice_index=slice_index, spatial=spatial.bfloat16(), pointer=result.pointer)
