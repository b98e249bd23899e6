"""Measure masks in the patient's units, and write the measurements as JSON or as a table."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from operator import itemgetter
from pathlib import Path

import numpy as np
from scipy.spatial import ConvexHull, QhullError
from scipy.spatial.distance import cdist

from medsam2.errors import GeometryError, UnsupportedFormat
from medsam2.imaging.geometry import in_plane_mm, slices_along
from medsam2.imaging.outputs.mesh import smooth, surface_of
from medsam2.imaging.outputs.segments import LabelledObject, Segment, as_labels, find_objects
from medsam2.imaging.replacing import replacing
from medsam2.imaging.volume import Volume

_ROUNDING = 1e-9  # of lengths that are the same
_CORNERS = np.array([(dx, dy) for dx in (-0.5, 0.5) for dy in (-0.5, 0.5)])
_LEAST_SHARE = 1 / 3  # so that an oblique line of pixels has two sides; with it, balls come out best


@dataclass(frozen=True, kw_only=True)
class Axis:
    """A straight line across an object in a slice."""

    length_mm: float
    start_xy: tuple[float, float]
    """One end, in pixels of the slice; a pixel's middle is a whole number and its edge half of one more."""
    end_xy: tuple[float, float]
    """The other end."""


@dataclass(frozen=True, kw_only=True)
class Diameters:
    """RECIST's two diameters: both in one slice, at right angles to each other in millimetres.

    They are measured on the convex outline of the object in that slice. Along a row of pixels the outline is
    at their edge; around a round object it is close to the middles of the outermost pixels.
    """

    slice_index: int
    """The slice with the longest long axis; both lie in it."""
    long: Axis
    """The longest distance between two points of the object."""
    short: Axis
    """The longest distance at right angles to the long axis."""


@dataclass(frozen=True, kw_only=True)
class Intensities:
    """The intensities inside an object, in the image's own units; voxels that are not finite do not count."""

    mean: float
    std: float
    """Standard deviation of the voxels, as of a whole population."""
    min: float
    max: float
    median: float


@dataclass(frozen=True, kw_only=True)
class ObjectStatistics:
    """Measurements of one object. Without voxels its volume is 0, and values that do not exist are None."""

    label: int
    name: str
    num_voxels: int = 0
    volume_ml: float = 0.0
    surface_mm2: float | None = None
    """Area of the smoothed surface around the voxels. A ball's is 1 % too large on a fine grid, 4 % if slices
    are three times as thick as pixels, 20 % if ten times; a box's is 3 to 7 % too small, since its edges are
    rounded. Radiomics includes the steps of the voxels, so that a ball's is 9 to 27 % too large."""
    num_slices: int = 0
    """In how many slices it appears."""
    min_xyz: tuple[int, int, int] | None = None
    """First voxel of its bounding box, (x, y, z) in file axes."""
    max_xyz: tuple[int, int, int] | None = None
    """Last voxel of its bounding box."""
    diameters: Diameters | None = None
    intensities: Intensities | None = None
    """None if no image was given, or it has no finite value there."""


def measure_objects(
    labels: Volume,
    image: Volume | None = None,
    *,
    names: Mapping[int, str | Segment] | None = None,
    axis: int = 2,
) -> list[ObjectStatistics]:
    """Measure every object of a label volume, in the order of the labels.

    Args:
        labels: (z, y, x), whole numbers, 0 outside all objects.
        image: The scan on the same grid, for the intensities.
        names: Label to name, as for `write_labels`; the others are called "object 1" and so on. An object
            with a name and no voxels is listed too.
        axis: File axis along which slices are stacked, 0 (x), 1 (y) or 2 (z).

    Raises:
        InputError: Labels are not whole numbers, there is no such axis, or scikit-image is not installed.
        GeometryError: The image has another shape.
    """
    if image is not None and image.shape != labels.shape:
        raise GeometryError(
            f"the image has shape {image.shape} (z, y, x), the labels {labels.shape}; they must be alike"
        )
    labels = as_labels(labels)
    return [_measure(one, labels, image, axis) for one in find_objects(labels, names)]


def volume_ml(num_voxels: int, affine: np.ndarray) -> float:
    """Return the volume of so many voxels of a grid in millilitres, also for a sheared grid."""
    return num_voxels * abs(float(np.linalg.det(affine[:3, :3]))) / 1000


def longest_diameter_mm(slices: Iterable[np.ndarray], pixel_mm: tuple[float, float] | np.ndarray) -> float:
    """Return the longest distance across a mask within one slice, in millimetres; 0 for an empty mask.

    Args:
        slices: Boolean (y, x) each.
        pixel_mm: From `geometry.in_plane_mm`; for a grid without shear, the size of a pixel (x, y) is enough.
    """
    to_mm = _as_matrix(pixel_mm)
    return max((_longest(_outline_mm(plane, to_mm))[0] for plane in slices if plane.any()), default=0.0)


