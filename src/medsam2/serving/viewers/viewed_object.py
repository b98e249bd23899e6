"""One object in a viewer's image: its prompts, its mask, undo, and the step to the next object.

Each interaction is one entry of a journal, also one that changes nothing: viewers show a marker for each and
remove one with each undo.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from medsam2.errors import PromptError
from medsam2.imaging.labels import bounding_box, from_run_lengths, run_lengths
from medsam2.imaging.volume import Volume
from medsam2.prompts.types import MaskPrompt, Point, Prompt, join_prompts
from medsam2.serving.viewers.interactions import Interaction, Mask, Voxel
from medsam2.serving.viewers.translate import Translation, axis_of, split, translate

if TYPE_CHECKING:
    from medsam2.inference.session import Session

MAX_ENTRIES = 50
"""As many as a session can undo."""
REACH = 5
"""How many slices around a correction of a given mask are found again, on each side."""
_OBJECT = 1

OpenSession = Callable[[Volume, int], "Session"]
"""Opens a volume along one of the file's axes."""
ChangedBox = tuple[slice, ...] | None


@dataclass(frozen=True, kw_only=True, eq=False)
class _State:
    """What is known about the object; a value, so that undo can come back to it."""

    axis: int | None = None
    """Of the array; slices are stacked along it."""
    session: Session | None = None
    num_changes: int = 0
    """Changes of the session so far."""
    offset: int = 0
    """The image's slice that is the session's first."""
    found_in: tuple[int, int] = (0, 0)
    """The first and the last slice in which the session's masks count."""
    is_given: bool = False
    """Whether the mask came from the viewer, and a session has to be opened around each correction."""
    is_begun: bool = False
    """Whether something has said where the object is."""
    is_queued: bool = False
    """Whether there are prompts that were not followed yet."""
    limits: tuple[int, int] | None = None
    waiting: tuple[Voxel, ...] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class _Moment:
    state: _State
    runs: npt.NDArray[np.int32]
    """Of the mask."""


