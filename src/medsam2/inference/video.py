"""One video being segmented: prompts on any frame, masks of every frame in order, in flat memory."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from medsam2.errors import InputError, PromptError, SessionError
from medsam2.imaging.labels import from_run_lengths, run_lengths
from medsam2.inference.batching import work_together
from medsam2.inference.features import FrameSource, SliceFeatures
from medsam2.inference.masks import to_slice
from medsam2.inference.options import InferenceOptions
from medsam2.inference.propagate import join, start_track, visit
from medsam2.inference.runtime import Runtime
from medsam2.inference.state import SliceResult
from medsam2.inference.track import ObjectTrack
from medsam2.inference.zoom import View
from medsam2.prompts.types import MAX_OBJECTS, Prompt, join_prompts, prompt_from


@dataclass(frozen=True, kw_only=True, eq=False)
class Found:
    """An object in a frame."""

    mask: npt.NDArray[np.bool_]
    """`(y, x)`."""
    score: float
    logits: Callable[[], npt.NDArray[np.float32]]
    """Gives the mask's logits `(y, x)`."""


@dataclass(frozen=True, kw_only=True)
class _Place:
    """Where an object's mask in a frame lies in the file, and what is small enough to be kept."""

    offset: int
    score: float
    view: View


class MaskArchive:
    """Writes masks as run lengths, and logits as the network gave them where objects may overlap.

    Args:
        shape_yx: Size of a frame.
        keeps_logits: Whether logits are needed later.
    """

    def __init__(self, shape_yx: tuple[int, int], *, keeps_logits: bool) -> None:
        self._shape_yx = shape_yx
        self._keeps_logits = keeps_logits
        self._places: dict[int, dict[int, _Place]] = {}
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  closed by __exit__

    def __enter__(self) -> MaskArchive:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def put(self, index: int, number: int, result: SliceResult, mask: npt.NDArray[np.bool_]) -> None:
        """Keep what was found of an object in a frame.

        Raises:
            InputError: The folder for temporary files has no room.
        """
        try:
            offset = self._file.seek(0, 2)
            np.save(self._file, run_lengths(mask))
            if self._keeps_logits:
                np.save(self._file, result.frame.low_res_logits.float().cpu().numpy())
        except OSError as error:
            raise InputError(
                f"masks do not fit into the folder for temporary files {tempfile.gettempdir()}: "
                f"{error.strerror or error}"
            ) from error
        place = _Place(offset=offset, score=result.score, view=result.view)
        self._places.setdefault(index, {})[number] = place

    def take(self, index: int) -> dict[int, Found]:
        """Give the objects of a frame by their numbers, and forget where they are."""
        return {number: self._read(place) for number, place in self._places.pop(index, {}).items()}

    def _read(self, place: _Place) -> Found:
        self._file.seek(place.offset)
        mask = from_run_lengths(np.load(self._file), self._shape_yx)
        low_res = np.load(self._file) if self._keeps_logits else None

        def logits() -> npt.NDArray[np.float32]:
            assert low_res is not None, "a single object is never contested"
            return to_slice(torch.from_numpy(low_res), place.view, self._shape_yx)

        return Found(mask=mask, score=place.score, logits=logits)


_BACKWARDS, _FORWARDS = -1, 1


@dataclass(frozen=True, kw_only=True, eq=False)
class FrameMasks:
    """What was found in one frame; it unpacks as the pair that `Session.propagate` yields, `index, masks`."""

    index: int
    """Number of the frame, from 0."""
    labels: npt.NDArray[np.uint8]
    """Object numbers `(y, x)`, 0 outside; where objects overlap, the higher logit keeps the pixel."""
    scores: Mapping[int, float]
    """How sure the network is of each object that was followed here, 0..1; 0 where it is absent."""
    masks: Mapping[int, npt.NDArray[np.bool_]]
    """Mask `(y, x)` of each object that was followed here; each is whole, so that masks may overlap."""

    def __iter__(self) -> Iterator[Any]:
        """Give the frame's number, then the masks."""
        return iter((self.index, self.masks))