def diameters(slices: Iterable[np.ndarray], pixel_mm: tuple[float, float] | np.ndarray) -> Diameters | None:
    """Find RECIST's long and short axis of a mask.

    Args:
        slices: Boolean (y, x) each.
        pixel_mm: As for `longest_diameter_mm`.

    Returns:
        Of equally long ones, those of the first slice; None for an empty mask.
    """
    to_mm = _as_matrix(pixel_mm)
    outlines = ((index, _outline_mm(plane, to_mm)) for index, plane in enumerate(slices) if plane.any())
    candidates = ((*_longest(outline), index, outline) for index, outline in outlines)
    longest = max(candidates, key=itemgetter(0), default=None)
    if longest is None:
        return None
    length, ends, index, outline = longest
    return Diameters(
        slice_index=index,
        long=_axis(ends, to_mm),
        short=_axis(_across(outline, (ends[1] - ends[0]) / length), to_mm),
    )


def _measure(one: LabelledObject, labels: Volume, image: Volume | None, axis: int) -> ObjectStatistics:
    if one.box is None:
        return ObjectStatistics(label=one.label, name=one.name)
    mask = labels.array[one.box] == one.label
    num_voxels = int(np.count_nonzero(mask))
    slices = slices_along(mask, axis)
    z, y, x = one.box
    return ObjectStatistics(
        label=one.label,
        name=one.name,
        num_voxels=num_voxels,
        volume_ml=volume_ml(num_voxels, labels.affine),
        surface_mm2=smooth(surface_of(mask, labels.affine)).area_mm2,
        num_slices=int(np.count_nonzero(slices.any(axis=(1, 2)))),
        min_xyz=(x.start, y.start, z.start),
        max_xyz=(x.stop - 1, y.stop - 1, z.stop - 1),
        diameters=_placed(slices, one.box, labels, axis),
        intensities=None if image is None else _intensities(image.array[one.box][mask]),
    )


def _placed(slices: np.ndarray, box: tuple[slice, ...], labels: Volume, axis: int) -> Diameters | None:
    """Find the diameters within an object's bounding box, in indices of the whole volume."""
    found = diameters(slices, in_plane_mm(labels.affine, axis))
    if found is None:
        return None
    starts = [part.start for part in box]
    first = starts.pop(2 - axis)
    y_first, x_first = starts
    long, short = (
        replace(
            line,
            start_xy=(line.start_xy[0] + x_first, line.start_xy[1] + y_first),
            end_xy=(line.end_xy[0] + x_first, line.end_xy[1] + y_first),
        )
        for line in (found.long, found.short)
    )
    return Diameters(slice_index=found.slice_index + first, long=long, short=short)


def _intensities(values: np.ndarray) -> Intensities | None:
    if values.dtype.kind == "f":
        values = values[np.isfinite(values)]
    if not values.size:
        return None
    return Intensities(
        mean=float(values.mean(dtype=np.float64)),
        std=float(values.std(dtype=np.float64)),
        min=float(values.min()),
        max=float(values.max()),
        median=float(np.median(values)),
    )


def _as_matrix(pixel_mm: tuple[float, float] | np.ndarray) -> np.ndarray:
    matrix = np.asarray(pixel_mm, np.float64)
    return np.diag(matrix) if matrix.ndim == 1 else matrix


def _outline_mm(plane: np.ndarray, to_mm: np.ndarray) -> np.ndarray:
    """Return the convex outline of a mask (y, x) that is not empty: its corners (x, y) in mm, in order.

    The outline around the middles of the pixels is moved out by a share of half a pixel. A flat side along a
    row of pixels ends at their edge, half a pixel out. A curved side touches only single pixels, and the
    object's border is close to their middles. So the share is the part of the outline that runs along rows,
    and along columns. A box keeps its exact sides; a ball of 40 mm measures 40.3 to 40.9 mm on slices of 1 to
    2.5 mm, where an outline at pixel edges gave 41.2 to 42.8 mm.
    """
    rows = np.flatnonzero(plane.any(axis=1))
    # Only the ends of a row can be corners.
    filled = plane[rows]
    firsts, lasts = filled.argmax(axis=1), plane.shape[1] - 1 - filled[:, ::-1].argmax(axis=1)
    taut = _hull(np.concatenate((np.stack((firsts, rows), axis=1), np.stack((lasts, rows), axis=1))))
    steps, extent = np.abs(np.roll(taut, -1, axis=0) - taut), np.ptp(taut, axis=0)
    shares = [
        steps[steps[:, across] == 0, along].sum() / (2 * extent[along]) if extent[along] else 1.0
        for across, along in ((0, 1), (1, 0))
    ]
    moved = (taut[:, None] + _CORNERS * np.maximum(shares, _LEAST_SHARE)).reshape(-1, 2)
    return np.asarray(_hull(moved) @ to_mm.T)