class ViewedObject:
    """An image with one object; used by one thread at a time."""

    def __init__(self, volume: Volume, open_session: OpenSession) -> None:
        """Look at an image.

        Args:
            volume: The image; its array has the viewer's axis order.
            open_session: Opens it, or a part of it.
        """
        self.volume = volume
        self.shape: Voxel = volume.shape
        self._open_session = open_session
        self.reset()

    def reset(self) -> None:
        """Begin a new object: the mask is empty, and nothing can be undone."""
        self._state = _State()
        self._journal: deque[_Moment] = deque(maxlen=MAX_ENTRIES)
        self.mask: Mask = np.zeros(self.shape, bool)
        """In the array's axis order; never changed in place."""
        self.changed: ChangedBox = None
        """The smallest box with all voxels that the last call changed."""

    @property
    def num_bytes(self) -> int:
        """Memory beside the image."""
        states = [self._state, *(moment.state for moment in self._journal)]
        sessions = {id(state.session): state.session for state in states if state.session is not None}
        found = sum(session.status.num_bytes for session in sessions.values())
        return found + self.mask.nbytes + sum(moment.runs.nbytes for moment in self._journal)

    def give(self, mask: Mask) -> None:
        """Take a mask as the object; nothing is computed before something is said about it.

        The mask of an object about which nothing was said yet is the ground that the user stands on: undo
        does not take it away.

        Args:
            mask: The image's shape.

        Raises:
            PromptError: It has another shape.
        """
        if mask.shape != self.shape:
            raise PromptError(f"the mask has {mask.shape} voxels, the image {self.shape}")
        before = self._moment()
        if self._journal or self._state.is_begun:
            self._journal.append(before)
        self._set(mask)
        self._state = _State(is_given=bool(mask.any()), is_begun=bool(mask.any()))

    def add(self, interaction: Interaction | None, *, predicts: bool = True) -> Generator[int]:
        """Take an interaction in, and follow the object; each step is the work of one slice.

        If the steps are not taken to their end, the interaction leaves no trace.

        Args:
            interaction: None stands for one that shows nothing, as a click outside the image.
            predicts: Whether to follow the object now; see `predict`.

        Raises:
            PromptError: A prompt is not usable.
        """
        before, mask = self._moment(), self.mask
        self.changed = None
        try:
            if interaction is not None and self._add(interaction) and predicts:
                yield from self._follow()
        except BaseException:
            self._come_back(before, mask)
            raise
        self._journal.append(before)

    def predict(self) -> Generator[int]:
        """Follow the object after interactions that were only taken in; see `is_queued`."""
        self.changed = None
        if self._state.is_queued:
            yield from self._follow()

    @property
    def is_queued(self) -> bool:
        """Whether something was taken in and not followed."""
        return self._state.is_queued

    def undo(self) -> bool:
        """Take the last interaction back; False if there is none."""
        self.changed = None
        if not self._journal:
            return False
        moment = self._journal.pop()
        self._come_back(moment, from_run_lengths(moment.runs, self.shape))
        return True

    def _add(self, interaction: Interaction) -> bool:
        """Prompt the object; False if the interaction changes nothing yet."""
        state = self._state
        axis = axis_of(interaction, self.volume) if state.axis is None else state.axis
        translation = translate(interaction, axis=axis, mask=self.mask, is_begun=state.is_begun)
        if translation.is_empty:
            self._state = replace(state, waiting=(*state.waiting, *translation.waiting))
            return False
        state = replace(state, axis=axis, is_begun=True, limits=self._limits(translation, axis))
        if translation.prompts:
            state, prompts = self._joining(state, translation.prompts)
            state, anchors = self._opened(state, prompts)
            session = state.session
            assert session is not None
            session.add_all({_OBJECT: [_moved(prompt, state.offset) for prompt in (*anchors, *prompts)]})
            state = replace(state, num_changes=state.num_changes + 1)
        self._state = replace(state, is_queued=True)
        return True

    def _limits(self, translation: Translation, axis: int) -> tuple[int, int] | None:
        """How far the object may reach after an interaction."""
        first, last = translation.limits or self._state.limits or (0, max(self.shape))
        for prompt in translation.prompts if translation.limits is None else ():
            if prompt.mask is not None or any(point.is_positive for point in prompt.points) or prompt.box:
                first, last = min(first, prompt.slice_index), max(last, prompt.slice_index)
        if translation.emptied:
            filled = self._filled(axis)
            middle = (filled[0] + filled[-1]) / 2
            for z in translation.emptied:  # the object ends before the slice, on the side where it lies
                first, last = (max(first, z + 1), last) if z < middle else (first, min(last, z - 1))
        return None if (first, last) == (0, max(self.shape)) else (first, last)

    def _filled(self, axis: int) -> list[int]:
        others = tuple(other for other in range(3) if other != axis)
        return list(map(int, np.flatnonzero(self.mask.any(axis=others))))

    def _joining(self, state: _State, prompts: tuple[Prompt, ...]) -> tuple[_State, tuple[Prompt, ...]]:
        """Add the places that were known to be outside before it was known where the object is."""
        assert state.axis is not None
        joined = {prompt.slice_index: prompt for prompt in prompts}
        left = []
        for voxel in state.waiting:
            z, y, x = split(voxel, state.axis)
            if z in joined and joined[z].mask is None:
                point = Point(x=x, y=y, is_positive=False)
                joined[z] = join_prompts(joined[z], Prompt(slice_index=z, points=(point,)))
            else:
                left.append(voxel)
        return replace(state, waiting=tuple(left)), tuple(joined.values())

    def _opened(self, state: _State, prompts: tuple[Prompt, ...]) -> tuple[_State, tuple[Prompt, ...]]:
        """Make sure that there is a session for some prompts.

        A mask that was given is not found again as a whole, which would undo the work of its user. A session
        is opened on the slices around the prompts. The mask is prompted at both of its ends, so that a
        correction reaches half-way to them.

        Returns:
            The prompts that say what the mask is.
        """
        axis = state.axis
        assert axis is not None
        slices = sorted(prompt.slice_index for prompt in prompts)
        if not state.is_given:
            if state.session is not None:
                return state, ()
            session = self._open_session(self.volume, 2 - axis)
            found_in = (0, self.shape[axis] - 1)
            return replace(state, session=session, num_changes=0, offset=0, found_in=found_in), ()
        first, last = state.found_in
        if state.session is not None and first <= slices[0] and slices[-1] <= last:
            return state, ()
        below, above = self._anchors(axis, slices[0], slices[-1])
        start = 0 if below is None else below
        end = self.shape[axis] - 1 if above is None else above
        part = np.moveaxis(np.moveaxis(self.volume.array, axis, 0)[start : end + 1], 0, axis)
        state = replace(
            state,
            session=self._open_session(replace(self.volume, array=part), 2 - axis),
            num_changes=0,
            offset=start,
            found_in=(start + (below is not None), end - (above is not None)),
        )
        shown = np.moveaxis(self.mask, axis, 0)
        drawn = {prompt.slice_index for prompt in prompts if prompt.mask is not None}
        known = [z for z in (below, above, *slices) if z is not None and z not in drawn and shown[z].any()]
        return state, tuple(Prompt(slice_index=z, mask=MaskPrompt(array=shown[z])) for z in known)

    def _anchors(self, axis: int, first: int, last: int) -> tuple[int | None, int | None]:
        """Slices of a given mask on both sides of prompts; None on a side where it does not go on."""
        below = [z for z in self._filled(axis) if z < first]
        above = [z for z in self._filled(axis) if z > last]
        return (
            max((z for z in below if z <= first - REACH), default=min(below, default=None)),
            min((z for z in above if z >= last + REACH), default=max(above, default=None)),
        )

    def _follow(self) -> Generator[int]:
        state = self._state
        axis, session = state.axis, state.session
        assert axis is not None
        mask = self.mask.copy()
        shown = np.moveaxis(mask, axis, 0)
        if session is not None:
            within = state.limits and (state.limits[0] - state.offset, state.limits[1] - state.offset)
            for z, _ in session.propagate(within=within):
                yield z + state.offset
            first, last = state.found_in
            found = np.moveaxis(session.result(_OBJECT).array, axis, 0)
            shown[first : last + 1] = found[first - state.offset : last + 1 - state.offset] != 0
        if state.limits is not None:
            first, last = state.limits
            shown[:first] = False
            shown[last + 1 :] = False
        self._state = replace(state, is_queued=False)
        self._set(mask)

    def _set(self, mask: Mask) -> None:
        self.changed = bounding_box(self.mask ^ mask)
        self.mask = mask

    def _moment(self) -> _Moment:
        return _Moment(state=self._state, runs=run_lengths(self.mask))

    def _come_back(self, moment: _Moment, mask: Mask) -> None:
        session, now = moment.state.session, self._state
        if session is not None and session is now.session:
            for _ in range(now.num_changes - moment.state.num_changes):
                session.undo()
        self._state = moment.state
        self._set(mask)


def _moved(prompt: Prompt, offset: int) -> Prompt:
    return replace(prompt, slice_index=prompt.slice_index - offset)
