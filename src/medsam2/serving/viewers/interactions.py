"""What a viewer's user does to show an object: clicks, boxes, strokes and outlines as values.

Arrays and indices are in the axis order of the array that the viewer sent; axis 0 comes first. A whole number
is the middle of a voxel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medsam2.errors import PromptError
from medsam2.serving.http_errors import shown

Voxel = tuple[int, int, int]
Mask = npt.NDArray[np.bool_]

_OUTSIDE = 1  # voxels: viewers do not clamp what they round


@dataclass(frozen=True, kw_only=True)
class Click:
    """One voxel inside the object, or outside it. It may lie outside the image: then it says nothing."""

    at: Voxel
    is_positive: bool


@dataclass(frozen=True, kw_only=True)
class Region:
    """A box around the object, or around what does not belong to it; it lies in the image."""

    first: Voxel
    last: Voxel
    """Both corners are inside."""
    is_positive: bool

    @property
    def extents(self) -> Voxel:
        """Number of voxels along each axis."""
        a, b, c = (last - first + 1 for first, last in zip(self.first, self.last, strict=True))
        return a, b, c


@dataclass(frozen=True, kw_only=True, eq=False)
class Drawing:
    """Voxels that a user drew: a stroke goes through the object, an outline is filled and goes around it."""

    first: Voxel
    """Where the array's first voxel lies in the image."""
    array: Mask
    """As small as can be: each of its faces has a drawn voxel."""
    is_outline: bool
    is_positive: bool

    @property
    def extents(self) -> Voxel:
        """Number of voxels along each axis."""
        a, b, c = self.array.shape
        return a, b, c


Interaction = Click | Region | Drawing


def click_at(coordinates: Sequence[float], shape: Voxel, *, is_positive: bool) -> Click:
    """Make a click of numbers, which are rounded; one just outside the image is moved to its edge.

    Args:
        coordinates: Index along each axis.
        shape: Of the image.
        is_positive: Whether the object is there.

    Raises:
        PromptError: They are not three finite numbers.
    """
    a, b, c = (
        min(max(at, 0), size - 1) if -_OUTSIDE <= at <= size - 1 + _OUTSIDE else at
        for at, size in zip(_whole(coordinates), shape, strict=True)
    )
    return Click(at=(a, b, c), is_positive=is_positive)


def region_between(
    first: Sequence[float], end: Sequence[float], shape: Voxel, *, is_positive: bool
) -> Region | None:
    """Make a box of two corners; it is cut to the image and has at least one voxel along each axis.

    Args:
        first: Index along each axis, inside the box.
        end: The first index behind the box along each axis.
        shape: Of the image.
        is_positive: Whether the box is around the object.

    Returns:
        None if the box lies outside the image.

    Raises:
        PromptError: The corners are not three finite numbers each.
    """
    firsts, ends = _whole(first), _whole(end)
    lower = [max(0, min(pair)) for pair in zip(firsts, ends, strict=True)]
    upper = [
        min(size, max(*pair, min(pair) + 1)) - 1 for *pair, size in zip(firsts, ends, shape, strict=True)
    ]
    if any(one > other for one, other in zip(lower, upper, strict=True)):
        return None
    return Region(
        first=(lower[0], lower[1], lower[2]), last=(upper[0], upper[1], upper[2]), is_positive=is_positive
    )


def drawing_of(
    array: npt.NDArray[np.generic],
    box: Sequence[Sequence[float]] | None,
    shape: Voxel,
    *,
    is_outline: bool,
    is_positive: bool,
) -> Drawing | None:
    """Make a drawing of an array, whose voxels other than 0 are drawn.

    Args:
        array: The whole image, or the part of it in the box.
        box: `[first, end]` for each axis; None for the whole image.
        shape: Of the image.
        is_outline: Whether it goes around something, or through it.
        is_positive: Whether that is the object.

    Returns:
        None if nothing is drawn.

    Raises:
        PromptError: The box leaves the image, or the array has another shape.
    """
    limits = [[0, size] for size in shape] if box is None else [[int(v) for v in pair] for pair in box]
    if len(limits) != 3 or any(
        len(pair) != 2 or not 0 <= pair[0] < pair[1] <= size for pair, size in zip(limits, shape, strict=True)
    ):
        raise PromptError(f"the box {shown(limits)} of a drawing does not lie in the image, {shape} voxels")
    expected = tuple(end - first for first, end in limits)
    if array.shape != expected:
        raise PromptError(f"a drawing has {array.shape} voxels; its box has {expected}")
    drawn = array != 0
    found = np.nonzero(drawn)
    if not found[0].size:
        return None
    lower = [int(places.min()) for places in found]
    tight = tuple(slice(low, int(places.max()) + 1) for low, places in zip(lower, found, strict=True))
    a, b, c = (low + first for low, (first, _) in zip(lower, limits, strict=True))
    return Drawing(first=(a, b, c), array=drawn[tight], is_outline=is_outline, is_positive=is_positive)


def _whole(numbers: Sequence[float]) -> Voxel:
    if len(numbers) != 3 or not all(math.isfinite(number) for number in numbers):
        raise PromptError(f"a place is {shown(list(numbers))}; three finite numbers are expected")
    a, b, c = (round(number) for number in numbers)
    return a, b, c
