"""Sort the slices of a DICOM series, check their places, and compute their grid."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medsam2.errors import GeometryError, InputError
from medsam2.imaging.dicom.elements import element_name
from medsam2.imaging.dicom.facts import Slice
from medsam2.imaging.dicom.frames import Frame, frames_of
from medsam2.imaging.dicom.series import contents, is_alike, without_scouts
from medsam2.imaging.formats.voxels import frame_index
from medsam2.imaging.geometry import ItkGrid, affine_from_itk, flip_ras_lps

_SAME_DIRECTION = 1e-3
# Of a pixel, but at most so many mm: the slices of a micro-CT are a few thousandths of a mm apart.
_SAME_POSITION = 0.1
_SAME_POSITION_MM = 1e-2
# A tilt of half a degree moves the far end of a 30 cm scan by 2.6 mm.
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
        frame: Which of several volumes (phases, echoes, or parts of different spacing), from 0; not needed
            if there is one. If there are several parts and none is named, the one with most slices is taken,
            with a warning.
        path: Named in errors.

    Raises:
        GeometryError: Slices differ in size, direction or spacing, do not say where they are, one is missing,
            or a position holds more images than another.
        InputError: Every position holds several images and none is named, or there is none of this number.
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
        _warn_of_deviation(places, normal * float(normal @ step), path)
        return Stack(ordered, affine_from_itk(grid), grid)
    warnings.warn(
        f"{path}: the gantry was tilted by {tilt_deg:.1f} degrees; slices keep their places, in a sheared "
        "grid, which programs without shear show upright",
        stacklevel=4,
    )
    _warn_of_deviation(places, step, path)
    lps = np.eye(4)
    lps[:3] = np.column_stack((across * column_step, down * row_step, step, places[0]))
    return Stack(ordered, flip_ras_lps(lps), None)


def _unplaced(one: Slice, path: Path) -> Stack:
    """Return the grid of a single image without a place in the patient: at the origin, axial."""
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
    num_placed = sum(one.plane.is_placed for one in slices)
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
    """Return the numbers of the slices to read: those of a frame, or of an evenly spaced part of it."""
    volume = frames[0]
    if len(frames) > 1:
        try:
            volume = frames[frame_index(frame, len(frames), path)]
        except InputError as error:
            names = [f"{number} is {one.name}" for number, one in enumerate(frames[:_MOST_NAMED]) if one.name]
            raise type(error)(f"{error}" + (f": {'; '.join(names)}" if names else "")) from None
        frame = None  # the number of a part from here on
    parts = even_parts(positions[list(volume.numbers)], path)
    if frame is None and len(parts) > 1:
        part = max(parts, key=lambda one: one.num_slices)
    else:
        part = parts[frame_index(frame, len(parts), path)]
    num_slices = len(volume.numbers)
    if part.num_slices < num_slices and (frame is None or len(parts) == 1):
        listed = "; ".join(
            f"frame {number} is slices {one.first} to {one.last}, {one.step_mm:.4g} mm apart"
            for number, one in enumerate(parts[:_MOST_NAMED])
        )
        warnings.warn(
            f"{path}: the {num_slices} slices are not evenly spaced, and a volume is: {listed}; slices "
            f"{part.first} to {part.last} are read, as a volume whose slices count from 0",
            stacklevel=5,
        )
    return volume.numbers[part.first : part.last + 1]


def _warn_of_deviation(places: np.ndarray, step: np.ndarray, path: Path) -> None:
    """Warn of slices that do not lie where an even grid puts them, as ITK does."""
    far_mm = _deviations_mm(places, places[0], step)
    step_mm = float(np.linalg.norm(step))
    if len(places) > 1 and far_mm.max() > _SILENT_DEVIATION * step_mm:
        worst = int(far_mm.argmax())
        warnings.warn(
            f"{path}: slices lie up to {far_mm[worst]:.3g} mm beside their places in an even grid of "
            f"{step_mm:.4g} mm (slice {worst}, from 0), and so do masks; DICOM SEG and RTSTRUCT have the "
            "place of each slice",
            stacklevel=5,
        )


# Positions are written with a few decimals. A missing slice doubles a step, a rounded one changes it little.
_UNEVEN_STEP = 0.1
# Of a step. A slice that is farther from its place on an even line does not belong to the volume.
_FARTHEST = 0.25
_GAP = 1.5
_SILENT_DEVIATION = 0.01
"""Share of a step by which a slice may lie beside its place without a warning."""
_FEWEST_SLICES = 3  # of a part: two slices are always even
_MOST_GAPS_NAMED = 5


@dataclass(frozen=True)
class Part:
    """A run of evenly spaced slices of a volume."""

    first: int
    last: int
    step_mm: float

    @property
    def num_slices(self) -> int:
        """How many there are."""
        return self.last - self.first + 1


def even_parts(places: np.ndarray, path: Path) -> list[Part]:
    """Divide slices into parts where the distance between them changes.

    A head is often scanned with thin slices at the base of the skull and thick ones above; the slice between
    belongs to both parts. Where a single step is too long, a slice is missing, and there is no volume.

    Args:
        places: (n, 3), mm, sorted along the normal.
        path: Named in errors.

    Returns:
        One part if all are evenly spaced.

    Raises:
        GeometryError: A slice is missing, or no three neighbours are evenly spaced.
    """
    steps = np.diff(places, axis=0)
    if _is_even(places, steps):
        return [Part(0, len(places) - 1, _mean_step(places))]
    runs = list(_runs(steps))
    _check_complete(runs, steps, path)
    parts = [Part(start, stop, _mean_step(places[start : stop + 1])) for start, stop in runs]
    return [part for part in parts if part.num_slices >= _FEWEST_SLICES]


def _deviations_mm(places: np.ndarray, first: np.ndarray, step: np.ndarray) -> np.ndarray:
    """Return the distance of each slice from its place on an even line, (n,)."""
    line = first + np.arange(len(places))[:, None] * step
    return np.asarray(np.linalg.norm(places - line, axis=1))


def _mean_step(places: np.ndarray) -> float:
    return float(np.linalg.norm(places[-1] - places[0])) / max(1, len(places) - 1)


def _is_even(places: np.ndarray, steps: np.ndarray) -> bool:
    """Whether slices make one volume: all steps are similar, or all places are near an even line."""
    if len(steps) < 2:
        return True
    typical = np.median(steps, axis=0)
    length = float(np.linalg.norm(typical))
    if length and np.linalg.norm(steps - typical, axis=1).max() <= _UNEVEN_STEP * length:
        return True
    mean = (places[-1] - places[0]) / len(steps)
    lengths = np.linalg.norm(steps, axis=1)
    is_near = _deviations_mm(places, places[0], mean).max() <= _FARTHEST * np.linalg.norm(mean)
    return bool(is_near and lengths.max() < _GAP * np.median(lengths))


def _runs(steps: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yield the first and last slice of each run of similar steps."""
    start = 0
    for number in range(1, len(steps) + 1):
        mean = steps[start:number].mean(axis=0)
        if number == len(steps) or np.linalg.norm(steps[number] - mean) > _UNEVEN_STEP * np.linalg.norm(mean):
            yield start, number
            start = number


