"""Put the slices of a DICOM series in order, and find the grid they make."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medsam2.errors import GeometryError
from medsam2.imaging.dicom_header import Slice
from medsam2.imaging.geometry import ItkGrid, affine_from_itk, flip_ras_lps
from medsam2.imaging.voxels import frame_index

# Positions are written with a few decimals. A missing slice doubles a step, a rounded one changes it little.
_UNEVEN_STEP = 0.1
_SAME_DIRECTION = 1e-3
_SAME_POSITION_MM = 1e-2
# A gantry of half a degree moves the far end of a 30 cm scan by 2.6 mm.
_SMALLEST_TILT_DEG = 0.5
_MOST_GAPS_TOLD = 5
_PLANE_OF_NORMAL = ("sagittal", "coronal", "axial")
_STRAIGHT = 0.95  # cosine; beyond it a plane is called oblique


@dataclass(frozen=True)
class Stack:
    """Slices in the order of a volume, and where they lie."""

    slices: tuple[Slice, ...]
    affine: np.ndarray
    """(4, 4), voxel (x, y, z) to RAS+ mm; sheared where the gantry was tilted."""
    itk_grid: ItkGrid | None
    """The same in ITK's numbers; None if sheared."""


def stacked(slices: Sequence[Slice], frame: int | None, path: Path) -> Stack:
    """Sort slices along their normal.

    Args:
        slices: Of one series.
        frame: Which of several images at each position, from 0; not needed if there is one.
        path: Named in errors.

    Raises:
        GeometryError: Slices differ in size, direction or spacing, do not say where they are, one is missing,
            or a position holds more images than another.
        InputError: Every position holds several images and none is named, or not the one that is.
    """
    first = slices[0]
    if len(slices) == first.file.num_frames == 1 and first.plane.position is None:
        return _unplaced(first, path)
    positions = _positions(slices, path)
    _check_alike(slices, path)
    across, down, normal = _axes(first, path)
    row_step, column_step = _spacing(first, path)
    groups = _by_position(slices, positions @ normal)
    index = _image_at_position(groups, frame, path)
    chosen = [group[index] for group in groups]
    places = positions[chosen]
    ordered = tuple(slices[number] for number in chosen)
    step = normal * (first.plane.thickness or 1.0)
    if len(places) > 1:
        _check_even(places, path)
        step = (places[-1] - places[0]) / (len(places) - 1)
    tilt_deg = math.degrees(math.acos(min(1.0, float(normal @ step) / float(np.linalg.norm(step)))))
    if tilt_deg < _SMALLEST_TILT_DEG:
        grid = ItkGrid(
            (column_step, row_step, float(normal @ step)),
            tuple(places[0].tolist()),
            tuple(np.column_stack((across, down, normal)).ravel().tolist()),
        )
        return Stack(ordered, affine_from_itk(grid), grid)
    warnings.warn(
        f"{path}: the gantry was tilted by {tilt_deg:.1f} degrees; slices lie as they were taken, in a "
        "sheared grid, which programs that know none show upright",
        stacklevel=4,
    )
    lps = np.eye(4)
    lps[:3] = np.column_stack((across * column_step, down * row_step, step, places[0]))
    return Stack(ordered, flip_ras_lps(lps), None)


def contents(slices: Sequence[Slice]) -> str:
    """Say what is among slices: "20 axial of 512 x 512 pixels, 1 coronal of 512 x 888 pixels"."""
    kinds: list[list[Slice]] = []
    for one in slices:
        like = next((kind for kind in kinds if _is_alike(kind[0], one)), None)
        if like is None:
            kinds.append([one])
        else:
            like.append(one)
    kinds.sort(key=len, reverse=True)
    return ", ".join(
        f"{len(kind)} {_plane_name(kind[0])} of {kind[0].file.columns} x {kind[0].file.rows} pixels"
        for kind in kinds
    )


def _is_alike(one: Slice, other: Slice) -> bool:
    if (one.file.rows, one.file.columns) != (other.file.rows, other.file.columns):
        return False
    first, second = one.plane.orientation, other.plane.orientation
    if first is None or second is None:
        return first is second
    return np.allclose(first, second, atol=_SAME_DIRECTION)


def _plane_name(one: Slice) -> str:
    if one.plane.orientation is None:
        return "unplaced"
    across, down = np.reshape(one.plane.orientation, (2, 3))
    normal = np.abs(np.cross(across, down))
    return _PLANE_OF_NORMAL[int(normal.argmax())] if normal.max() >= _STRAIGHT else "oblique"


