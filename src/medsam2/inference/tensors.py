"""Prompts in pixels of a slice become tensors in pixels of the network's input."""

from __future__ import annotations

import numpy as np
import torch

from medsam2.inference.preprocess import resample_mask
from medsam2.inference.zoom import View
from medsam2.model.prompt_encoder import LABEL_BOX_MAX, LABEL_BOX_MIN
from medsam2.prompts.types import Prompt
from medsam2.tracking.step import PromptTensors


def prompt_tensors(prompt: Prompt, view: View, size: int, device: torch.device) -> PromptTensors:
    """Bring a prompt to a view of `size` x `size` pixels; a drawn mask stands alone."""
    if prompt.mask is not None:
        mask = resample_mask(prompt.mask.array, view, size)
        return PromptTensors(mask=mask[None, None].to(device))
    corners = np.empty((0, 2))
    labels = []
    if prompt.box is not None:
        corners = view.box_to_network(prompt.box, size)
        labels = [LABEL_BOX_MIN, LABEL_BOX_MAX]
    clicks = np.array([(point.x, point.y) for point in prompt.points], dtype=np.float64).reshape(-1, 2)
    points = np.concatenate((corners, view.points_to_network(clicks, size)))
    labels += [int(point.is_positive) for point in prompt.points]
    return PromptTensors(
        points=torch.tensor(points, dtype=torch.float32, device=device)[None],
        labels=torch.tensor([labels], device=device),
    )
