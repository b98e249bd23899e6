"""What both kinds of tracks do with the slices in which they have found their object."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Protocol

import numpy as np
import numpy.typing as npt

from medsam2.errors import SessionError
from medsam2.imaging.labels import from_run_lengths, run_lengths
from medsam2.inference.banks import Banks
from medsam2.inference.features import SliceFeatures
from medsam2.inference.options import InferenceOptions
from medsam2.inference.postprocess import fill_logit_holes, to_slice
from medsam2.inference.state import SliceResult
from medsam2.inference.zoom import View
from medsam2.prompts.types import Prompt

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
