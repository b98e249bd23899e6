"""From the network's mask logits back to the slice and the volume; what both kinds of tracks share."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812
from scipy import ndimage
from torch import Tensor

from medsam2.imaging.labels import largest_component
from medsam2.inference.zoom import View
from medsam2.model.network import ABSENT_LOGIT
from medsam2.prompts.types import Prompt

FILLED_LOGIT = 0.1  # SAM 2 sets filled holes to it


def to_slice(low_res_logits: Tensor, view: View, shape_yx: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Bring mask logits `(1, 1, S/4, S/4)` to the slice's pixels, `(y, x)`.

    Outside the view the object is absent.
    """
    size = (view.height, view.width)
    logits = F.interpolate(low_res_logits.float(), size=size, mode="bilinear", align_corners=False)
    plane = logits[0, 0].cpu().numpy()
    if (view.x, view.y) == (0, 0) and size == shape_yx:
        return plane
    top, bottom, left, right = view.bounds(shape_yx)
    pasted = np.full(shape_yx, ABSENT_LOGIT, dtype=np.float32)
    pasted[top:bottom, left:right] = plane[top - view.y : bottom - view.y, left - view.x : right - view.x]
    return pasted


def to_view(plane: npt.NDArray[np.float32], view: View, size: int) -> Tensor:
    """Bring logits of a slice `(y, x)` to a view, `(1, 1, size, size)`."""
    padded = np.full((view.height, view.width), ABSENT_LOGIT, dtype=np.float32)
    top, bottom, left, right = view.bounds(plane.shape)
    padded[top - view.y : bottom - view.y, left - view.x : right - view.x] = plane[top:bottom, left:right]
    return F.interpolate(
        torch.from_numpy(padded)[None, None], size=(size, size), mode="bilinear", align_corners=False
    )


def fill_logit_holes(low_res_logits: Tensor, max_area: int) -> Tensor:
    """Fill small holes as SAM 2's CUDA kernel does, on any device.

    Args:
        low_res_logits: `(1, 1, S/4, S/4)`.
        max_area: Largest hole in pixels; components of the background, 8-connected, edges included.
    """
    background = (low_res_logits[0, 0] <= 0).cpu().numpy()
    labels, _ = ndimage.label(background, structure=np.ones((3, 3)))
    areas = np.bincount(labels.ravel())
    areas[0] = max_area + 1  # label 0 is the mask itself
    holes = torch.from_numpy(areas[labels] <= max_area).to(low_res_logits.device)
    return low_res_logits.masked_fill(holes[None, None], FILLED_LOGIT)


def prompted_parts(
    mask_at: Callable[[int], npt.NDArray[np.bool_]], prompts: Iterable[Prompt]
) -> dict[int, npt.NDArray[np.bool_]]:
    """Find what of the mask in each prompted slice is the object: parts connected to it in 3D are kept.

    Where a box was drawn, the largest part of what lies in it counts as the object; of clicks, what lies
    under those inside it, or the largest part if all are outside; of a drawn mask, all of it.

    Args:
        mask_at: Slice index to mask `(y, x)`.
        prompts: One for each prompted slice.
    """
    seeds = {}
    for prompt in prompts:
        mask = mask_at(prompt.slice_index)
        seeds[prompt.slice_index] = mask if prompt.mask is not None else _pointed_at(mask, prompt)
    return seeds


def _pointed_at(mask: npt.NDArray[np.bool_], prompt: Prompt) -> npt.NDArray[np.bool_]:
    """Pixels of a mask `(y, x)` that a box or clicks say belong to the object."""
    seed = np.zeros_like(mask)
    if prompt.box is not None:
        x_min, y_min, x_max, y_max = (round(value) for value in prompt.box.xyxy)
        inside = np.zeros_like(mask)
        inside[y_min : y_max + 1, x_min : x_max + 1] = True
        seed |= largest_component(mask & inside)
    clicks = [point for point in prompt.points if point.is_positive]
    for point in clicks:
        seed[round(point.y), round(point.x)] = True
    if prompt.box is None and not clicks:  # what is left when something was clicked away
        seed = largest_component(mask)
    return seed & mask
