"""What followed objects amount to: masks and labels, a slice at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial

import numpy as np
import numpy.typing as npt

from medsam2.inference.postprocess import keep_prompted
from medsam2.inference.track import ObjectTrack


def kept_slices(track: ObjectTrack) -> Callable[[int], npt.NDArray[np.bool_]]:
    """An object's final mask: a function from a slice that was visited to the mask `(y, x)`."""
    if not track.keeps_component:
        return track.mask
    return keep_prompted(track.mask, sorted(track.results), list(track.prompts.values()))


def label_slices(tracks: Mapping[int, ObjectTrack]) -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
    """Label the slices in which something was found.

    Where objects overlap, the one whose logit is higher keeps the pixel.

    Args:
        tracks: Object number, 1 to 255, to object.

    Yields:
        A slice's index and its labels, uint8 `(y, x)`.
    """
    kept = {number: kept_slices(track) for number, track in tracks.items()}
    for z in sorted({z for track in tracks.values() for z in track.results}):
        masks = {number: kept[number](z) for number, track in tracks.items() if z in track.results}
        masks = {number: mask for number, mask in masks.items() if mask.any()}
        if masks:
            yield z, join(masks, {number: partial(tracks[number].logits, z) for number in masks})


def join(
    masks: Mapping[int, npt.NDArray[np.bool_]],
    logits: Mapping[int, Callable[[], npt.NDArray[np.float32]]],
) -> npt.NDArray[np.uint8]:
    """Join the masks of one slice to labels; a contested pixel goes to the higher logit.

    Args:
        masks: Object number to mask `(y, x)`, one at least.
        logits: Object number to what gives its logits `(y, x)`; asked for only where objects overlap.
    """
    shape_yx = next(iter(masks.values())).shape
    labels = np.zeros(shape_yx, dtype=np.uint8)
    for number, mask in masks.items():
        labels[mask] = number
    contested = sum(mask.astype(np.uint8) for mask in masks.values()) > np.uint8(1)
    if not np.any(contested):
        return labels
    best = np.full(shape_yx, -np.inf, dtype=np.float32)
    for number, mask in masks.items():
        heights = np.where(mask, logits[number](), -np.inf)
        labels[contested & (heights > best)] = number
        best = np.maximum(best, heights)
    return labels
