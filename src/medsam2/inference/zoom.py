"""The part of a slice the network looks at, and the way between pixels of file, slice and network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from medsam2.imaging.geometry import Cut
from medsam2.prompts.types import Box, MaskPrompt, Point, Prompt

ZOOM_FACTOR = 3.0  # side of the view over the longest side of the box
MIN_SIDE = 96  # pixels; a smaller view would show too little around a small object
# Around clicks for the official network, which do not tell how large the object is: pixels, and a part of the
# slice's longer side.
POINT_SIDE = 160
POINT_SHARE = 0.7
GROWTH = 1.5
# Around a box or a mask for the compact network, which sees it with 192 pixels. On held-out patients of the
# training sources: a Dice of 0.822 with 3.0, 0.813 with 2.5.
CLOSE_ZOOM = 3.0
CLOSE_SIDE = 48  # pixels at least
# Around clicks, it looks from there up to the whole slice, each time from further away. One click in a slice
# of 164 objects of the training sources: a Dice of 0.49 by the look that the network is surest of, 0.47 with
# sides that double, 0.38 by one look with the sides above.
LOOK_GROWTH = 1.4
SAME_SIDE = (0.8, 1.25)  # a view is kept while its best side is within this of its own
MOST_DRIFT = 0.1  # of the view's side, before the view moves with the object


@dataclass(frozen=True, kw_only=True)
class View:
    """A rectangle of every slice, which may reach beyond the slice's edge."""

    x: int
    """Left column, in pixels of the slice."""
    y: int
    """Top row."""
    width: int
    height: int
    is_zoomed: bool
    """Whether the view follows a prompt; a whole slice is mapped as the official code does."""

    def bounds(self, shape_yx: tuple[int, int]) -> tuple[int, int, int, int]:
        """Rows and columns of the slice that the view covers: top, bottom, left, right; ends excluded."""
        height, width = shape_yx
        return (
            max(self.y, 0),
            min(self.y + self.height, height),
            max(self.x, 0),
            min(self.x + self.width, width),
        )

    def points_to_network(self, points_xy: npt.NDArray[np.float64], size: int) -> npt.NDArray[np.float64]:
        """Map points `(N, 2)` from slice pixels to pixels of a `size` x `size` input.

        A whole slice is only scaled, as SAM 2 does it. A zoomed view maps pixel centres to pixel
        centres, which a scale of 3 would otherwise miss by a pixel.
        """
        return self._mapped(points_xy, size, 0.5 if self.is_zoomed else 0.0)

    def points_to_mask(self, points_xy: npt.NDArray[np.float64], size: int) -> npt.NDArray[np.float64]:
        """Map points `(N, 2)` to where a slice's pixels are taken from in a mask of `size` x `size` cells."""
        return self._mapped(points_xy, size, 0.5)

    def box_to_network(self, box: Box, size: int) -> npt.NDArray[np.float64]:
        """Map a box to its corners `((x_min, y_min), (x_max, y_max))` in the network's input.

        In a zoomed view the corners are the first and the last input pixel that the box covers,
        which is what the network is trained with.
        """
        corners = np.array([[box.x_min, box.y_min], [box.x_max, box.y_max]])
        if not self.is_zoomed:
            return self.points_to_network(corners, size)
        scale = size / np.array([self.width, self.height], dtype=np.float64)
        far_end = np.array([[0, 0], [1, 1]])  # a box covers its last pixel to the far edge
        return (corners + far_end - (self.x, self.y)) * scale - far_end

    def _mapped(self, points_xy: npt.NDArray[np.float64], size: int, shift: float) -> npt.NDArray[np.float64]:
        scale = size / np.array([self.width, self.height], dtype=np.float64)
        return (points_xy + shift - (self.x, self.y)) * scale - shift


def whole_slice(shape_yx: tuple[int, int]) -> View:
    """Look at everything."""
    height, width = shape_yx
    return View(x=0, y=0, width=width, height=height, is_zoomed=False)


