"""What the compact network is shown of a slice: greys, where the object was, prompts and classical cues."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from medsam2.model.prompt_encoder import LABEL_BOX_MAX, LABEL_BOX_MIN, LABEL_NEGATIVE, LABEL_POSITIVE
from medsam2.tracking.cues import context_likeness, grey_likeness, match_patches
from medsam2.tracking.step import PromptTensors

CLICK_RADIUS_SHARE = 1 / 40  # of the view's side


def click_radius(size: int) -> float:
    """Radius of the disc that stands for a click, in pixels of a view of `size` x `size`."""
    return max(1.5, CLICK_RADIUS_SHARE * size)


@dataclass(frozen=True, kw_only=True)
class PromptPlanes:
    """A prompt as maps of a view, each `(B, S, S)` of 0 and 1."""

    box: Tensor
    inside: Tensor
    """Discs around clicks inside the object."""
    outside: Tensor


@dataclass(frozen=True, kw_only=True)
class Known:
    """A slice of which the mask is known, in today's view."""

    grey: Tensor
    """`(B, S, S)`, 0 to 1."""
    inside: Tensor
    """Probability of its mask, `(B, S, S)`."""


@dataclass(frozen=True, kw_only=True)
class Sight:
    """Everything that is shown of a slice; all maps are `(B, S, S)`."""

    grey: Tensor
    """The slice, 0 to 1."""
    before: Tensor
    """The slice that the walk comes from or, on a prompted slice, one of its neighbours."""
    beyond: Tensor
    """The neighbour on the other side."""
    prompt: PromptPlanes | None = None
    """What the user drew on this slice."""
    prior: Tensor | None = None
    """Probability of a mask: that of `before` or, where a prompt corrects it, that of the slice itself."""
    carried: Known | None = None
    """The slice before with its mask, where the object comes from there."""
    key: Known | None = None
    """The prompted slice with its mask; none while it is being answered for the first time."""


def as_planes(sight: Sight) -> Tensor:
    """Join what is shown to the network's input, `(B, 16, S, S)` in the order of `PLANES`."""
    grey = sight.grey
    nothing = torch.zeros_like(grey)
    prompt, key, carried = sight.prompt, sight.key, sight.carried
    if key is None and prompt is not None:
        # On the prompted slice itself the box is a first, rough mask: its greys against those around it.
        by_key = Known(grey=grey, inside=_rough(prompt, sight.prior))
    else:
        by_key = key or Known(grey=grey, inside=nothing)
    cues = [grey_likeness(by_key.grey, by_key.inside, grey)]
    context = [context_likeness(by_key.grey, by_key.inside, grey)]
    matched = (nothing, nothing)
    if carried is not None:
        cues.append(grey_likeness(carried.grey, carried.inside, grey))
        context.append(context_likeness(carried.grey, carried.inside, grey))
        matched = match_patches(carried.grey, carried.inside, grey)
    else:
        cues.append(nothing)
        context.append(nothing)
    planes = (
        grey,
        sight.before,
        sight.beyond,
        nothing if sight.prior is None else sight.prior,
        nothing if prompt is None else torch.ones_like(grey),
        nothing if prompt is None else prompt.box,
        nothing if prompt is None else prompt.inside,
        nothing if prompt is None else prompt.outside,
        nothing if key is None else key.grey,
        nothing if key is None else key.inside,
        *cues,
        *context,
        *matched,
    )
    return torch.stack(planes, dim=1).contiguous(memory_format=torch.channels_last)


def _rough(prompt: PromptPlanes, prior: Tensor | None) -> Tensor:
    """What a prompted slice's mask may be: the one corrected or drawn or, where that is empty, the box."""
    if prior is None:
        return prompt.box
    has_mask = (prior > 0.5).flatten(1).any(dim=1)
    return torch.where(has_mask[:, None, None], prior, prompt.box)


def draw_prompt(prompt: PromptTensors, batch: int, size: int) -> PromptPlanes:
    """Draw boxes and clicks, in pixels of a view of `size` x `size`, as maps."""
    points, labels = prompt.points, prompt.labels
    if points is None or labels is None:
        device = None if prompt.mask is None else prompt.mask.device
        nothing = torch.zeros(batch, size, size, device=device)
        return PromptPlanes(box=nothing, inside=nothing, outside=nothing)
    pixel = torch.arange(size, device=points.device, dtype=torch.float32)
    across, down = pixel[None, None, :], pixel[None, :, None]
    radius = click_radius(size)
    nothing = torch.zeros(batch, size, size, device=points.device)
    inside, outside, box = nothing, nothing, nothing
    for index in range(points.shape[1]):
        x, y = points[:, index, 0, None, None], points[:, index, 1, None, None]
        label = labels[:, index, None, None]
        disc = (across - x) ** 2 + (down - y) ** 2 <= radius**2
        inside = torch.where(disc & (label == LABEL_POSITIVE), 1.0, inside)
        outside = torch.where(disc & (label == LABEL_NEGATIVE), 1.0, outside)
        if index + 1 < points.shape[1]:
            x_end, y_end = points[:, index + 1, 0, None, None], points[:, index + 1, 1, None, None]
            is_box = (label == LABEL_BOX_MIN) & (labels[:, index + 1, None, None] == LABEL_BOX_MAX)
            covered = (across > x - 0.5) & (across < x_end + 0.5) & (down > y - 0.5) & (down < y_end + 0.5)
            box = torch.where(covered & is_box, 1.0, box)
    return PromptPlanes(box=box, inside=inside, outside=outside)