def _hull(points: np.ndarray) -> np.ndarray:
    """Corners of the convex outline of points (x, y), in order; of points in a line, both ends."""
    try:
        return np.asarray(points[ConvexHull(points).vertices])
    except QhullError:
        return points[np.lexsort(points.T)[[0, -1]]]


def _longest(outline: np.ndarray) -> tuple[float, np.ndarray]:
    """Length in mm and both ends (2, 2) of the longest distance between two corners."""
    gaps = cdist(outline, outline)
    start, end = np.unravel_index(gaps.argmax(), gaps.shape)
    return float(gaps[start, end]), outline[[start, end]]


def _across(outline: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """Both ends (2, 2), in mm, of the longest chord of a convex outline at right angles to a direction.

    Along the direction, the chord's length is a concave function with bends at the corners, so it is longest
    at a corner.
    """
    normal = np.array((-direction[1], direction[0]))
    along, aside = outline @ direction, outline @ normal
    next_along, next_aside = np.roll(along, -1), np.roll(aside, -1)
    with np.errstate(divide="ignore", invalid="ignore"):
        # Row: a chord through a corner; column: an edge, and how far along it they meet.
        part = (along[:, None] - along) / (next_along - along)
    # An edge at right angles to the direction is skipped; its neighbours have both of its ends.
    meets = (part >= 0) & (part <= 1)
    places = np.where(meets, aside + part * (next_aside - aside), np.nan)
    lowest, highest = np.nanmin(places, axis=1), np.nanmax(places, axis=1)
    lengths = highest - lowest
    # Between two corners with equally long chords all chords are as long: take the one in the middle.
    best = np.flatnonzero(lengths >= lengths.max() * (1 - _ROUNDING))
    best = best[[along[best].argmin(), along[best].argmax()]]
    place = along[best].mean() * direction
    return np.stack([place + end[best].mean() * normal for end in (lowest, highest)])


def _axis(ends_mm: np.ndarray, to_mm: np.ndarray) -> Axis:
    (x0, y0), (x1, y1) = np.linalg.solve(to_mm, ends_mm.T).T.tolist()
    return Axis(length_mm=float(np.linalg.norm(ends_mm[1] - ends_mm[0])), start_xy=(x0, y0), end_xy=(x1, y1))


def write_statistics(statistics: Sequence[ObjectStatistics], path: Path) -> None:
    """Write one entry or row for each object; a value that cannot be measured is null or an empty cell.

    Args:
        statistics: From `measure_objects`.
        path: The file, .json or .csv.

    Raises:
        UnsupportedFormat: The suffix is neither.
        InputError: The file cannot be written.
    """
    suffix = path.suffix.lower()
    if suffix == ".json":
        objects = [asdict(one) for one in statistics]
        text = json.dumps({"objects": objects}, indent=2, ensure_ascii=False) + "\n"
    elif suffix == ".csv":
        text = _table(statistics)
    else:
        raise UnsupportedFormat(f"{path}: statistics are written as .json or .csv")
    with replacing(path, suffix) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def _table(statistics: Sequence[ObjectStatistics]) -> str:
    rows = [dict(_cells(one)) for one in statistics]
    # An object without voxels lacks columns that the others have.
    columns = list(dict.fromkeys(column for row in rows for column in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _cells(one: ObjectStatistics) -> Iterator[tuple[str, str | float | None]]:
    """Column and value; every number has a column of its own."""
    yield "label", one.label
    yield "name", one.name
    yield "num_voxels", one.num_voxels
    yield "volume_ml", one.volume_ml
    yield "surface_mm2", one.surface_mm2
    yield "num_slices", one.num_slices
    for bound, voxel in (("min", one.min_xyz), ("max", one.max_xyz)):
        for axis, index in zip("xyz", voxel or (None, None, None), strict=True):
            yield f"{axis}_{bound}", index
    if one.diameters is not None:
        yield "diameter_slice", one.diameters.slice_index
        yield from _axis_cells("long_axis", one.diameters.long)
        yield from _axis_cells("short_axis", one.diameters.short)
    if one.intensities is not None:
        yield from ((f"intensity_{key}", value) for key, value in asdict(one.intensities).items())


def _axis_cells(name: str, line: Axis) -> Iterator[tuple[str, float]]:
    yield f"{name}_mm", line.length_mm
    for number, (x, y) in enumerate((line.start_xy, line.end_xy)):
        yield f"{name}_x{number}", x
        yield f"{name}_y{number}", y