def zoom_on(prompt: Prompt, shape_yx: tuple[int, int]) -> View:
    """Look at a square around a prompt, about three times as wide as its box."""
    extent = _extent(prompt)
    if prompt.box is None and prompt.mask is None:
        side = max(POINT_SIDE, POINT_SHARE * max(shape_yx), extent.longest_side * ZOOM_FACTOR)
    else:
        side = max(MIN_SIDE, extent.longest_side * ZOOM_FACTOR)
    return square_view(extent.center_xy, round(side), shape_yx)


def view_of_prompt(prompt: Prompt, shape_yx: tuple[int, int], *, zooms: bool) -> View:
    """Look closely at a box or a drawn mask; for clicks see `views_of_clicks`."""
    if not zooms:
        return whole_slice(shape_yx)
    extent = _extent(prompt)
    return square_view(extent.center_xy, round(_close_side(extent)), shape_yx)


def views_of_clicks(prompt: Prompt, shape_yx: tuple[int, int]) -> list[View]:
    """Look at clicks from close up, from further and further away, and at last at the whole slice."""
    extent = _extent(prompt)
    side, longest = max(CLOSE_SIDE, extent.longest_side * CLOSE_ZOOM / 2), max(shape_yx)
    views = []
    while side < longest:
        views.append(square_view(extent.center_xy, round(side), shape_yx))
        side *= LOOK_GROWTH
    return [*views, square_view(extent.center_xy, longest, shape_yx)]


def view_of_mask(mask: npt.NDArray[np.bool_], view: View, shape_yx: tuple[int, int]) -> View:
    """Look closely at a mask of the slice `(y, x)`; as before at an empty one."""
    extent = _around(mask)
    if extent is None:
        return view
    return square_view(extent.center_xy, round(_close_side(extent)), shape_yx)


def follow(view: View, mask: npt.NDArray[np.bool_], shape_yx: tuple[int, int]) -> View:
    """Move a zoomed view with a mask `(y, x)` that has moved, grown or shrunk by more than a little."""
    extent = _around(mask)
    if extent is None or not view.is_zoomed:
        return view
    side = min(_close_side(extent), max(shape_yx))
    middle = (view.x + (view.width - 1) / 2, view.y + (view.height - 1) / 2)
    drift = max(abs(a - b) for a, b in zip(middle, extent.center_xy, strict=True))
    if SAME_SIDE[0] < side / view.width < SAME_SIDE[1]:
        side = view.width
        if drift <= MOST_DRIFT * side:
            return view
    side = min(max(side, view.width / GROWTH), view.width * GROWTH)
    return square_view(extent.center_xy, round(side), shape_yx)


def _close_side(extent: Box) -> float:
    return max(CLOSE_SIDE, extent.longest_side * CLOSE_ZOOM)


def _around(mask: npt.NDArray[np.bool_]) -> Box | None:
    """The box around a mask `(y, x)`, None around an empty one."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    if not columns.size:
        return None
    x_min, x_max, y_min, y_max = (float(v) for v in (columns[0], columns[-1], rows[0], rows[-1]))
    return Box(x_min=x_min, y_min=y_min, x_max=x_max, y_max=y_max)


def square_view(center_xy: tuple[float, float], side: int, shape_yx: tuple[int, int]) -> View:
    """Place a square of at most the slice's longer side, moved to lie in the slice where it can."""
    height, width = shape_yx
    side = min(side, max(height, width))
    x, y = (_start(center, side, length) for center, length in zip(center_xy, (width, height), strict=True))
    return View(x=x, y=y, width=side, height=side, is_zoomed=True)


def _start(center: float, side: int, length: int) -> int:
    if side >= length:
        return (length - side) // 2
    return int(np.clip(round(center + 0.5 - side / 2), 0, length - side))


def grow(view: View, shape_yx: tuple[int, int]) -> View:
    """Widen a zoomed view around its middle."""
    center = (view.x + (view.width - 1) / 2, view.y + (view.height - 1) / 2)
    return square_view(center, round(view.width * GROWTH), shape_yx)


