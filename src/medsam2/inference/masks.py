"""From the network's mask logits back to the slice and the volume; what both kinds of tracks share."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812
from scipy import ndimage
from torch import Tensor

from medsam2.errors import SessionError
from medsam2.imaging.labels import from_run_lengths, largest_component, run_lengths
from medsam2.inference.features import SliceFeatures
from medsam2.inference.runtime import InferenceOptions
from medsam2.inference.state import Banks, SliceResult
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


ARCHIVE_DISTANCE = 32  # slices behind the one at hand; nearer ones are looked at while a user works


class FoundSlices(Protocol):
    """The part of a track that these functions work on."""

    features: SliceFeatures
    options: InferenceOptions
    prompts: dict[int, Prompt]
    results: dict[int, SliceResult]
    memory_views: dict[int, View]
    banks: Banks


def mask_of(track: FoundSlices, z: int) -> npt.NDArray[np.bool_]:
    """The object `(y, x)` in a slice that was visited."""
    runs = track.results[z].runs
    return logits_of(track, z) > 0 if runs is None else from_run_lengths(runs, track.features.shape_yx)


def logits_of(track: FoundSlices, z: int) -> npt.NDArray[np.float32]:
    """Mask logits `(y, x)` of a slice that was visited."""
    result = track.results[z]
    return to_slice(result.frame.low_res_logits, result.view, track.features.shape_yx)


def keep_result(track: FoundSlices, z: int, result: SliceResult) -> None:
    """Keep what was found in a slice, and count its bytes."""
    track.results[z] = result
    track.features.held.keep(result)


def archive(track: FoundSlices, z: int) -> None:
    """Round a tracked result that lies far back to half the bytes; its mask stays what it was."""
    result = track.results.get(z)
    if result is None or result.runs is not None or z in track.prompts:
        return
    rounded = result.frame.low_res_logits.half()
    frame = dataclasses.replace(result.frame, low_res_logits=rounded, candidate_logits=rounded)
    keep_result(track, z, dataclasses.replace(result, frame=frame, runs=run_lengths(mask_of(track, z))))


def without_holes(track: FoundSlices, result: SliceResult) -> SliceResult:
    """The result without small holes, if that is asked for."""
    if not track.options.fill_hole_area:
        return result
    filled = fill_logit_holes(result.frame.low_res_logits, track.options.fill_hole_area)
    return dataclasses.replace(result, frame=dataclasses.replace(result.frame, low_res_logits=filled))


def forget_stale(track: FoundSlices, is_stale: Callable[[int], bool]) -> None:
    """Drop tracked slices that a new prompt has made stale; prompted ones stay."""
    for z in track.banks.forget(lambda z: z not in track.prompts and is_stale(z)):
        del track.results[z]


def release_far(track: FoundSlices, z: int, step: int) -> None:
    """Forget tracked slices that lie so far behind one that nothing looks back at them.

    Prompted slices stay, and those that a policy has picked.
    """
    for bank in track.banks.going(step):
        for other in list(bank.tracked):
            # One before it would be archived, which would be for nothing.
            is_far = (z - other) * step >= ARCHIVE_DISTANCE - 1
            if is_far and other not in track.prompts and other not in bank.pool:
                bank.forget(other)
                del track.results[other]
                track.memory_views.pop(other, None)


def other_prompts(track: FoundSlices, z: int) -> list[Prompt]:
    """The prompts that are left when that of a slice is taken back.

    Raises:
        SessionError: There is none on the slice, or it is the only one.
    """
    if z not in track.prompts:
        raise SessionError(f"there is no prompt on slice {z}; prompts are on {sorted(track.prompts)}")
    rest = [prompt for slice_index, prompt in track.prompts.items() if slice_index != z]
    if not rest:
        raise SessionError(f"slice {z} has the object's only prompt; remove the object instead")
    return rest
