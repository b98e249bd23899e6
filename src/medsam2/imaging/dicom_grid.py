"""Put the slices of a DICOM series in order, and find the grid they make."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medsam2.errors import GeometryError, InputError
from medsam2.imaging.dicom_elements import element_name
from medsam2.imaging.dicom_facts import Slice
from medsam2.imaging.dicom_frames import Frame, frames_of
from medsam2.imaging.dicom_places import TOLD_DEVIATION, Part, deviations_mm, even_parts
from medsam2.imaging.dicom_scouts import contents, is_alike, without_scouts
from medsam2.imaging.geometry import ItkGrid, affine_from_itk, flip_ras_lps
from medsam2.imaging.voxels import frame_index

_SAME_DIRECTION = 1e-3
# Of a pixel, and never more than this: the slices of a micro-CT are a few thousandths of a mm apart.
_SAME_POSITION = 0.1
_SAME_POSITION_MM = 1e-2
# A gantry of half a degree moves the far end of a 30 cm scan by 2.6 mm.
_SMALLEST_TILT_DEG = 0.5
_MOST_NAMED = 6


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
        slices: Of one series; a scout among them is left out with a warning.
        frame: Which of several volumes (phases, echoes, or parts of unlike spacing), from 0; not needed if
            there is one. Of several parts the one with most slices is taken if none is named, with a warning.
        path: Named in errors.

    Raises:
        GeometryError: Slices differ in size, direction or spacing, do not say where they are, one is missing,
            or a position holds more images than another.
        InputError: Every position holds several images and none is named, or not the one that is.
    """
    first = slices[0]
    if len(slices) == first.file.num_frames == 1 and first.plane.position is None:
        return _unplaced(first, path)
    slices = without_scouts(slices, path)
    first = slices[0]
    positions = _positions(slices, path)
    _check_alike(slices, path)
    across, down, normal = _axes(first, path)
    row_step, column_step = _spacing(first, path)
    frames = frames_of(slices, _places(positions @ normal, first, path), path)
    chosen = list(_chosen(frames, positions, frame, path))
    places = positions[chosen]
    ordered = tuple(slices[number] for number in chosen)
    step = normal * (first.plane.thickness or 1.0)
    if len(places) > 1:
        step = (places[-1] - places[0]) / (len(places) - 1)
    tilt_deg = math.degrees(math.acos(min(1.0, float(normal @ step) / float(np.linalg.norm(step)))))
    if tilt_deg < _SMALLEST_TILT_DEG:
        grid = ItkGrid(
            (column_step, row_step, float(normal @ step)),
            tuple(places[0].tolist()),
            tuple(np.column_stack((across, down, normal)).ravel().tolist()),
        )
        _tell_deviation(places, normal * float(normal @ step), path)
        return Stack(ordered, affine_from_itk(grid), grid)
    warnings.warn(
        f"{path}: the gantry was tilted by {tilt_deg:.1f} degrees; slices lie as they were taken, in a "
        "sheared grid, which programs that know none show upright",
        stacklevel=4,
    )
    _tell_deviation(places, step, path)
    lps = np.eye(4)
    lps[:3] = np.column_stack((across * column_step, down * row_step, step, places[0]))
    return Stack(ordered, flip_ras_lps(lps), None)


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
            "they lie; a volume needs the position and orientation of all, in "
            f"{element_name('ImagePositionPatient')} and {element_name('ImageOrientationPatient')}"
        )
    return np.array([one.plane.position for one in slices], np.float64)


def _check_alike(slices: Sequence[Slice], path: Path) -> None:
    if not all(is_alike(slices[0], other) for other in slices):
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
        raise GeometryError(
            f"{path}: the series does not say how far its pixels lie apart; {element_name('PixelSpacing')} "
            "is missing"
        )
    rows, columns = one.plane.spacing[:2]
    if not (rows > 0 and columns > 0):
        raise GeometryError(f"{path}: pixels are {rows:g} x {columns:g} mm apart; both must be positive")
    return rows, columns


def _places(heights_mm: np.ndarray, first: Slice, path: Path) -> list[int]:
    """Return for each slice the number of its place, from the lowest up."""
    smallest = min(*_spacing(first, path), first.plane.thickness or math.inf)
    order = np.argsort(heights_mm, kind="stable")
    is_next = np.diff(heights_mm[order]) > min(_SAME_POSITION_MM, _SAME_POSITION * smallest)
    places = np.empty(len(order), int)
    places[order] = np.concatenate(([0], np.cumsum(is_next)))
    return [int(place) for place in places]


def _chosen(frames: list[Frame], positions: np.ndarray, frame: int | None, path: Path) -> tuple[int, ...]:
    """Return the numbers of the slices to read."""
    if len(frames) == 1:
        return _chosen_part(frames[0], positions, frame, path)
    try:
        wanted = frames[frame_index(frame, len(frames), path)]
    except InputError as error:
        names = [f"{number} is {one.name}" for number, one in enumerate(frames[:_MOST_NAMED]) if one.name]
        raise type(error)(f"{error}" + (f": {'; '.join(names)}" if names else "")) from None
    return _chosen_part(wanted, positions, None, path)


def _chosen_part(whole: Frame, positions: np.ndarray, number: int | None, path: Path) -> tuple[int, ...]:
    parts = even_parts(positions[list(whole.numbers)], path)
    if number is None and len(parts) > 1:
        part = max(parts, key=lambda one: one.num_slices)
    else:
        part = parts[frame_index(number, len(parts), path)]
    is_named = number is not None and len(parts) > 1
    if part.num_slices < len(whole.numbers) and not is_named:
        _tell_parts(parts, part, len(whole.numbers), path)
    return whole.numbers[part.first : part.last + 1]


def _tell_parts(parts: list[Part], read: Part, num_slices: int, path: Path) -> None:
    listed = "; ".join(
        f"frame {number} is slices {one.first} to {one.last}, {one.step_mm:.4g} mm apart"
        for number, one in enumerate(parts[:_MOST_NAMED])
    )
    warnings.warn(
        f"{path}: the {num_slices} slices are not evenly spaced, and a volume is: {listed}; slices "
        f"{read.first} to {read.last} are read, as a volume whose slices count from 0",
        stacklevel=6,
    )


def _tell_deviation(places: np.ndarray, step: np.ndarray, path: Path) -> None:
    """Warn of slices that lie beside the places that an even grid gives them, as ITK does."""
    beside = deviations_mm(places, places[0], step)
    step_mm = float(np.linalg.norm(step))
    if len(places) > 1 and beside.max() > TOLD_DEVIATION * step_mm:
        worst = int(beside.argmax())
        warnings.warn(
            f"{path}: slices lie up to {beside[worst]:.3g} mm beside their places in an even grid of "
            f"{step_mm:.4g} mm (slice {worst}, from 0), and so do masks; DICOM SEG and RTSTRUCT have the "
            "place of each slice",
            stacklevel=5,
        )