def grow_to(view: View, prompt: Prompt, shape_yx: tuple[int, int]) -> View:
    """Widen a zoomed view until it covers what a prompt points at."""
    extent = _extent(prompt)
    height, width = shape_yx
    while True:
        top, bottom, left, right = view.bounds(shape_yx)
        is_covered = (
            left <= max(extent.x_min, 0) and min(extent.x_max, width - 1) < right
            and top <= max(extent.y_min, 0) and min(extent.y_max, height - 1) < bottom
        )  # fmt: skip
        wider = grow(view, shape_yx)
        if is_covered or wider == view:
            return view
        view = wider


def touches_border(mask: npt.NDArray[np.bool_], view: View, shape_yx: tuple[int, int]) -> bool:
    """Tell whether a mask of the slice `(y, x)` reaches an edge of the view that is not the slice's."""
    height, width = shape_yx
    top, bottom, left, right = view.bounds((height, width))
    return bool(
        (left > 0 and mask[top:bottom, left].any())
        or (top > 0 and mask[top, left:right].any())
        or (right < width and mask[top:bottom, right - 1].any())
        or (bottom < height and mask[bottom - 1, left:right].any())
    )


def _extent(prompt: Prompt) -> Box:
    """The box around everything a prompt points at."""
    xs: list[float] = []
    ys: list[float] = []
    if prompt.box is not None:
        xs += [prompt.box.x_min, prompt.box.x_max]
        ys += [prompt.box.y_min, prompt.box.y_max]
    xs += [point.x for point in prompt.points]
    ys += [point.y for point in prompt.points]
    if prompt.mask is not None:
        columns = np.flatnonzero(prompt.mask.array.any(axis=0))
        rows = np.flatnonzero(prompt.mask.array.any(axis=1))
        xs += [float(columns[0]), float(columns[-1])]
        ys += [float(rows[0]), float(rows[-1])]
    return Box(x_min=min(xs), y_min=min(ys), x_max=max(xs), y_max=max(ys))


_TurnPoint = Callable[[float, float], tuple[float, float]]
_TurnMask = Callable[[npt.NDArray[np.bool_]], npt.NDArray[np.bool_]]


def shown_prompt(prompt: Prompt, cut: Cut, shape_zyx: tuple[int, int, int]) -> Prompt:
    """Return a prompt where the slice that it was made on is shown.

    Args:
        prompt: In slices and pixels of the file.
        cut: How slices are shown.
        shape_zyx: Number of slices, and a slice's height and width, of the file.
    """
    num_slices, *shape = shape_zyx
    shape_yx = shape[0], shape[1]
    turned = replace(prompt, slice_index=cut.turn_index(prompt.slice_index, num_slices))
    return _turned(turned, lambda x, y: cut.show_point(x, y, shape_yx), cut.show)


def prompt_in_file(prompt: Prompt, cut: Cut, shape_zyx: tuple[int, int, int]) -> Prompt:
    """Undo `shown_prompt`; the shape is still that of the file."""
    num_slices, *shape = shape_zyx
    shape_yx = shape[0], shape[1]
    turned = replace(prompt, slice_index=cut.turn_index(prompt.slice_index, num_slices))
    return _turned(turned, lambda x, y: cut.file_point(x, y, shape_yx), cut.file)


def _turned(prompt: Prompt, turn_point: _TurnPoint, turn_mask: _TurnMask) -> Prompt:
    return replace(
        prompt,
        box=None if prompt.box is None else _turned_box(prompt.box, turn_point),
        points=tuple(_turned_point(point, turn_point) for point in prompt.points),
        mask=None if prompt.mask is None else MaskPrompt(array=turn_mask(prompt.mask.array)),
    )


def _turned_box(box: Box, turn_point: _TurnPoint) -> Box:
    xs, ys = zip(turn_point(box.x_min, box.y_min), turn_point(box.x_max, box.y_max), strict=True)
    return Box(x_min=min(xs), y_min=min(ys), x_max=max(xs), y_max=max(ys))


def _turned_point(point: Point, turn_point: _TurnPoint) -> Point:
    x, y = turn_point(point.x, point.y)
    return replace(point, x=x, y=y)
