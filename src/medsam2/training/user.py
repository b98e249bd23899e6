"""The simulated user of a batch of clips: boxes, clicks and corrections as prompts of the network."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from medsam2.model.prompt_encoder import LABEL_BOX_MAX, LABEL_BOX_MIN
from medsam2.prompts.simulate import correction, jitter_box, random_point, tight_box
from medsam2.prompts.types import Point
from medsam2.tracking.step import FrameResult, PromptTensors

Sources = Sequence[np.random.Generator]


def draw_box(target: Tensor, sources: Sources, noise: float) -> PromptTensors:
    """Draw a box around each object.

    Args:
        target: `(B, S, S)` of 0 and 1, none empty.
        sources: Chance of each clip.
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
