"""The order in which slices are visited, and the masks that come of it."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt

from medsam2.imaging.labels import ConnectedParts, connected_through
from medsam2.inference.batching import work_together
from medsam2.inference.carried_track import CarriedTrack
from medsam2.inference.features import SliceFeatures
from medsam2.inference.masks import prompted_parts
from medsam2.inference.options import InferenceOptions
from medsam2.inference.sam_track import SamTrack
from medsam2.inference.state import DIRECTIONS, UPWARDS
from medsam2.inference.track import ObjectTrack
from medsam2.model.compact.network import CompactNetwork


def start_track(features: SliceFeatures, options: InferenceOptions) -> ObjectTrack:
    """Begin to follow an object with the network at hand."""
    is_compact = isinstance(features.runtime.network, CompactNetwork)
    return CarriedTrack(features, options) if is_compact else SamTrack(features, options)


def visit(
    tracks: Mapping[int, ObjectTrack],
    directions: Sequence[int] = DIRECTIONS,
    within: tuple[int, int] | None = None,
) -> Iterator[tuple[int, list[int]]]:
    """Carry objects through their volume.

    Each step of this generator does the work of one slice; closing it stops the work.

    Args:
        tracks: Object number to object, each with a prompt, all of one volume.
        directions: 1 for upwards, which the slice both start from belongs to, and -1 for downwards.
        within: The first and the last slice that objects are followed into, prompted slices beyond them
            aside; None for all.

    Yields:
        A slice's index and the objects that were followed into it. Objects that have ended in a
        direction no longer take part in it; every object is reported once per slice at most.
    """
    for step in directions:
        runs = {number: _Run(track, step, within) for number, track in tracks.items()}
        active = [number for number, run in runs.items() if not run.is_over]
        while active:
            z = min(step * runs[number].position for number in active) * step
            here = [number for number in active if runs[number].position == z]
            work_together([runs[number].track.advance(z, step) for number in here])
            for number in here:
                runs[number].take_step()
            yield z, here
            active = [number for number in active if not runs[number].is_over]


class _Run:
    """One object's walk in one direction."""

    def __init__(self, track: ObjectTrack, step: int, within: tuple[int, int] | None) -> None:
        self.track = track
        self.step = step
        self.end = None if within is None else max(within) if step == UPWARDS else min(within)
        self.position = min(track.prompts) if step == UPWARDS else max(track.prompts) - 1
        self.num_absent = 0
        self.stop_after = track.stop_after
        self._skip()

    @property
    def is_over(self) -> bool:
        """Whether the volume or the object has ended."""
        if not 0 <= self.position < self.track.features.num_slices:
            return True
        if any((z - self.position) * self.step >= 0 for z in self.track.prompts):
            return False
        is_beyond = self.end is not None and (self.position - self.end) * self.step > 0
        return is_beyond or (bool(self.stop_after) and self.num_absent >= self.stop_after)

    def take_step(self) -> None:
        """Go on from a slice that is done."""
        is_there = bool((self.track.logits(self.position) > 0).any()) if self.stop_after else True
        self.num_absent = 0 if is_there else self.num_absent + 1
        self.position += self.step
        self._skip()

    def _skip(self) -> None:
        """Leave out slices that are reached from the other side."""
        while (
            0 <= self.position < self.track.features.num_slices
            and self.track.banks.direction(self.position) != self.step
        ):
            self.num_absent = 0
            self.position += self.step


def kept_slices(track: ObjectTrack) -> Callable[[int], npt.NDArray[np.bool_]]:
    """An object's final mask: a function from a slice that was visited to the mask `(y, x)`."""
    if not track.keeps_component:
        return track.mask
    return connected_through(
        track.mask, sorted(track.results), prompted_parts(track.mask, track.prompts.values())
    )


_Masks = dict[int, npt.NDArray[np.bool_]]


class _KeptSoFar:
    """An object's final mask as far as the slices that were visited tell it."""

    def __init__(self, track: ObjectTrack) -> None:
        self.track = track
        self._restart()

    def _restart(self) -> None:
        self._prompts = list(self.track.prompts.values())
        self._parts = ConnectedParts(self.track.mask)
        self._seeds = prompted_parts(self.track.mask, self._prompts) if self.track.keeps_component else {}
        self._visited: set[int] = set()

    def visit(self, z: int) -> _Masks:
        """Take in a slice; return its mask, and those of slices in which more is kept now."""
        prompts = self.track.prompts.values()
        if len(prompts) != len(self._prompts) or any(map(operator.is_not, prompts, self._prompts)):
            self._restart()  # prompted between two slices: others have been found anew
        is_new = z not in self._visited
        self._visited.add(z)
        if not self.track.keeps_component:
            return {z: self.track.mask(z)}
        changed = self._parts.add(z, self._seeds.get(z)) if is_new else set()
        return {other: self._parts.kept(other) for other in (z, *sorted(changed))}

    def visit_rest(self) -> _Masks:
        """Take in what earlier runs found and this one did not come to."""
        found: _Masks = {}
        for z in sorted(self.track.results):
            if z not in self._visited:
                found |= self.visit(z)
        return found


def stream(
    tracks: Mapping[int, ObjectTrack], within: tuple[int, int] | None = None
) -> Iterator[tuple[int, _Masks]]:
    """Follow objects through their volume, see `visit`, and keep the parts that hold the prompts.

    A part of a slice may be connected to the object through slices that come later only. So that nobody
    waits for the last slice to see the first, each slice is given at once, and once more if more of it is
    kept later: what is given last is what `kept_slices` gives.

    Yields:
        A slice's index and the mask `(y, x)` of each object that was followed into it or has changed there.
    """
    kept: dict[int, _KeptSoFar] = {}

    def kept_of(number: int) -> _KeptSoFar:
        # Between two slices a caller may add an object, or remove one and give its number to another.
        if number not in kept or kept[number].track is not tracks[number]:
            kept[number] = _KeptSoFar(tracks[number])
        return kept[number]

    for z, numbers in visit(tracks, within=within):
        yield from _by_slice({number: kept_of(number).visit(z) for number in numbers}, first=z)
    yield from _by_slice({number: kept_of(number).visit_rest() for number in tracks})


def _by_slice(found: Mapping[int, _Masks], first: int | None = None) -> Iterator[tuple[int, _Masks]]:
    """Turn masks by object and slice into masks by slice and object; one slice comes first."""
    slices = sorted({z for masks in found.values() for z in masks}, key=lambda z: (z != first, z))
    for z in slices:
        yield z, {number: masks[z] for number, masks in found.items() if z in masks}


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
        logits: Object number to a function that gives its logits `(y, x)`; called only where objects overlap.
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
