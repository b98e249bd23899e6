"""Prompts as a user would give them, made from a known mask."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.spatial import ConvexHull, QhullError, distance

from medsam2.errors import PromptError
from medsam2.prompts.types import Box, Point, Prompt

MAX_BOX_NOISE_PX = 20.0  # MedSAM2's limit, in pixels of the network's input
CAREFUL_SHARE = 0.5  # of simulated corrections that are clicked as an evaluation clicks
LEAST_SIDE_OF_LINE = 0.7  # of a box around a diameter, as a part of the diameter


def tight_box(mask: npt.NDArray[np.bool_]) -> Box:
    """Find the smallest box around a mask `(y, x)`, both ends included.

    Raises:
        PromptError: The mask is empty.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if rows.size == 0:
        raise PromptError("an empty mask has no box")
    return Box(x_min=float(columns[0]), y_min=float(rows[0]), x_max=float(columns[-1]), y_max=float(rows[-1]))


def jitter_box(
    box: Box,
    rng: np.random.Generator,
    *,
    fraction: float,
    shape_yx: tuple[int, int],
    limit_px: float = MAX_BOX_NOISE_PX,
) -> Box:
    """Move each end of a box by up to a fraction of the box's side (MedSAM2's training noise).

    Args:
        box: The box.
        rng: Source of chance.
        fraction: Largest shift as a part of the width (x) or height (y).
        shape_yx: Size of the slice; the result lies in it and keeps some width and height.
        limit_px: Largest shift in pixels.
    """
    height, width = shape_yx
    shift_x = min(fraction * (box.x_max - box.x_min + 1), limit_px)
    shift_y = min(fraction * (box.y_max - box.y_min + 1), limit_px)
    noise = rng.uniform(-1, 1, 4) * (shift_x, shift_y, shift_x, shift_y)
    x_min, y_min, x_max, y_max = np.asarray(box.xyxy) + noise
    x_min, x_max = _ordered(x_min, x_max, width - 1)
    y_min, y_max = _ordered(y_min, y_max, height - 1)
    return Box(x_min=x_min, y_min=y_min, x_max=x_max, y_max=y_max)


def _ordered(low: float, high: float, last: int) -> tuple[float, float]:
    """Clip an interval to 0..last and keep it at least a pixel long where there is room."""
    low, high = sorted((float(np.clip(low, 0, last)), float(np.clip(high, 0, last))))
    if high - low >= 1:
        return low, high
    low = max(0.0, min(low, last - 1))
    return low, min(low + 1.0, float(last))


def random_point(region: npt.NDArray[np.bool_], rng: np.random.Generator, *, is_positive: bool) -> Point:
    """Click somewhere in a region `(y, x)` that is not empty."""
    candidates = np.flatnonzero(region)
    y, x = np.unravel_index(candidates[rng.integers(candidates.size)], region.shape)
    return Point(x=float(x), y=float(y), is_positive=is_positive)


def center_point(region: npt.NDArray[np.bool_], *, is_positive: bool) -> Point:
    """Click where a region `(y, x)` is thickest, as a careful user does."""
    depth = ndimage.distance_transform_edt(np.pad(region, 1))[1:-1, 1:-1]
    y, x = np.unravel_index(int(depth.argmax()), region.shape)
    return Point(x=float(x), y=float(y), is_positive=is_positive)


def correction(
    predicted: npt.NDArray[np.bool_], truth: npt.NDArray[np.bool_], rng: np.random.Generator
) -> Point:
    """Click on a wrong pixel of `predicted` `(y, x)`, or inside the object if there is none.

    One user in two is careful and clicks into the middle of the largest part that is wrong, as evaluations
    do; the others click anywhere in what is wrong. An object that is not there at all is answered by a click
    outside.
    """
    wrong = predicted != truth
    if not wrong.any():
        return random_point(truth if truth.any() else ~truth, rng, is_positive=bool(truth.any()))
    if rng.random() < CAREFUL_SHARE:
        point = center_point(largest_part(wrong), is_positive=True)
    else:
        point = random_point(wrong, rng, is_positive=True)
    return Point(x=point.x, y=point.y, is_positive=bool(truth[int(point.y), int(point.x)]))