def _unplaced(one: Slice, path: Path) -> Stack:
    """Return the grid of a single image that does not say where it was taken: at the origin, axial."""
    row_step, column_step = _spacing(one, path)
    grid = ItkGrid(
        (column_step, row_step, one.plane.thickness or 1.0),
        (0.0, 0.0, 0.0),
        tuple(np.eye(3).ravel().tolist()),
    )
    return Stack((one,), affine_from_itk(grid), grid)


def _positions(slices: Sequence[Slice], path: Path) -> np.ndarray:
    """Return where slices are, (n, 3), LPS in mm."""
    num_frames = sum(one.file.num_frames for one in slices if one.frame == 0)
    num_placed = sum(one.plane.position is not None and one.plane.orientation is not None for one in slices)
    if num_placed < num_frames:
        raise GeometryError(
            f"{path}: only {num_placed if num_frames == len(slices) else 0} of {num_frames} slices say where "
            "they lie; a volume needs the position and orientation of all"
        )
    return np.array([one.plane.position for one in slices], np.float64)


def _check_alike(slices: Sequence[Slice], path: Path) -> None:
    if not all(_is_alike(slices[0], other) for other in slices):
        raise GeometryError(
            f"{path}: the slices of the series differ in size or direction: it holds {contents(slices)}; a "
            "volume is one of these"
        )
    spacings = [_spacing(one, path) for one in slices]
    if not np.allclose(spacings, spacings[0], rtol=_SAME_DIRECTION):
        raise GeometryError(
            f"{path}: the slices of the series differ in pixel spacing, {min(spacings)} to {max(spacings)} mm"
        )


def _axes(one: Slice, path: Path) -> np.ndarray:
    """Return the LPS directions in which columns, rows and slices are counted, (3, 3), each of length 1."""
    across, down = np.array(one.plane.orientation, np.float64).reshape(2, 3)
    lengths = np.linalg.norm((across, down), axis=1)
    if not lengths.all() or abs(across @ down) > 0.1 * lengths.prod():
        raise GeometryError(f"{path}: no slice lies in the directions {one.plane.orientation}")
    across, down = across / lengths[0], down / lengths[1]
    normal = np.cross(across, down)
    return np.array((across, down, normal / np.linalg.norm(normal)))


def _spacing(one: Slice, path: Path) -> tuple[float, float]:
    """Return the distance between rows and between columns, in mm."""
    if one.plane.spacing is None:
        if one.plane.position is None:
            return 1.0, 1.0  # as other pictures
        raise GeometryError(f"{path}: the series does not say how far its pixels lie apart")
    rows, columns = one.plane.spacing[:2]
    if not (rows > 0 and columns > 0):
        raise GeometryError(f"{path}: pixels are {rows:g} x {columns:g} mm apart; both must be positive")
    return rows, columns


def _by_position(slices: Sequence[Slice], heights_mm: np.ndarray) -> list[list[int]]:
    """Return the numbers of the slices at each position, from the lowest up."""
    order = np.argsort(heights_mm, kind="stable")
    starts = np.flatnonzero(np.diff(heights_mm[order]) > _SAME_POSITION_MM) + 1
    groups = [group.tolist() for group in np.split(order, starts)]
    for group in groups:
        group.sort(key=lambda number: (slices[number].file.instance_number, slices[number].frame))
    return groups


def _image_at_position(groups: list[list[int]], frame: int | None, path: Path) -> int:
    counts = [len(group) for group in groups]
    if min(counts) == max(counts):
        return frame_index(frame, counts[0], path)
    raise GeometryError(
        f"{path}: {max(counts)} slices of the series lie at the same position, and {min(counts)} at another; "
        "a volume has one at each, a series of volumes equally many"
    )


def _check_even(places: np.ndarray, path: Path) -> None:
    lengths = np.linalg.norm(np.diff(places, axis=0), axis=1)
    typical = float(np.median(lengths))
    if np.abs(lengths - typical).max() <= _UNEVEN_STEP * typical:
        return
    gaps = np.flatnonzero(lengths > (1 + _UNEVEN_STEP) * typical)
    what = "they are not one scan"
    if gaps.size:
        num_missing = int(sum(max(1, round(lengths[gap] / typical) - 1) for gap in gaps))
        after = ", ".join(str(gap) for gap in gaps[:_MOST_GAPS_TOLD])
        after += " and others" if gaps.size > _MOST_GAPS_TOLD else ""
        missing = "one is missing" if num_missing == 1 else f"{num_missing} are missing"
        what = f"{missing} after slice {after} (of {len(places)}, from 0), or they belong to several scans"
    raise GeometryError(f"{path}: slices are {lengths.min():g} to {lengths.max():g} mm apart; {what}")