def _check_complete(runs: list[tuple[int, int]], steps: np.ndarray, path: Path) -> None:
    """Refuse steps that make no even parts: some are too long, or none are similar."""
    lengths = np.linalg.norm(steps, axis=1)
    longest = max(runs, key=lambda run: run[1] - run[0])
    is_any_even = longest[1] - longest[0] > 1
    typical = float(lengths[longest[0] : longest[1]].mean() if is_any_even else lengths.min())
    gaps = [
        step
        for number, (start, stop) in enumerate(runs)
        if _is_gap(runs, lengths, number, typical)
        for step in range(start, stop)
    ]
    if is_any_even and not gaps:
        return
    what = "they are not one scan"
    if gaps:
        num_missing = int(sum(max(1, round(lengths[gap] / typical) - 1) for gap in gaps))
        after = ", ".join(str(gap) for gap in gaps[:_MOST_GAPS_NAMED])
        after += " and others" if len(gaps) > _MOST_GAPS_NAMED else ""
        missing = "one is missing" if num_missing == 1 else f"{num_missing} are missing"
        what = f"{missing} after slice {after} (of {len(steps) + 1}, from 0), or they belong to several scans"
    raise GeometryError(f"{path}: slices are {lengths.min():g} to {lengths.max():g} mm apart; {what}")


def _is_gap(runs: list[tuple[int, int]], lengths: np.ndarray, number: int, typical: float) -> bool:
    """Whether slices are missing in a run: it is one long step, or lies between two runs of similar steps."""
    start, stop = runs[number]
    beside = [runs[other] for other in (number - 1, number + 1) if 0 <= other < len(runs)]
    even = [float(lengths[first:last].mean()) for first, last in beside if last - first > 1]
    if stop - start > 1 and (len(even) < 2 or abs(even[0] - even[1]) > _UNEVEN_STEP * min(even)):
        return False
    return bool(lengths[start:stop].mean() > _GAP * min(even, default=typical))
