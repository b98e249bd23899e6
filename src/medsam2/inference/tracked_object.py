"""One object of a session, to read: its prompts, masks, scores and measurements."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from PIL import Image

from medsam2.errors import SessionError
from medsam2.inference.grid import SliceGrid
from medsam2.inference.propagate import kept_slices
from medsam2.inference.track import ObjectTrack
from medsam2.inference.zoom import prompt_in_file
from medsam2.measure.preview import draw_preview
from medsam2.measure.sizes import longest_diameter_mm, volume_ml
from medsam2.prompts.types import Prompt
from medsam2.tracking.step import FrameResult


class TrackedObject:
    """An object as it is at the moment; slices and pixels are those of the file."""

    def __init__(self, number: int, track: ObjectTrack, grid: SliceGrid) -> None:
        self.number = number
        self._track = track
        self._grid = grid

    def prompts(self) -> dict[int, Prompt]:
        """Its prompts, by slice."""
        grid = self._grid
        found = (prompt_in_file(prompt, grid.cut, grid.shape) for prompt in self._track.prompts.values())
        return {prompt.slice_index: prompt for prompt in found}

    def scores(self) -> dict[int, float]:
        """How sure the network is of the object, 0..1, in each slice that it was followed into."""
        results = self._track.results
        return dict(sorted((self._grid.turn_index(z), result.score) for z, result in results.items()))

    def frame(self, slice_index: int) -> FrameResult:
        """What the network found in a slice: logits as the slice is shown, scores, pointer.

        Raises:
            SessionError: The object was not followed there.
        """
        result = self._track.results.get(self._grid.turn_index(slice_index))
        if result is None:
            raise SessionError(f"object {self.number} was not followed into slice {slice_index}")
        return result.frame

    def shown_masks(self) -> Iterator[tuple[int, npt.NDArray[np.bool_]]]:
        """Slices that the object was followed into, with its mask `(y, x)`, both as they are shown."""
        kept = kept_slices(self._track)
        return ((z, kept(z)) for z in self._track.results)

    def mask(self) -> npt.NDArray[np.bool_]:
        """The object in all slices, bool `(z, y, x)` along the session's axis."""
        stack = np.zeros(self._grid.shape, dtype=bool)
        shown = self._grid.cut.show(stack)
        for z, mask in self.shown_masks():
            shown[z] = mask
        return stack

    def measurements(self) -> dict[str, float]:
        """Measure it: `volume_ml`, `longest_diameter_mm` (in the plane of the slices) and `num_slices`."""
        areas: list[int] = []

        def masks_in_file() -> Iterator[npt.NDArray[np.bool_]]:
            # A sheared slice that is mirrored to be shown leans the other way.
            for _, mask in self.shown_masks():
                areas.append(int(np.count_nonzero(mask)))
                yield self._grid.cut.file(mask)

        diameter_mm = longest_diameter_mm(masks_in_file(), self._grid.in_plane_mm)
        return {
            "volume_ml": volume_ml(sum(areas), self._grid.volume.affine),
            "longest_diameter_mm": diameter_mm,
            "num_slices": sum(area > 0 for area in areas),
        }

    def picture(self) -> Image.Image:
        """Draw it: its first prompted slice with the box and outline, and a strip of slices.

        Slices are turned as they are shown; their numbers are the file's.
        """
        prompt = next(iter(self._track.prompts.values()))
        grid, grey = self._grid, self._track.features.grey
        width_mm, height_mm = grid.pixel_mm[::-1] if grid.cut.swaps_xy else grid.pixel_mm
        shown = grid.cut.show(self.mask())
        return draw_preview(
            lambda z: grey(grid.turn_index(z)),
            np.flip(shown, 0) if grid.cut.reverses[0] else shown,
            grid.turn_index(prompt.slice_index),
            box_xyxy=None if prompt.box is None else prompt.box.xyxy,
            aspect=height_mm / width_mm,
        )
