"""The simulated user of a batch of clips: boxes, clicks, drawn masks and corrections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from medsam2.model.prompt_encoder import LABEL_BOX_MAX, LABEL_BOX_MIN
from medsam2.prompts.simulate import center_point, correction, jitter_box, random_point, tight_box
from medsam2.prompts.types import Point
from medsam2.tracking.planes import PromptPlanes, click_radius
from medsam2.tracking.step import FrameResult, PromptTensors
from medsam2.training.config import PromptConfig

Sources = Sequence[np.random.Generator]


def draw_box(target: Tensor, sources: Sources, noise: float) -> PromptTensors:
    """Draw a box around each object.

    Args:
        target: `(B, S, S)` of 0 and 1, none empty.
        sources: One random generator for each clip.
        noise: Largest shift of a box's end, as a part of its side.
    """
    size = target.shape[-1]
    boxes = [
        jitter_box(tight_box(mask), rng, fraction=noise, shape_yx=(size, size)).xyxy
        for mask, rng in zip(_masks(target), sources, strict=True)
    ]
    points = torch.tensor(boxes, dtype=torch.float32, device=target.device).unflatten(1, (2, 2))
    labels = torch.tensor([[LABEL_BOX_MIN, LABEL_BOX_MAX]], device=target.device).expand(len(boxes), -1)
    return PromptTensors(points=points, labels=labels)


def click_inside(target: Tensor, sources: Sources) -> PromptTensors:
    """Click somewhere in each object of `(B, S, S)`, none empty."""
    clicks = [
        random_point(mask, rng, is_positive=True) for mask, rng in zip(_masks(target), sources, strict=True)
    ]
    return _as_prompt(clicks, target.device)


def click_correction(
    prompt: PromptTensors | None, result: FrameResult, target: Tensor, sources: Sources
) -> PromptTensors:
    """Add a click on a wrong pixel of each result to the prompts so far."""
    predicted = F.interpolate(
        result.low_res_logits.detach().float(), size=target.shape[-2:], mode="bilinear", align_corners=False
    )
    clicks = [
        correction(p, t, rng)
        for p, t, rng in zip(_masks(predicted[:, 0] > 0), _masks(target), sources, strict=True)
    ]
    added = _as_prompt(clicks, target.device)
    assert added.points is not None
    assert added.labels is not None
    if prompt is None or prompt.points is None or prompt.labels is None:
        return added
    return PromptTensors(
        points=torch.cat((prompt.points, added.points), dim=1),
        labels=torch.cat((prompt.labels, added.labels), dim=1),
    )


def _masks(masks: Tensor) -> np.ndarray:
    return masks.bool().cpu().numpy()


def _as_prompt(clicks: Sequence[Point], device: torch.device) -> PromptTensors:
    return PromptTensors(
        points=torch.tensor([[[click.x, click.y]] for click in clicks], dtype=torch.float32, device=device),
        labels=torch.tensor([[int(click.is_positive)] for click in clicks], device=device),
    )


EXACT_BOX_SHARE = 0.4  # boxes without noise, as an evaluation draws them
CENTER_SHARE = 0.5  # first clicks into the middle


@dataclass(frozen=True, kw_only=True)
class FirstPrompts:
    """What was drawn on the first slice of each clip."""

    planes: PromptPlanes
    drawn: Tensor
    """Drawn masks `(B, S, S)`; empty for clips that got a box or a click."""
    is_drawn: Tensor
    """`(B,)`, bool."""


def prompt_clips(target: Tensor, config: PromptConfig, sources: Sources) -> FirstPrompts:
    """Draw a box, a click or a mask for each object.

    Args:
        target: `(B, S, S)` of 0 and 1, none empty.
        config: How often what.
        sources: One random generator for each clip.
    """
    size = target.shape[-1]
    box, inside, drawn = (torch.zeros(target.shape) for _ in range(3))
    is_drawn = [False] * len(target)
    for index, (mask, rng) in enumerate(zip(target.bool().cpu().numpy(), sources, strict=True)):
        kind = rng.random()
        if kind < config.mask_share:
            drawn[index] = torch.from_numpy(mask)
            is_drawn[index] = True
        elif kind < config.mask_share + config.point_share:
            careful = rng.random() < CENTER_SHARE
            point = (
                center_point(mask, is_positive=True) if careful else random_point(mask, rng, is_positive=True)
            )
            stamp(inside[index], point)
        else:
            noise = 0.0 if rng.random() < EXACT_BOX_SHARE else config.box_noise
            around = jitter_box(tight_box(mask), rng, fraction=noise, shape_yx=(size, size))
            x_min, y_min, x_max, y_max = (round(value) for value in around.xyxy)
            box[index, y_min : y_max + 1, x_min : x_max + 1] = 1
    device = target.device
    planes = PromptPlanes(box=box.to(device), inside=inside.to(device), outside=torch.zeros_like(target))
    return FirstPrompts(planes=planes, drawn=drawn.to(device), is_drawn=torch.tensor(is_drawn, device=device))


def correct(planes: PromptPlanes, found: Tensor, target: Tensor, sources: Sources) -> PromptPlanes:
    """Add a click on a wrong pixel of each mask `(B, S, S)` to what was drawn."""
    inside, outside = planes.inside.clone(), planes.outside.clone()
    masks: npt.NDArray[np.bool_] = found.cpu().numpy()
    truths = target.bool().cpu().numpy()
    for index, (mask, truth, rng) in enumerate(zip(masks, truths, sources, strict=True)):
        point = correction(mask, truth, rng)
        stamp(inside[index] if point.is_positive else outside[index], point)
    return PromptPlanes(box=planes.box, inside=inside, outside=outside)


def stamp(plane: Tensor, point: Point) -> None:
    """Draw the disc of a click into a map `(S, S)`."""
    size = plane.shape[-1]
    pixel = torch.arange(size, device=plane.device, dtype=torch.float32)
    covered = (pixel[None, :] - point.x) ** 2 + (pixel[:, None] - point.y) ** 2 <= click_radius(size) ** 2
    plane[covered] = 1
