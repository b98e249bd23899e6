"""One volume being segmented: objects, prompts, corrections, masks."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from medsam2.errors import PromptError, SessionError
from medsam2.imaging.intensity import Window, check_intensities, resolve_window
from medsam2.imaging.volume import Volume
from medsam2.inference.batching import Work, work_together
from medsam2.inference.features import SliceFeatures
from medsam2.inference.grid import SliceGrid
from medsam2.inference.options import InferenceOptions
from medsam2.inference.propagate import kept_slices, label_slices, start_track, stream
from medsam2.inference.runtime import Runtime
from medsam2.inference.state import TrackState
from medsam2.inference.track import ObjectTrack
from medsam2.inference.tracked_object import TrackedObject
from medsam2.inference.zoom import shown_prompt
from medsam2.prompts.types import MAX_OBJECTS, Prompt, join_prompts, prompt_from

MAX_UNDO = 50


@dataclass(frozen=True, kw_only=True)
class SessionStatus:
    """What a session holds, and what can be done with it, at the moment."""

    objects: list[int]
    """Numbers of the objects."""
    can_undo: bool
    """Whether there is a change to take back."""
    can_redo: bool
    """Whether there is a change to do again."""
    is_propagated: bool
    """Whether every object has been followed as far as it goes since the last change."""
    stops_early: bool
    """Whether an object may end before the volume does: how many slices there will be is not known."""
    num_bytes: int
    """Memory that the session keeps beside its volume: masks, memories and features, those for undo too."""


@dataclass(frozen=True, kw_only=True)
class _Moment:
    """Everything that `undo` and `redo` come back to."""

    tracks: dict[int, tuple[ObjectTrack, TrackState]]
    is_propagated: bool


class Session:
    """Mutable state of one volume; made by `Predictor.session`, used by one thread at a time.

    Slices and pixels are those of the file, in and out, however the session turns them for the network.

    The attributes of `grid` and `status` are attributes of the session as well: `session.shape`,
    `session.objects`. The methods of `TrackedObject` are methods of the session, with the object's number:
    `session.mask(1)`, `session.scores(1)`, `session.measurements(1)`.

    Example:
        >>> session = medsam2.load("compact").session("scan.nii.gz")
        >>> shown = session.add(1, slice=12, box=(30, 25, 50, 45))  # the mask of this slice, (y, x)
        >>> for slice_index, masks in session.propagate():  # a slice is there as soon as it is done
        ...     pixels = masks[1].sum()
        >>> corrected = session.add(1, slice=14, points=[(41, 36)], labels=[1])
        >>> session.finish()
        >>> session
        Session(24 slices of 64 x 80 pixels, axis 2, window ..., objects [1])
        >>> medsam2.write(session.result(), "mask.nii.gz")
        >>> session.undo()
        True
    """

    def __init__(
        self,
        runtime: Runtime,
        grid: SliceGrid,
        *,
        window: str | tuple[float, float] | None,
        options: InferenceOptions,
    ) -> None:
        check_intensities(grid.volume.array)
        self.grid = grid
        self.window: Window = resolve_window(grid.volume, window)
        self._options = options
        self._runtime = runtime
        self._features = SliceFeatures(runtime, grid.cut.slices(grid.volume.array), self.window)
        self._tracks: dict[int, ObjectTrack] = {}
        self._undone: list[_Moment] = []
        self._done: deque[_Moment] = deque(maxlen=MAX_UNDO)
        self._is_propagated = False
        self._num_changes = 0

    @property
    def status(self) -> SessionStatus:
        """What the session holds, and what can be done with it, at the moment."""
        return SessionStatus(
            objects=list(self._tracks),
            can_undo=bool(self._done),
            can_redo=bool(self._undone),
            is_propagated=self._is_propagated,
            stops_early=any(track.stop_after for track in self._tracks.values()),
            num_bytes=self._features.retained.num_bytes,
        )

    def object(self, number: int) -> TrackedObject:
        """Look at one object: its prompts, masks, scores and measurements.

        Raises:
            SessionError: There is no object of this number.
        """
        return TrackedObject(number, self._track(number), self.grid)

    def __repr__(self) -> str:
        """Describe what is open and what is in it."""
        num_slices, height, width = self.grid.shape
        return (
            f"Session({num_slices} slices of {height} x {width} pixels, axis {self.grid.axis}, "
            f"window {self.window.lower:g}..{self.window.upper:g}, objects {list(self._tracks)})"
        )

    def add(
        self,
        number: int,
        prompt: Prompt | None = None,
        *,
        slice: int | None = None,  # noqa: A002
        box: Sequence[float] | None = None,
        points: Sequence[Sequence[float]] | None = None,
        labels: Sequence[int] | None = None,
        mask: npt.ArrayLike | None = None,
    ) -> npt.NDArray[np.bool_]:
        """Prompt an object in one slice and see it there.

        Points join the prompt that the slice has already; a box or a mask replaces it.

        Args:
            number: The object, 1 to 255; a new number begins a new object.
            prompt: The prompt; or its parts, as follows.
            slice: Slice index along the session's axis.
            box: `(x_min, y_min, x_max, y_max)` in pixels of the slice, both ends included.
            points: `(x, y)` each.
            labels: 1 for a point inside, 0 for one outside; all inside if not given.
            mask: `(y, x)`, not 0 inside; taken as it is.

        Returns:
            The object in this slice, bool `(y, x)`.

        Raises:
            PromptError: The prompt does not lie in the volume, or the number is not 1 to 255.
        """
        if prompt is None:
            prompt = prompt_from(slice, box=box, points=points, labels=labels, mask=mask)
        self.add_all({number: [prompt]})
        # As `result` has it: a part that will not be kept must not be shown first.
        kept = kept_slices(self._tracks[number])(self.grid.turn_index(prompt.slice_index))
        return np.ascontiguousarray(self.grid.cut.file(kept))

    def add_all(self, objects: Mapping[int, Sequence[Prompt]]) -> None:
        """Prompt several objects, as one change; a prompt that does not lie in the volume keeps all out.

        Args:
            objects: Object number, 1 to 255, to its prompts.

        Raises:
            PromptError: A prompt does not lie in the volume, or a number is not 1 to 255.
        """
        for number, prompts in objects.items():
            if not 1 <= number <= MAX_OBJECTS:
                raise PromptError(f"objects are numbered 1 to {MAX_OBJECTS}, not {number}")
            for prompt in prompts:
                prompt.checked(self.grid.shape)
        with self._changing(), self._runtime.computing():
            tracks = {
                number: self._tracks.get(number) or start_track(self._features, self._options)
                for number in objects
            }
            work_together([self._prompted(track, objects[number]) for number, track in tracks.items()])
            self._tracks |= tracks

    def _prompted(self, track: ObjectTrack, prompts: Sequence[Prompt]) -> Work:
        """Add the prompts of one object, one after the other."""
        for prompt in prompts:
            shown = shown_prompt(prompt, self.grid.cut, self.grid.shape)
            yield from track.add(join_prompts(track.prompts.get(shown.slice_index), shown))

    def remove(self, number: int, *, slice: int | None = None) -> None:  # noqa: A002
        """Remove an object, or its prompt on one slice.

        Raises:
            SessionError: There is no object of this number or no prompt on the slice, or it is the only one.
        """
        track = self._track(number)
        prompted = sorted(map(self.grid.turn_index, track.prompts))
        if slice is not None and slice not in prompted:
            raise SessionError(f"there is no prompt on slice {slice}; prompts are on {prompted}")
        if slice is not None and len(prompted) == 1:
            raise SessionError(f"slice {slice} has the object's only prompt; remove the object instead")
        with self._changing(), self._runtime.computing():
            if slice is None:
                del self._tracks[number]
            else:
                track.remove(self.grid.turn_index(slice))

    def undo(self) -> bool:
        """Take back the last `add` or `remove` with all that followed from it; False if there is none."""
        return self._step_back(self._done, self._undone)

    def redo(self) -> bool:
        """Do again what was undone last, if nothing was added or removed since; False if there is nothing."""
        return self._step_back(self._undone, self._done)

    def propagate(
        self, *, within: tuple[int, int] | None = None
    ) -> Iterator[tuple[int, dict[int, npt.NDArray[np.bool_]]]]:
        """Follow all objects through the volume, upwards from their prompts and then downwards.

        Slices that an earlier run has found, and that no prompt has changed since, are not computed again.

        Args:
            within: The first and the last slice to go to, if the object is known to end there; prompted
                slices are visited all the same. `result` still holds what an earlier run found beyond them.

        Yields:
            A slice's index and, for each object followed into it, its mask bool `(y, x)`. Where only the part
            that holds the prompt is kept, a part may turn out to belong to it some slices later: then its
            slices come again. The last mask of a slice is the one that `result` holds.

        Raises:
            SessionError: No object has a prompt.
        """
        if not self._tracks:
            raise SessionError("nothing to propagate: add a box, a point or a mask first")
        num_changes = self._num_changes
        steps = stream(self._tracks, within and self._turned(within))
        while True:
            # Not around the yield: the caller's own computing must not run in it.
            with self._runtime.computing():
                step = next(steps, None)
            if step is None:
                self._is_propagated = within is None and num_changes == self._num_changes
                return
            z, masks = step
            in_file = {n: np.ascontiguousarray(self.grid.cut.file(mask)) for n, mask in masks.items()}
            yield self.grid.turn_index(z), in_file

    def finish(self) -> None:
        """Follow all objects to their ends, for callers who do not look at the slices on the way.

        Raises:
            SessionError: No object has a prompt.
        """
        for _ in self.propagate():
            pass

    def result(self, number: int | None = None) -> Volume:
        """Return all objects as one uint8 label volume on the input's grid, or one object as 0 and 1.

        Where objects overlap, the one whose logit is higher keeps the voxel in the label volume; by itself
        each is whole.

        Raises:
            SessionError: There is no object of this number.
        """
        labels = np.zeros((self._features.num_slices, *self._features.shape_yx), dtype=np.uint8)
        found = label_slices(self._tracks) if number is None else self.object(number).shown_masks()
        for z, plane in found:
            labels[z] = plane
        return self.grid.volume.with_array(np.ascontiguousarray(self.grid.cut.volume(labels)))

    def __getattr__(self, name: str) -> Any:  # the names that the class docstring promises
        if name in _OF_GRID:
            return getattr(self.grid, name)
        if name in SessionStatus.__dataclass_fields__:
            return getattr(self.status, name)
        if name in _OF_OBJECT:
            return lambda number, *arguments: getattr(self.object(number), name)(*arguments)
        raise AttributeError(f"a session has no {name!r}")

    def _turned(self, within: tuple[int, int]) -> tuple[int, int]:
        first, last = within
        return self.grid.turn_index(first), self.grid.turn_index(last)

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Keep the moment before a change; a change that fails leaves no trace."""
        before = self._moment()
        try:
            yield
        except BaseException:
            self._come_back(before)
            raise
        self._done.append(before)
        self._undone.clear()
        self._is_propagated = False
        self._num_changes += 1

    def _moment(self) -> _Moment:
        tracks = {number: (track, track.state()) for number, track in self._tracks.items()}
        return _Moment(tracks=tracks, is_propagated=self._is_propagated)

    def _come_back(self, moment: _Moment) -> None:
        self._tracks = {number: track for number, (track, _) in moment.tracks.items()}
        for track, state in moment.tracks.values():
            track.restore(state)
        self._is_propagated = moment.is_propagated
        self._num_changes += 1

    def _step_back(
        self, moments: deque[_Moment] | list[_Moment], others: deque[_Moment] | list[_Moment]
    ) -> bool:
        if not moments:
            return False
        others.append(self._moment())
        self._come_back(moments.pop())
        return True

    def _track(self, number: int) -> ObjectTrack:
        if number not in self._tracks:
            raise SessionError(f"there is no object {number}; objects are {list(self._tracks)}")
        return self._tracks[number]


_OF_GRID = frozenset({"volume", "cut", "axis", "shape", "pixel_mm", "in_plane_mm"})
_OF_OBJECT = frozenset({"prompts", "mask", "scores", "frame", "measurements", "picture"})
