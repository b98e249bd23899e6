"""A label map of real anatomy, and how a stack of slices cuts through it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from medsam2.errors import InputError
from medsam2.synthesis.render import Floats, Grid, log_uniform, smooth_field

Labels = npt.NDArray[np.uint16]
T = TypeVar("T", bound=np.generic)

VIEW_RANGE = (0.3, 1.1)
"""Side of a slice as a part of the map's longer side in the plane: large objects and small ones occur."""
STEP_RANGE = (0.8, 5.0)
"""Distance of slices as a multiple of the pixel."""
AXIS_SHARES = (0.6, 0.2, 0.2)
"""How often slices lie across each axis of the map's array."""
TURN_DEGREES = 10.0
STRETCH = 0.08
LARGEST_BEND = 0.035
"""Largest standard deviation of the elastic shifts, as a part of the slice's side."""
OVERHANG = 1.3
"""A stack is at most so many times as long as the map is along its axis."""

FINE = 1.3
"""Where a voxel of the map covers more pixels, its corners would show and outlines are smoothed."""
BLUR = (0.125, 0.75, 0.125)
"""Weights of a voxel and its neighbours along each axis then."""
SURROUNDED = 0.999
"""Share of a label in its own neighbourhood where all neighbours have it."""


@dataclass(frozen=True, kw_only=True)
class LabelMap:
    """Whole anatomy as numbers."""

    name: str
    labels: Labels
    """(z, y, x): 0 nothing, 1 to N the structures, each of which occurs."""
    spacing_mm: tuple[float, float, float]
    """Distance of voxel centres along (x, y, z)."""
    label_names: tuple[str, ...]
    """Names of the structures, label 1 first."""

    @property
    def step_mm(self) -> tuple[float, float, float]:
        """Distance of voxel centres in the order of the array, (z, y, x)."""
        x_mm, y_mm, z_mm = self.spacing_mm
        return z_mm, y_mm, x_mm


@dataclass(frozen=True, kw_only=True)
class Pose:
    """Where a stack lies in a map, and how the anatomy is bent."""

    axis: int
    """Axis of the map's array that the slices lie across; the other two keep their order."""
    centre_mm: tuple[float, float, float]
    """The stack's centre, from the map's first voxel along (slices, rows, columns)."""
    matrix: Floats
    """(3, 3), millimetres in the stack to millimetres in the map, both (slices, rows, columns)."""
    bend_mm: float = 0.0
    """Standard deviation of the elastic shifts."""
    bend_scale_mm: float = 1.0
    """Size of the elastic shifts' features."""
    is_extended: bool = False
    """Beyond its ends the map goes on as it ended; else there is nothing."""


def make_label_map(
    name: str,
    values: npt.NDArray[np.integer],
    spacing_mm: tuple[float, float, float],
    names: dict[int, str],
) -> LabelMap:
    """Number the values that occur in a mask from 1.

    Args:
        name: Of the map.
        values: (z, y, x), 0 is nothing.
        spacing_mm: Distance of voxel centres along (x, y, z).
        names: Of the values; others are called "label 7" and so on.

    Raises:
        InputError: The mask has no label.
    """
    labels, present = number_labels(values)
    if not present.size:
        raise InputError(f"{name}: the label map has no labels, every voxel is 0")
    label_names = tuple(names.get(int(value), f"label {value}") for value in present)
    return LabelMap(name=name, labels=labels, spacing_mm=spacing_mm, label_names=label_names)


def number_labels(values: npt.NDArray[np.integer]) -> tuple[Labels, npt.NDArray[np.intp]]:
    """Number the values above 0 that occur from 1, and return which values they were."""
    present = np.flatnonzero(np.bincount(values.ravel(), minlength=1))
    present = present[present > 0]
    numbers = np.zeros(int(values.max()) + 1, dtype=np.uint16)
    numbers[present] = np.arange(1, present.size + 1)
    return numbers[values], present


def neighbours(array: npt.NDArray[T], axis: int) -> tuple[npt.NDArray[T], npt.NDArray[T]]:
    """Return all voxels but the last along an axis, and the voxel behind each."""
    first, second = [slice(None)] * array.ndim, [slice(None)] * array.ndim
    first[axis], second[axis] = slice(0, -1), slice(1, None)
    return array[tuple(first)], array[tuple(second)]