def largest_part(region: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """The part with most pixels or voxels, corners connected; of equals, the first."""
    labels, _ = ndimage.label(region, structure=np.ones((3,) * region.ndim, bool))
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return np.asarray(labels == sizes.argmax())


def largest_error_click(predicted: npt.NDArray[np.bool_], truth: npt.NDArray[np.bool_]) -> Prompt | None:
    """Click into the middle of the largest part that is wrong, in the whole volume.

    The rule of the CVPR 2025 challenge for interactive 3D segmentation: of the 26-connected parts in which
    two masks differ, the one of most voxels is clicked where it is deepest, by a distance transform in
    voxels. Of equals, the one that is deepest in its slice is taken, where the challenge draws one.

    Args:
        predicted: Boolean `(z, y, x)`.
        truth: Boolean, of the same shape.

    Returns:
        A click in a slice, inside if the object was missed there, outside otherwise; None if nothing is
        wrong.
    """
    wrong = predicted != truth
    if not wrong.any():
        return None
    largest = largest_part(wrong)
    (box,) = ndimage.find_objects(largest.astype(np.uint8))
    # A voxel at the end of the volume lies at the end of its part: padding counts that in.
    part = np.pad(largest[box], 1)
    depth = ndimage.distance_transform_edt(part)
    # An error of one slice is as deep everywhere: nobody clicks on its corner.
    in_slice = np.stack([ndimage.distance_transform_edt(plane) for plane in part])
    deepest = np.where(depth == depth.max(), in_slice, 0)[1:-1, 1:-1, 1:-1]
    place = np.unravel_index(int(deepest.argmax()), deepest.shape)
    z, y, x = (int(index) + side.start for index, side in zip(place, box, strict=True))
    return Prompt(slice_index=z, points=(Point(x=float(x), y=float(y), is_positive=bool(truth[z, y, x])),))


def longest_line(
    mask: npt.NDArray[np.bool_], spacing_xy: tuple[float, float] = (1.0, 1.0)
) -> tuple[Point, Point]:
    """Find the longest diameter of a mask `(y, x)`, as RECIST 1.1 measures a lesion in a slice.

    Args:
        mask: Boolean `(y, x)`.
        spacing_xy: Distance of pixel centres in mm, along x and y.

    Returns:
        Both ends, pixel centres of the mask; the same pixel twice for a mask of one.

    Raises:
        PromptError: The mask is empty.
    """
    rows, columns = np.nonzero(mask & ~ndimage.binary_erosion(mask))
    if rows.size == 0:
        raise PromptError("an empty mask has no diameter")
    places = np.stack((columns, rows), axis=1).astype(np.float64)
    corners = places[_outermost(places * spacing_xy)]
    lengths = distance.squareform(distance.pdist(corners * spacing_xy))
    first, last = np.unravel_index(int(lengths.argmax()), lengths.shape)
    ends = (corners[index] for index in (first, last))
    start, end = (Point(x=float(x), y=float(y)) for x, y in ends)
    return start, end


def box_of_line(
    line: tuple[Point, Point], shape_yx: tuple[int, int], spacing_xy: tuple[float, float] = (1.0, 1.0)
) -> Box:
    """Make a box of a diameter: the one that it spans, with no side shorter than 0.7 of its length.

    A diameter that runs along an axis says nothing of the lesion's width, and one that runs diagonally spans
    a box of 0.7 of its length, which a round lesion fills: the margin makes both alike.

    Args:
        line: Both ends.
        shape_yx: Size of the slice; the box is cut off at its edges.
        spacing_xy: Distance of pixel centres in mm, along x and y.
    """
    start, end = line
    length_mm = float(np.hypot((end.x - start.x) * spacing_xy[0], (end.y - start.y) * spacing_xy[1]))
    sides = []
    for low, high, step, size in (
        (start.x, end.x, spacing_xy[0], shape_yx[1]),
        (start.y, end.y, spacing_xy[1], shape_yx[0]),
    ):
        middle, half = (low + high) / 2, max(abs(high - low), LEAST_SIDE_OF_LINE * length_mm / step) / 2
        sides.append(_ordered(middle - half, middle + half, size - 1))
    (x_min, x_max), (y_min, y_max) = sides
    return Box(x_min=x_min, y_min=y_min, x_max=x_max, y_max=y_max)


def _outermost(places: npt.NDArray[np.float64]) -> npt.NDArray[np.int32]:
    """Indices of the corners of the convex hull; of all points where they lie on one line."""
    try:
        return ConvexHull(places).vertices
    except (QhullError, ValueError):
        return np.arange(len(places), dtype=np.int32)
