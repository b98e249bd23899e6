"""What a network that carries masks sees besides a slice: the slice before it, and where the object was.

The prior enters with the image, as in MaskTrack (Perazzi et al. 2017) and nnInteractive (Isensee et al.
2025): a small network learns far sooner to move an outline it sees than to find one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from medsam2.model.config import PATCH_STRIDE
from medsam2.model.prompt_encoder import LABEL_BOX_MAX, LABEL_BOX_MIN, LABEL_NEGATIVE, LABEL_POSITIVE

BOX_LEVEL = 0.5  # a pixel in a box may belong to the object, one of a mask does
CLICK_DIAMETER_SHARE = 1 / 32  # of the image's side: 8 pixels of 256
BOX_LOGIT_INSIDE = 3.0  # a pixel in the box is likely, one outside all but excluded
BOX_LOGIT_OUTSIDE = -6.0


@dataclass(frozen=True, kw_only=True)
class PromptTensors:
    """Prompts of a batch of objects on one slice, in pixels of the network's input."""

    points: Tensor | None = None
    """`(B, N, 2)` (x, y); a box is its two corners."""
    labels: Tensor | None = None
    """`(B, N)`: 0 negative, 1 positive, 2 and 3 the corners of a box."""
    mask: Tensor | None = None
    """`(B, 1, S, S)` of 0 and 1, instead of points."""


def with_prior(
    images: Tensor,
    *,
    before: Tensor | None = None,
    prompt: PromptTensors | None = None,
    previous_logits: Tensor | None = None,
) -> Tensor:
    """Join a slice, the slice that its prior belongs to, and the prior to one input.

    Args:
        images: Normalised slices `(B, 3, S, S)` of three equal grey channels.
        before: The slice `previous_logits` were found in, like `images`; None for the slice itself.
        prompt: What the user said about this slice.
        previous_logits: `(B, 1, S/4, S/4)` of the slice before, or of this one if it is corrected.

    Returns:
        `(B, 3, S, S)`: the slice, the slice before, and the prior: 0 nothing, 1 the object, a half
        within a box, 1 and -1 at clicks.
    """
    batch, _, size, _ = images.shape
    prior = images.new_zeros(batch, size, size)
    if prompt is not None and prompt.mask is not None:
        prior = prompt.mask[:, 0].to(images.dtype)
    elif previous_logits is not None:
        inside = previous_logits.to(images.dtype).sigmoid()
        prior = F.interpolate(inside, size=(size, size), mode="bilinear", align_corners=False)[:, 0]
    elif prompt is not None and has_box(prompt):
        prior = BOX_LEVEL * inside_box(prompt, size, 1).to(images.dtype)
    if prompt is not None and prompt.points is not None and prompt.labels is not None:
        prior = _stamp_clicks(prior, prompt.points, prompt.labels)
    reference = images if before is None else before
    return torch.stack((images[:, 0], reference[:, 1], prior), dim=1)


def box_as_mask(prompt: PromptTensors, mask_size: int) -> Tensor | None:
    """The rectangle of each box as mask logits `(B, 1, S/4, S/4)`; None without a box."""
    if not has_box(prompt):
        return None
    inside = inside_box(prompt, mask_size, PATCH_STRIDE)
    return torch.where(inside, BOX_LOGIT_INSIDE, BOX_LOGIT_OUTSIDE)[:, None]


def has_box(prompt: PromptTensors) -> bool:
    """Whether the objects of a batch have a box, which all or none have."""
    return prompt.labels is not None and bool((prompt.labels == LABEL_BOX_MIN).any())


def inside_box(prompt: PromptTensors, size: int, stride: int) -> Tensor:
    """Which cells of a `size` x `size` grid of `stride` input pixels have their middle in the box."""
    assert prompt.points is not None
    assert prompt.labels is not None
    first = prompt.points[prompt.labels == LABEL_BOX_MIN]  # (B, 2)
    last = prompt.points[prompt.labels == LABEL_BOX_MAX]
    center = (torch.arange(size, device=first.device) + 0.5) * stride
    x, y = center[None, None, :], center[None, :, None]
    return (
        (x > first[:, 0, None, None])
        & (x < last[:, 0, None, None] + 1)
        & (y > first[:, 1, None, None])
        & (y < last[:, 1, None, None] + 1)
    )


def _stamp_clicks(prior: Tensor, points: Tensor, labels: Tensor) -> Tensor:
    """Draw a disc of 1 around positive clicks and of -1 around negative ones."""
    radius = prior.shape[-1] * CLICK_DIAMETER_SHARE / 2
    pixel = torch.arange(prior.shape[-1], device=prior.device, dtype=points.dtype)
    for index in range(points.shape[1]):
        x, y = points[:, index, 0, None, None], points[:, index, 1, None, None]
        label = labels[:, index, None, None]
        covered = (pixel[None, None, :] - x) ** 2 + (pixel[None, :, None] - y) ** 2 <= radius**2
        prior = torch.where(covered & (label == LABEL_POSITIVE), 1.0, prior)
        prior = torch.where(covered & (label == LABEL_NEGATIVE), -1.0, prior)
    return prior