def draw_cut(rng: np.random.Generator, label_map: LabelMap, shape: tuple[int, int, int]) -> tuple[Grid, Pose]:
    """Draw a grid of (slices, rows, columns) and where it lies in a map: around a voxel of a structure."""
    axis = int(rng.choice(3, p=AXIS_SHARES))
    order = (axis, *(other for other in range(3) if other != axis))
    steps = np.array(label_map.step_mm)[list(order)]
    extent_mm = np.array(label_map.labels.shape)[list(order)] * steps
    view_mm = float(rng.uniform(*VIEW_RANGE)) * float(extent_mm[1:].max())
    pixel = view_mm / max(shape[1:])
    between = pixel * log_uniform(rng, *STEP_RANGE)
    between = max(min(between, OVERHANG * float(extent_mm[0]) / shape[0]), 0.5 * pixel)
    target = int(rng.integers(1, len(label_map.label_names) + 1))
    voxels = np.flatnonzero(label_map.labels == target)
    voxel = np.unravel_index(int(voxels[rng.integers(voxels.size)]), label_map.labels.shape)
    centre = np.array(voxel)[list(order)] * steps + rng.normal(0.0, (0.0, 0.1, 0.1)) * view_mm
    depth_mm = shape[0] * between
    middle = (extent_mm[0] - steps[0]) / 2
    # A long stack would otherwise lie half beside a short map.
    reach = max((float(extent_mm[0]) - depth_mm) / 2 + 0.15 * depth_mm, 0.0)
    centre[0] = np.clip(centre[0], middle - reach, middle + reach)
    pose = Pose(
        axis=axis,
        centre_mm=(float(centre[0]), float(centre[1]), float(centre[2])),
        matrix=_draw_matrix(rng),
        bend_mm=float(rng.uniform(0.0, LARGEST_BEND)) * view_mm,
        bend_scale_mm=float(rng.uniform(0.15, 0.4)) * view_mm,
        is_extended=bool(rng.random() < 0.5),
    )
    grid = Grid(
        shape=shape,
        spacing_mm=(pixel, pixel, between),
        thickness_mm=between if rng.random() < 0.5 else 0.3 * between,
    )
    return grid, pose


def cut_map(rng: np.random.Generator, label_map: LabelMap, grid: Grid, pose: Pose) -> Labels:
    """Return the label at each voxel of a stack, (z, y, x).

    Between the voxels of the map the label with the largest share in a linear interpolation wins, so outlines
    are smooth where pixels are finer than the map. At a voxel's centre it is that voxel's label.
    """
    order = (pose.axis, *(other for other in range(3) if other != pose.axis))
    steps = np.array(label_map.step_mm)[list(order)]
    axes = grid.axes_mm()
    positions = []
    for row in range(3):
        place = np.full(grid.shape, pose.centre_mm[row], dtype=np.float32)
        for column, axis_mm in enumerate(axes):
            place += float(pose.matrix[row, column]) * axis_mm
        if pose.bend_mm > 0:
            place += np.float32(pose.bend_mm) * smooth_field(rng, grid, pose.bend_scale_mm)
        place /= np.float32(steps[row])
        positions.append(place)
    return _elect(
        label_map.labels.transpose(order),
        positions,
        is_extended=pose.is_extended,
        is_fine=float(steps[1:].min()) > FINE * grid.step_mm[2],
    )


def _draw_matrix(rng: np.random.Generator) -> Floats:
    """Draw small turns about the three axes and a stretch along each."""
    matrix = np.diag(np.exp(rng.normal(0.0, STRETCH, size=3)))
    for first, second in ((1, 2), (0, 1), (0, 2)):
        angle = np.deg2rad(rng.normal(0.0, TURN_DEGREES))
        turn = np.eye(3)
        turn[first, first] = turn[second, second] = np.cos(angle)
        turn[first, second], turn[second, first] = -np.sin(angle), np.sin(angle)
        matrix = turn @ matrix
    return matrix.astype(np.float32)


def _elect(source: Labels, positions: list[Floats], *, is_extended: bool, is_fine: bool) -> Labels:
    """Return the label with the largest linear weight at each position.

    Args:
        source: The map, (z, y, x) of the stack.
        positions: Three arrays, the place along each axis of `source` in voxels; changed.
        is_extended: What `Pose` says.
        is_fine: Positions are closer than voxels, so that outlines are to be smoothed.
    """
    window = []
    for place, size in zip(positions, source.shape, strict=True):
        np.clip(place, -1, size, out=place)
        low = min(max(int(np.floor(place.min())), 0), size - 1)
        window.append(slice(low, max(min(int(place.max()) + 2, size), low + 1)))
        place += np.float32(1 - low)  # of the array with a rim
    crop = np.pad(source[tuple(window)], 1, mode="edge" if is_extended else "constant")
    flat = crop.ravel()
    index = np.zeros(positions[0].shape, dtype=np.int32)
    for place, size in zip(positions, crop.shape, strict=True):
        np.clip(place, 0, size - 1, out=place)
        first = np.minimum(place.astype(np.int32), size - 2)
        place -= first
        index *= size
        index += first
    elected = flat[index]
    # Most cells of the map hold one label alone; there is nothing to weigh in them.
    mixed = np.flatnonzero(_mixed_cells(crop).ravel()[index])
    cells = _Cells(index=index.ravel()[mixed], fractions=[place.ravel()[mixed] for place in positions])
    winner, second = _weigh(flat, cells.corners(crop.shape))
    if is_fine:
        won, is_thick = _smooth_shares(crop, winner, cells)
        lost, _ = _smooth_shares(crop, second, cells)
        # Vessels and sheets have nothing to spare at their corners: they would shrink away.
        winner = np.where((lost > won) & is_thick, second, winner)
    elected.ravel()[mixed] = winner
    return elected


