"""The prompts of one slice: a box, points, a mask.

Coordinates are pixels of the slice, x (column) first; a whole number is the middle of a pixel. A box
includes both of its ends.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from medsam2.errors import PromptError

MAX_OBJECTS = 255  # labels of a uint8 mask


@dataclass(frozen=True, kw_only=True)
class Box:
    """A rectangle around the object, both ends included."""

    x_min: float
    y_min: float
    x_max: float
    y_max: float

    @classmethod
    def from_xyxy(cls, box_xyxy: Sequence[float]) -> Box:
        """Make a box of `(x_min, y_min, x_max, y_max)`.

        Raises:
            PromptError: There are not four numbers, or they are not finite.
        """
        try:
            x_min, y_min, x_max, y_max = (float(value) for value in box_xyxy)
        except (TypeError, ValueError):
            raise _no_box(box_xyxy) from None
        if not all(math.isfinite(end) for end in (x_min, y_min, x_max, y_max)):
            raise _no_box(box_xyxy)
        return cls(x_min=x_min, y_min=y_min, x_max=x_max, y_max=y_max)

    @property
    def xyxy(self) -> tuple[float, float, float, float]:
        """`(x_min, y_min, x_max, y_max)`."""
        return self.x_min, self.y_min, self.x_max, self.y_max

    @property
    def center_xy(self) -> tuple[float, float]:
        """The middle `(x, y)`."""
        return (self.x_min + self.x_max) / 2, (self.y_min + self.y_max) / 2

    @property
    def longest_side(self) -> float:
        """Width or height in pixels, whichever is longer, both ends counted."""
        return max(self.x_max - self.x_min, self.y_max - self.y_min) + 1


@dataclass(frozen=True, kw_only=True)
class Point:
    """A click inside the object, or on what does not belong to it."""

    x: float
    y: float
    is_positive: bool = True


@dataclass(frozen=True, kw_only=True, eq=False)
class MaskPrompt:
    """A drawn mask of the slice."""

    array: npt.NDArray[np.bool_]
    """bool `(y, x)`, the slice's size."""


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """The prompt of one object in one slice: a box and points, or a mask."""

    slice_index: int
    box: Box | None = None
    points: tuple[Point, ...] = ()
    mask: MaskPrompt | None = None
    where: str | None = field(default=None, compare=False)
    """Where a file gives this prompt: messages about the prompt begin with it."""

    def checked(self, shape_zyx: tuple[int, int, int]) -> Prompt:
        """Return this prompt, having made sure that it lies in a stack of slices.

        Raises:
            PromptError: Something does not lie in the stack; the message names it and the range.
        """
        try:
            self._check(*shape_zyx)
        except PromptError as error:
            raise error if self.where is None else PromptError(f"{self.where}: {error}") from None
        return self

    def _check(self, depth: int, height: int, width: int) -> None:
        check_slice(self.slice_index, depth)
        if self.box is None and not self.points and self.mask is None:
            raise PromptError("a prompt needs a box, a point or a mask")
        if self.mask is not None and (self.box is not None or self.points):
            raise PromptError("a mask replaces box and points: give it alone")
        if self.box is not None:
            _check_box(self.box, height, width)
        for point in self.points:
            _check_point(point, height, width)
        if self.mask is not None:
            _check_mask(self.mask, height, width)


