"""What a viewer asks of the model, as values: clicks, a region, how to look and how to answer."""

from __future__ import annotations

from dataclasses import dataclass

from medsam2.prompts.types import Box, Point, Prompt
from medsam2.serving.faults import Fault

LABEL = "object"
"""Name of what was segmented, where the viewer gives none."""


@dataclass(frozen=True, kw_only=True)
class Click:
    """A voxel inside the object or outside of it, in the file's own order of axes."""

    i: float
    j: float
    k: int | None
    """None for a picture's."""
    is_positive: bool


@dataclass(frozen=True, kw_only=True)
class Region:
    """A rectangle around the object, and the slices that it spans."""

    box: Box
    first: int | None = None
    """Slices, both ends included; None where only the rectangle is given."""
    last: int | None = None


@dataclass(frozen=True, kw_only=True)
class ResultForm:
    """How a mask is to be written."""

    suffix: str | None
    """None as the image is."""
    dtype: str
    is_compressed: bool
    is_wanted: bool
    """Whether a file is sent at all."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A request to segment; whether the places lie in the image is seen with the image."""

    clicks: tuple[Click, ...]
    region: Region | None
    slice_index: int | None
    window: str | tuple[float, float] | None
    memory: str
    keeps_component: bool | None
    label: str
    result: ResultForm
    saved_tag: str | None
    """Tag that the result is also stored under, or None."""

    @property
    def says_something(self) -> bool:
        """Whether there is anything to begin with."""
        return self.region is not None or any(click.is_positive for click in self.clicks)

    def prompts(self, shape_zyx: tuple[int, int, int]) -> list[Prompt]:
        """What is said about each slice, those first that say where the object is.

        A region is drawn in 3D or on a slice: its rectangle is taken for the slice that the viewer names, or
        else for the middle one of those it spans.

        Raises:
            Fault: 422, nothing is said, or not about which slice.
            PromptError: Something does not lie in the image.
        """
        if not self.says_something:
            raise Fault(
                422, "nothing says what to segment: give clicks as foreground [[i, j, k], ...], or a roi"
            )
        depth, height, width = shape_zyx
        points: dict[int, list[Point]] = {}
        for click in self.clicks:
            k = self._slice_of(click.k, depth, "a click")
            points.setdefault(k, []).append(Point(x=click.i, y=click.j, is_positive=click.is_positive))
        boxes: dict[int, Box] = {}
        if self.region is not None:
            boxes[self._key_slice(self.region, depth)] = _cut_off(self.region, height, width)
        said = [
            Prompt(slice_index=k, box=boxes.get(k), points=tuple(points.get(k, ()))).checked(shape_zyx)
            for k in sorted(points.keys() | boxes.keys())
        ]
        return sorted(said, key=lambda prompt: not tells_where(prompt))

    def _slice_of(self, k: int | None, depth: int, what: str) -> int:
        found = k if k is not None else self.slice_index
        if found is None and depth == 1:
            return 0
        if found is None:
            raise Fault(422, f"{what} names no slice: give it as third number, or as slice")
        return found

    def _key_slice(self, region: Region, depth: int) -> int:
        if self.slice_index is not None or region.first is None or region.last is None:
            return self._slice_of(None, depth, "the roi")
        first, last = max(region.first, 0), min(region.last, depth - 1)
        if first > last:
            raise Fault(
                422,
                f"the roi spans the slices {region.first} to {region.last}; there are 0 to {depth - 1}",
            )
        return (first + last) // 2


def tells_where(prompt: Prompt) -> bool:
    """Whether a prompt says where the object is, and not only where it is not."""
    return prompt.box is not None or any(point.is_positive for point in prompt.points)


def _cut_off(region: Region, height: int, width: int) -> Box:
    """A region's rectangle within the slice: one that is drawn in space may reach out of the image."""
    box = region.box
    is_seen = box.x_min < width and box.x_max >= 0 and box.y_min < height and box.y_max >= 0
    if region.first is None or not is_seen:
        return box  # to be refused with its own numbers
    x_min, x_max = (min(max(end, 0.0), width - 1.0) for end in (box.x_min, box.x_max))
    y_min, y_max = (min(max(end, 0.0), height - 1.0) for end in (box.y_min, box.y_max))
    return Box(x_min=x_min, y_min=y_min, x_max=x_max, y_max=y_max)
