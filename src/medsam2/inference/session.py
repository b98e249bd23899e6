"""One volume being segmented: objects, prompts, corrections, masks."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from medsam2.errors import PromptError, SessionError
from medsam2.imaging.cut import Cut
from medsam2.imaging.geometry import in_plane_mm
from medsam2.imaging.intensity import Window, check_intensities, resolve_window
from medsam2.imaging.volume import Volume
from medsam2.inference.features import SliceFeatures
from medsam2.inference.propagate import kept_slices, label_slices, visit
from medsam2.inference.runtime import InferenceOptions, Runtime
from medsam2.inference.state import TrackState
from medsam2.inference.track import ObjectTrack, start_track
from medsam2.inference.zoom import filed_prompt, shown_prompt
from medsam2.measure.preview import draw_preview
from medsam2.measure.sizes import longest_diameter_mm, volume_ml
from medsam2.prompts.types import MAX_OBJECTS, Point, Prompt, prompt_from
from medsam2.tracking.step import FrameResult

MAX_UNDO = 50


@dataclass(frozen=True)
class _Moment:
    """Everything that `undo` and `redo` come back to."""

    tracks: dict[int, tuple[ObjectTrack, TrackState]]
    is_propagated: bool


class Session:
    """Mutable state of one volume; made by `Predictor.session`, used by one thread at a time.

    Slices and pixels are those of the file, in and out, however the session turns them for the network.
    """

    def __init__(
        self,
        runtime: Runtime,
        volume: Volume,
        *,
        window: str | tuple[float, float] | None,
        cut: Cut,
        options: InferenceOptions,
        zooms: bool,
    ) -> None:
        check_intensities(volume.array)
        self.volume = volume
        self.cut = cut
        self.options = options
        self.window: Window = resolve_window(volume, window)
        self._zooms = zooms
        self._runtime = runtime
        self._features = SliceFeatures(runtime, cut.slices(volume.array), self.window)
        self._tracks: dict[int, ObjectTrack] = {}
        self._undone: list[_Moment] = []
        self._done: deque[_Moment] = deque(maxlen=MAX_UNDO)
        self._is_propagated = False
        self._num_changes = 0

    @property
    def axis(self) -> int:
        """File axis along which slices are stacked."""
        return self.cut.axis

    @property
    def runtime(self) -> Runtime:
        """Network, device and precision."""
        return self._runtime

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of slices, and a slice's height and width in pixels."""
        height, width = self._features.shape_yx
        return (self._features.num_slices, *((width, height) if self.cut.swaps_xy else (height, width)))

    @property
    def pixel_mm(self) -> tuple[float, float]:
        """Spacing of a slice's pixels, (x, y)."""
        x_mm, y_mm = (step for axis, step in enumerate(self.volume.spacing) if axis != self.axis)
        return x_mm, y_mm

    @property
    def in_plane_mm(self) -> np.ndarray:
        """Matrix (2, 2) from steps in a slice's pixels to millimetres, shear included."""
        return in_plane_mm(self.volume.affine, self.axis)

    @property
    def _shown_pixel_mm(self) -> tuple[float, float]:
        return self.pixel_mm[::-1] if self.cut.swaps_xy else self.pixel_mm

    @property
    def objects(self) -> list[int]:
        """Numbers of the objects."""
        return list(self._tracks)

    @property
    def can_undo(self) -> bool:
        """Whether there is a change to take back."""
        return bool(self._done)

    @property
    def can_redo(self) -> bool:
        """Whether there is a change to do again."""
        return bool(self._undone)

    @property
    def is_propagated(self) -> bool:
        """Whether every object has been followed as far as it goes since the last change."""
        return self._is_propagated

    @property
    def num_bytes(self) -> int:
        """What the session keeps beside its volume: masks, memories and features, those for undo as well."""
        return self._features.held.num_bytes

    @property
    def stops_early(self) -> bool:
        """Whether an object may end before the volume does: how many slices there will be is not known."""
        return any(track.stop_after for track in self._tracks.values())

    def prompts(self, number: int) -> dict[int, Prompt]:
        """What was said about an object, per slice, in slices and pixels of the file.

        Raises:
            SessionError: There is no object of this number.
        """
        shown = self._track(number).prompts.values()
        filed = (filed_prompt(prompt, self.cut, self.shape) for prompt in shown)
        return {prompt.slice_index: prompt for prompt in filed}

    def add(
        self,
        number: int,
        *,
        slice: int,  # noqa: A002
        box: Sequence[float] | None = None,
        points: Sequence[Sequence[float]] | None = None,
        labels: Sequence[int] | None = None,
        mask: npt.ArrayLike | None = None,
    ) -> npt.NDArray[np.bool_]:
        """Say something about an object in one slice and see it there.

        Points join what was said about the same slice before; a box or a mask replaces it.

        Args:
            number: The object, 1 to 255; a new number begins a new object.
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
        if not 1 <= number <= MAX_OBJECTS:
            raise PromptError(f"objects are numbered 1 to {MAX_OBJECTS}, not {number}")
        prompt = prompt_from(slice, box=box, points=points, labels=labels, mask=mask).checked(self.shape)
        track = self._tracks.get(number)
        if track is None:
            track = start_track(self._features, self.options, zooms=self._zooms)
        prompt = shown_prompt(prompt, self.cut, self.shape)
        with self._changing(), self._runtime.computing():
            track.add(_joined(track.prompts.get(prompt.slice_index), prompt))
            self._tracks[number] = track
        # As `result` has it: a part that will not be kept must not be shown first.
        kept = kept_slices(track)(prompt.slice_index)
        return np.ascontiguousarray(self.cut.file(kept))

    def remove(self, number: int, *, slice: int | None = None) -> None:  # noqa: A002
        """Forget an object, or what was said about it in one slice.

        Raises:
            SessionError: There is no object of this number or no prompt on the slice, or it is the only one.
        """
        track = self._track(number)
        prompted = sorted(self._turned(z) for z in track.prompts)
        if slice is not None and slice not in prompted:
            raise SessionError(f"there is no prompt on slice {slice}; prompts are on {prompted}")
        if slice is not None and len(prompted) == 1:
            raise SessionError(f"slice {slice} has the object's only prompt; remove the object instead")
        with self._changing(), self._runtime.computing():
            if slice is None:
                del self._tracks[number]
            else:
                track.remove(self._turned(slice))

    def undo(self) -> bool:
        """Take back the last `add` or `remove` with all that followed from it; False if there is none."""
        return self._step_back(self._done, self._undone)

    def redo(self) -> bool:
        """Do again what was undone last, if nothing was added or removed since; False if there is nothing."""
        return self._step_back(self._undone, self._done)

    def propagate(self) -> Iterator[tuple[int, dict[int, npt.NDArray[np.bool_]]]]:
        """Carry all objects through the volume, upwards from their prompts and then downwards.

        What is known from an earlier run and not touched by a prompt since is not computed again.

        Yields:
            A slice's index and, for each object followed into it, its mask bool `(y, x)`.

        Raises:
            SessionError: No object has a prompt.
        """
        if not self._tracks:
            raise SessionError("nothing to propagate: add a box, a point or a mask first")
        visits = visit(self._tracks)
        num_changes = self._num_changes
        while True:
            # Not held across the yield: the caller's own computing must not run in it.
            with self._runtime.computing():
                step = next(visits, None)
            if step is None:
                self._is_propagated = num_changes == self._num_changes
                return
            z, numbers = step
            masks = {number: self._filed_mask(self._tracks[number], z) for number in numbers}
            yield self._turned(z), masks

    def mask(self, number: int) -> npt.NDArray[np.bool_]:
        """One object in all slices visited so far, bool `(z, y, x)` along the session's axis.

        Raises:
            SessionError: There is no object of this number.
        """
        stack = np.zeros(self.shape, dtype=bool)
        shown = self.cut.show(stack)
        for z, mask in self._kept(number):
            shown[z] = mask
        return stack

    def scores(self, number: int) -> dict[int, float]:
        """How sure the network is of an object, per visited slice, 0..1.

        Raises:
            SessionError: There is no object of this number.
        """
        results = self._track(number).results
        return dict(sorted((self._turned(z), result.score) for z, result in results.items()))

    def frame(self, number: int, slice_index: int) -> FrameResult:
        """What the network gave for an object in a visited slice: logits as it is shown, scores, pointer.

        Raises:
            SessionError: There is no object of this number, or it was not followed there.
        """
        results = self._track(number).results
        if self._turned(slice_index) not in results:
            raise SessionError(f"object {number} was not followed into slice {slice_index}")
        return results[self._turned(slice_index)].frame

    def measurements(self, number: int) -> dict[str, float]:
        """Measure an object.

        Returns:
            `volume_ml`, `longest_diameter_mm` (in the plane of the slices) and `num_slices`.

        Raises:
            SessionError: There is no object of this number.
        """
        areas = [int(np.count_nonzero(mask)) for _, mask in self._kept(number)]
        # As filed: a sheared slice that is mirrored to be shown leans the other way.
        masks = (self.cut.file(mask) for _, mask in self._kept(number))
        return {
            "volume_ml": volume_ml(sum(areas), self.volume.affine),
            "longest_diameter_mm": longest_diameter_mm(masks, self.in_plane_mm),
            "num_slices": sum(area > 0 for area in areas),
        }

    def picture(self, number: int) -> Image.Image:
        """Draw an object: its first prompted slice with the box and outline, and a strip of slices.

        Slices are turned as they are shown; their numbers are the file's.

        Raises:
            SessionError: There is no object of this number.
        """
        prompt = next(iter(self._track(number).prompts.values()))
        width_mm, height_mm = self._shown_pixel_mm
        shown = self.cut.show(self.mask(number))
        return draw_preview(
            lambda z: self._features.grey(self._turned(z)),
            np.flip(shown, 0) if self.cut.reverses[0] else shown,
            self._turned(prompt.slice_index),
            box_xyxy=None if prompt.box is None else prompt.box.xyxy,
            aspect=height_mm / width_mm,
        )

    def result(self, number: int | None = None) -> Volume:
        """Return all objects as one uint8 label volume on the input's grid, or one object as 0 and 1.

        Where objects overlap, the one whose logit is higher keeps the voxel in the label volume; by itself
        each is whole.

        Raises:
            SessionError: There is no object of this number.
        """
        labels = np.zeros((self._features.num_slices, *self._features.shape_yx), dtype=np.uint8)
        for z, plane in label_slices(self._tracks) if number is None else self._kept(number):
            labels[z] = plane
        return self.volume.with_array(np.ascontiguousarray(self.cut.volume(labels)))

    def _kept(self, number: int) -> Iterator[tuple[int, npt.NDArray[np.bool_]]]:
        """Visited slices of an object with its final mask, both as they are shown."""
        track = self._track(number)
        kept = kept_slices(track)
        return ((z, kept(z)) for z in track.results)

    def _filed_mask(self, track: ObjectTrack, z: int) -> npt.NDArray[np.bool_]:
        return np.ascontiguousarray(self.cut.file(track.mask(z)))

    def _turned(self, z: int) -> int:
        """A filed slice's index where it is shown, or back."""
        return self.cut.turn_index(z, self._features.num_slices)

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
        return _Moment(tracks, self._is_propagated)

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
            raise SessionError(f"there is no object {number}; objects are {self.objects}")
        return self._tracks[number]


def _joined(earlier: Prompt | None, prompt: Prompt) -> Prompt:
    """Add new points to what was said about the slice; anything else begins anew."""
    if earlier is None or earlier.mask is not None or prompt.box is not None or prompt.mask is not None:
        return prompt
    points: tuple[Point, ...] = earlier.points + prompt.points
    return Prompt(slice_index=prompt.slice_index, box=earlier.box, points=points)