def prompt_from(
    slice_index: int | None,
    *,
    box: Sequence[float] | None = None,
    points: Sequence[Sequence[float]] | None = None,
    labels: Sequence[int] | None = None,
    mask: npt.ArrayLike | None = None,
) -> Prompt:
    """Make a prompt of plain numbers.

    Args:
        slice_index: Slice that the rest refers to.
        box: `(x_min, y_min, x_max, y_max)`.
        points: `(x, y)` each.
        labels: 1 for a point inside, 0 for one outside; all inside if not given.
        mask: `(y, x)`, not 0 inside.

    Raises:
        PromptError: The numbers do not make a prompt.
    """
    if isinstance(slice_index, bool) or not isinstance(slice_index, (int, np.integer)):
        raise PromptError(f"a slice is a whole number, not {slice_index!r}")
    try:
        places = [(float(x), float(y)) for x, y in points or ()]
    except (TypeError, ValueError):
        raise PromptError(f"points are pairs of numbers (x, y), not {_listed(points)}") from None
    kinds = [1] * len(places) if labels is None else list(labels)
    if len(kinds) != len(places):
        raise PromptError(f"every point needs one label: there are {len(places)} and {len(kinds)}")
    if any(kind not in (0, 1) for kind in kinds):
        raise PromptError(f"a label is 1 (inside) or 0 (outside), not {_listed(kinds)}")
    return Prompt(
        slice_index=int(slice_index),
        box=None if box is None else Box.from_xyxy(box),
        points=tuple(
            Point(x=x, y=y, is_positive=bool(kind)) for (x, y), kind in zip(places, kinds, strict=True)
        ),
        mask=None if mask is None else MaskPrompt(array=_as_mask(mask)),
    )


def join_prompts(earlier: Prompt | None, prompt: Prompt) -> Prompt:
    """Return what holds on a slice after another prompt: points join, a box or a mask begins anew.

    Args:
        earlier: The prompt that the slice has, if any.
        prompt: The new one, on the same slice.
    """
    if earlier is None or earlier.mask is not None or prompt.box is not None or prompt.mask is not None:
        return prompt
    return Prompt(slice_index=prompt.slice_index, box=earlier.box, points=earlier.points + prompt.points)


def _as_mask(mask: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    try:
        return np.asarray(mask) != 0
    except ValueError:
        raise PromptError("a mask prompt is an array (y, x): its rows differ in length") from None


def check_slice(slice_index: int, depth: int) -> None:
    """Make sure that a slice index lies in a stack of `depth` slices.

    Raises:
        PromptError: It does not.
    """
    if not 0 <= slice_index < depth:
        raise PromptError(f"slice {slice_index} is outside the stack: it has slices 0 to {depth - 1}")


def _check_box(box: Box, height: int, width: int) -> None:
    numbers = _listed(box.xyxy)
    if not all(math.isfinite(end) for end in box.xyxy):
        raise _no_box(box.xyxy)
    if box.x_max < box.x_min or box.y_max < box.y_min:
        raise PromptError(f"box {numbers} is reversed: give x_min y_min x_max y_max, smaller ends first")
    if box.x_max == box.x_min or box.y_max == box.y_min:
        raise PromptError(f"box {numbers} has no area: its ends must differ in x and in y")
    if box.x_min < 0 or box.y_min < 0 or box.x_max > width - 1 or box.y_max > height - 1:
        raise PromptError(
            f"box {numbers} is outside the slice: x must lie in 0 to {width - 1} and y in 0 to {height - 1}"
        )


def _no_box(values: object) -> PromptError:
    return PromptError(f"a box is four finite numbers x_min, y_min, x_max, y_max, not {_listed(values)}")


def _check_point(point: Point, height: int, width: int) -> None:
    # Written so that NaN fails as well.
    if not (0 <= point.x <= width - 1 and 0 <= point.y <= height - 1):
        raise PromptError(
            f"point {_listed((point.x, point.y))} is outside the slice: "
            f"x must lie in 0 to {width - 1} and y in 0 to {height - 1}"
        )


def _check_mask(mask: MaskPrompt, height: int, width: int) -> None:
    if mask.array.shape != (height, width):
        raise PromptError(
            f"the mask prompt has shape {mask.array.shape}, the slice (y, x) = ({height}, {width})"
        )
    if not mask.array.any():
        raise PromptError("the mask prompt is empty: at least one pixel must be inside")


def _listed(values: object) -> str:
    if isinstance(values, (tuple, list)):
        return "(" + ", ".join(f"{v:g}" if isinstance(v, (int, float)) else _listed(v) for v in values) + ")"
    return str(values)
