"""The order in which slices are visited: out from the prompts, upwards, then downwards.

The recurrence of SAM 2 starts both ways from the first prompted slice. A network that carries masks finds
each slice from the nearest prompted one (`Banks.direction`): between two, ways meet in the middle.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from medsam2.inference.banks import DIRECTIONS, UPWARDS
from medsam2.inference.track import ObjectTrack


def visit(
    tracks: Mapping[int, ObjectTrack], directions: Sequence[int] = DIRECTIONS
) -> Iterator[tuple[int, list[int]]]:
    """Carry objects through their volume.

    Each step of this generator does the work of one slice; closing it stops the work.

    Args:
        tracks: Object number to object, each with a prompt, all of one volume.
        directions: 1 for upwards, which the slice both start from belongs to, and -1 for downwards.

    Yields:
        A slice's index and the objects that were followed into it. Objects that have ended in a
        direction no longer take part in it; every object is reported once per slice at most.
    """
    for step in directions:
        runs = {number: _Run(track, step) for number, track in tracks.items()}
        active = [number for number, run in runs.items() if not run.is_over]
        while active:
            z = min(step * runs[number].position for number in active) * step
            here = [number for number in active if runs[number].position == z]
            for number in here:
                runs[number].take_step()
            yield z, here
            active = [number for number in active if not runs[number].is_over]


class _Run:
    """One object's way in one direction."""

    def __init__(self, track: ObjectTrack, step: int) -> None:
        self.track = track
        self.step = step
        self.position = min(track.prompts) if step == UPWARDS else max(track.prompts) - 1
        self.num_absent = 0
        self.stop_after = track.stop_after
        self._skip()

    @property
    def is_over(self) -> bool:
        """Whether the volume or the object has ended."""
        if not 0 <= self.position < self.track.features.num_slices:
            return True
        prompted_ahead = any((z - self.position) * self.step >= 0 for z in self.track.prompts)
        return bool(self.stop_after) and self.num_absent >= self.stop_after and not prompted_ahead

    def take_step(self) -> None:
        self.track.advance(self.position, self.step)
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