class VideoSession:
    """Objects in one video; made by `Predictor.video`, used by one thread at a time.

    Unlike a `Session`, which keeps what it found for corrections, this one hands each mask out and
    forgets it, so that memory does not grow with the video. A frame is what a slice is in a `Session`:
    `slice=` and `frame=` mean the same.

    Example:
        >>> frames = np.zeros((6, 48, 64, 3), np.uint8)  # or medsam2.open_video("cine.mp4")
        >>> frames[:, 12:30, 20:44] = 200
        >>> session = medsam2.load("compact").video(frames)
        >>> shown = session.add(1, frame=2, box=(19, 11, 45, 31))
        >>> for index, masks in session.propagate():
        ...     area = masks[1].sum()
        >>> session
        VideoSession(6 frames of 48 x 64 pixels, objects [1])
    """

    def __init__(self, runtime: Runtime, frames: FrameSource, *, options: InferenceOptions) -> None:
        if options.keep_component:
            raise InputError("keep_component needs all masks at once; those of a video are not kept")
        first = frames[0]
        if first.dtype != np.uint8 or first.shape[2:] not in ((), (3,)):
            raise InputError(
                f"a video's frames are uint8 (y, x) or (y, x, 3), not {first.dtype} of shape {first.shape}"
            )
        # An object that leaves a volume has ended; one that leaves a video comes back.
        self.options = dataclasses.replace(
            options,
            keep_component=False,
            stop_after=options.stop_after or 0,
        )
        self._runtime = runtime
        self._features = SliceFeatures(runtime, frames, None)
        # In the order in which they came: what a click changes depends on what was there before it.
        self._prompts: dict[int, list[Prompt]] = {}

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of frames, and a frame's height and width in pixels."""
        return (self._features.num_slices, *self._features.shape_yx)

    @property
    def objects(self) -> list[int]:
        """Numbers of the objects."""
        return list(self._prompts)

    def __repr__(self) -> str:
        """Describe what is open and what is in it."""
        num_frames, height, width = self.shape
        return f"VideoSession({num_frames} frames of {height} x {width} pixels, objects {self.objects})"

    def add(
        self,
        number: int,
        prompt: Prompt | None = None,
        *,
        slice: int | None = None,  # noqa: A002
        frame: int | None = None,
        box: Sequence[float] | None = None,
        points: Sequence[Sequence[float]] | None = None,
        labels: Sequence[int] | None = None,
        mask: npt.ArrayLike | None = None,
    ) -> npt.NDArray[np.bool_]:
        """Prompt an object in one frame and see it there.

        Points join the prompt that the frame has already; a box or a mask replaces it. Prompts on several
        frames all hold.

        Args:
            number: The object, 1 to 255; a new number begins a new object.
            prompt: The prompt, its slice being the frame; or its parts, as follows.
            slice: Number of the frame, from 0, by the name that it has in a `Session`.
            frame: The same by its own name; give one of the two.
            box: `(x_min, y_min, x_max, y_max)` in pixels of the frame, both ends included.
            points: `(x, y)` each.
            labels: 1 for a point inside, 0 for one outside; all inside if not given.
            mask: `(y, x)`, not 0 inside; taken as it is.

        Returns:
            The object in this frame, bool `(y, x)`.

        Raises:
            PromptError: The prompt does not lie in the video, the number is not 1 to 255, or `slice` and
                `frame` differ.
        """
        if slice is not None and frame is not None and slice != frame:
            raise PromptError(f"slice and frame are two names of one number, and not {slice} and {frame}")
        if not 1 <= number <= MAX_OBJECTS:
            raise PromptError(f"objects are numbered 1 to {MAX_OBJECTS}, not {number}")
        if prompt is None:
            prompt = prompt_from(
                slice if frame is None else frame, box=box, points=points, labels=labels, mask=mask
            )
        num_frames, index = self.shape[0], prompt.slice_index
        if not 0 <= index < num_frames:
            raise PromptError(f"frame {index} is outside the video: it has frames 0 to {num_frames - 1}")
        prompts = [*self._prompts.get(number, ()), prompt.checked(self.shape)]
        found = self._track(prompts).mask(index)
        self._prompts[number] = prompts
        return found

    def remove(self, number: int, *, slice: int | None = None, frame: int | None = None) -> None:  # noqa: A002
        """Remove an object, or its prompt on one frame, `slice` or `frame`.

        Raises:
            SessionError: There is no object of this number or no prompt on the frame, or it is the only one.
        """
        index = slice if frame is None else frame
        if number not in self._prompts:
            raise SessionError(f"there is no object {number}; objects are {self.objects}")
        prompted = sorted({prompt.slice_index for prompt in self._prompts[number]})
        if index is None:
            del self._prompts[number]
        elif index not in prompted:
            raise SessionError(f"there is no prompt on frame {index}; prompts are on {prompted}")
        elif len(prompted) == 1:
            raise SessionError(f"frame {index} has the object's only prompt; remove the object instead")
        else:
            kept = [prompt for prompt in self._prompts[number] if prompt.slice_index != index]
            self._prompts[number] = kept

    def propagate(self) -> Iterator[FrameMasks]:
        """Carry all objects through the video: backwards from their prompts, then forwards.

        What is found backwards waits on disk for its turn. Closing the generator stops the work.

        Yields:
            Every frame once, in order. `for index, masks in session.propagate()` works as with a `Session`;
            `labels` and `scores` are there as well.

        Raises:
            SessionError: No object has a prompt.
        """
        if not self._prompts:
            raise SessionError("nothing to propagate: add a box, a point or a mask first")
        tracks = {number: self._track(prompts) for number, prompts in self._prompts.items()}
        with MaskArchive(self._features.shape_yx, keeps_logits=len(tracks) > 1) as behind:
            for index, numbers in self._steps(tracks, _BACKWARDS):
                for number in numbers:
                    behind.put(index, number, tracks[number].results[index], tracks[number].mask(index))
            upcoming = 0
            for index, numbers in self._steps(tracks, _FORWARDS):
                while upcoming < index:
                    yield self._joined(upcoming, behind.take(upcoming))
                    upcoming += 1
                here = {number: _found(tracks[number], index) for number in numbers}
                yield self._joined(index, {**behind.take(index), **here})
                upcoming = index + 1
            for index in range(upcoming, self.shape[0]):
                yield self._joined(index, behind.take(index))

    def _track(self, prompts: Sequence[Prompt]) -> ObjectTrack:
        """Begin to follow an object: every frame that was prompted is found and remembered."""
        track = start_track(self._features, self.options)
        with self._runtime.computing():
            for prompt in prompts:
                work_together([track.add(join_prompts(track.prompts.get(prompt.slice_index), prompt))])
        return track

    def _steps(self, tracks: Mapping[int, ObjectTrack], step: int) -> Iterator[tuple[int, list[int]]]:
        """Visit frames in one direction, and let what lies behind go."""
        visits = visit(tracks, (step,))
        while True:
            # Not around the yield: the caller's own computing must not run in it.
            with self._runtime.computing():
                visited = next(visits, None)
            if visited is None:
                return
            yield visited
            index, numbers = visited
            for number in numbers:
                tracks[number].release(index, step)

    def _joined(self, index: int, found: Mapping[int, Found]) -> FrameMasks:
        masks = {number: one.mask for number, one in sorted(found.items()) if one.mask.any()}
        labels = np.zeros(self._features.shape_yx, dtype=np.uint8)
        if masks:
            labels = join(masks, {number: found[number].logits for number in masks})
        scores = {number: one.score for number, one in sorted(found.items())}
        every = {number: found[number].mask for number in scores}
        return FrameMasks(index=index, labels=labels, scores=scores, masks=every)


def _found(track: ObjectTrack, index: int) -> Found:
    return Found(
        mask=track.mask(index), score=track.results[index].score, logits=partial(track.logits, index)
    )