def _mixed_cells(crop: Labels) -> npt.NDArray[np.bool_]:
    """Tell of each voxel whether the cube of eight that begins there has more than one label."""
    low, high = crop, crop
    for axis in range(3):
        low, high = np.minimum(*neighbours(low, axis)), np.maximum(*neighbours(high, axis))
    mixed = np.zeros(crop.shape, dtype=bool)
    mixed[:-1, :-1, :-1] = low != high
    return mixed


@dataclass(frozen=True, kw_only=True)
class _Cells:
    """Places between voxels."""

    index: npt.NDArray[np.int32]
    """(N,), flat index of the voxel that the cube of eight around a place begins with."""
    fractions: list[Floats]
    """For each axis, (N,), how far a place lies into its cube, 0 to 1."""

    def corners(self, shape: tuple[int, ...]) -> list[tuple[npt.NDArray[np.int32], Floats]]:
        """Return flat index and linear weight of each of the eight corners in an array of a shape."""
        found = []
        strides = (shape[1] * shape[2], shape[2], 1)
        for corner in range(8):
            bits = (corner >> 2 & 1, corner >> 1 & 1, corner & 1)
            offset = sum(bit * stride for bit, stride in zip(bits, strides, strict=True))
            weight = np.ones(self.index.shape, dtype=np.float32)
            for bit, fraction in zip(bits, self.fractions, strict=True):
                weight *= fraction if bit else 1 - fraction
            found.append((self.index + np.int32(offset), weight))
        return found


def _weigh(flat: Labels, corners: list[tuple[npt.NDArray[np.int32], Floats]]) -> tuple[Labels, Labels]:
    """Return the labels with the largest and the second largest share among the corners of each cell."""
    labels = [flat[index] for index, _ in corners]
    shares = [weight.copy() for _, weight in corners]
    for first in range(8):
        for second in range(first + 1, 8):
            same = labels[first] == labels[second]
            shares[first] += corners[second][1] * same
            shares[second] += corners[first][1] * same
    winner, best = labels[0], shares[0]
    for label, share in zip(labels[1:], shares[1:], strict=True):
        winner = np.where(share > best, label, winner)
        best = np.maximum(best, share)
    other, next_best = winner, np.zeros_like(best)
    for label, share in zip(labels, shares, strict=True):
        is_next = (share > next_best) & (label != winner)
        other = np.where(is_next, label, other)
        next_best = np.where(is_next, share, next_best)
    return winner, other


def _smooth_shares(crop: Labels, labels: Labels, cells: _Cells) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Return how much of the neighbourhood of each place has the label given for it, and if that is thick.

    Thick is what has a voxel near the place that its own label surrounds.
    """
    shares, is_thick = np.zeros(labels.shape, dtype=np.float32), np.zeros(labels.shape, dtype=bool)
    order = np.argsort(labels, kind="stable")
    present, starts = np.unique(labels[order], return_index=True)
    strides = (crop.shape[1] * crop.shape[2], crop.shape[2])
    for label, members in zip(present, np.split(order, starts[1:]), strict=True):
        index = cells.index[members]
        places = (index // strides[0], index // strides[1] % crop.shape[1], index % crop.shape[2])
        # The label's own part of the map, with the neighbours that blurring needs.
        low = [max(int(place.min()) - 2, 0) for place in places]
        part = crop[tuple(slice(a, int(place.max()) + 4) for a, place in zip(low, places, strict=True))]
        blurred = (part == label).astype(np.float32)
        for axis in range(3):
            ndimage.correlate1d(blurred, BLUR, axis=axis, output=blurred, mode="nearest")
        inner = [place - a for place, a in zip(places, low, strict=True)]
        own = _Cells(
            index=np.ravel_multi_index(inner, blurred.shape).astype(np.int32),
            fractions=[fraction[members] for fraction in cells.fractions],
        )
        flat = blurred.ravel()
        shares[members] = sum(flat[at] * weight for at, weight in own.corners(blurred.shape))
        near = ndimage.maximum_filter(blurred > SURROUNDED, size=5, mode="nearest")
        is_thick[members] = near.ravel()[own.index]
    return shares, is_thick
