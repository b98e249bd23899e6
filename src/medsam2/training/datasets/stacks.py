"""Cut a labelled scan into 8-bit stacks of slices with numbered objects."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from medsam2.errors import InputError
from medsam2.imaging.geometry import slices_along
from medsam2.imaging.intensity import Window, to_uint8
from medsam2.imaging.volume import Volume, match_order
from medsam2.training.datasets.contents import (
    check_window,
    more_windows,
    read_image,
    read_mask,
    whole_numbers,
    window_of,
)
from medsam2.training.datasets.objects import (
    Part,
    ScanObject,
    find_objects,
    plan_parts,
    room_around,
    slice_axis,
)
from medsam2.training.datasets.scan import LabelledScan, layers_of
from medsam2.training.stack_files import MAX_LABELS

DEFAULT_FILE_BYTES = 16 * 2**20
SMALLEST_FILE_BYTES = 2**20
_BYTES_PER_VOXEL = 2  # a grey and a label

SMALLEST_AREA = 12  # pixels; `DataConfig.min_area` draws no smaller objects
# Of scans in a table with a column `kind`:
ROW_SMALLEST_AREA = 20
ROW_MAX_OBJECTS = 60
LARGEST_ANISOTROPY = 2.2
"""Largest spacing over the smallest below which a volume is cut along all three axes."""
SMALLEST_SIDE = 24
"""Voxels that such a volume has along each axis."""


@dataclass(frozen=True, kw_only=True)
class PrepareOptions:
    """How scans become stacks."""

    window: str | tuple[float, float] | None = None
    """Name of a CT window, or limits; if not given, the table's window, or as inference chooses."""
    plane: str | None = None
    """Such as "axial"; if not given, the table's slicing axis, or the file's third axis."""
    pieces: bool = False
    """Make each connected piece of a label an object of its own: lesions that share a value."""
    smallest_area: int | None = None
    """Pixels that an object needs in its largest slice; `SMALLEST_AREA` if not given, or `ROW_SMALLEST_AREA`
    for scans in a table with a column `kind`."""
    file_bytes: int = DEFAULT_FILE_BYTES
    """Largest size of a file; larger scans are cropped around their objects."""

    def __post_init__(self) -> None:
        """Check what does not depend on a scan."""
        check_window(self.window)
        if self.smallest_area is not None and self.smallest_area < 1:
            raise InputError(f"an object has at least 1 pixel, not {self.smallest_area}")
        if self.file_bytes < SMALLEST_FILE_BYTES:
            raise InputError(
                f"a stack's file may have at least {SMALLEST_FILE_BYTES} bytes (1 MiB), not {self.file_bytes}"
            )

    def smallest_area_of(self, scan: LabelledScan) -> int:
        """Return the pixels that an object of this scan needs in its largest slice."""
        if self.smallest_area is not None:
            return self.smallest_area
        return SMALLEST_AREA if scan.row is None else ROW_SMALLEST_AREA


@dataclass(frozen=True, kw_only=True)
class Stack:
    """One stack, ready to be stored."""

    image: np.ndarray
    """(slice, y, x), uint8."""
    labels: np.ndarray
    """(slice, y, x), uint8: 0 for background, then the objects from 1, the largest first."""
    names: tuple[str, ...]
    """Names of the objects, label 1 first."""
    objects: frozenset[int]
    """Which of the scan's objects along this axis are in it; one may be in two stacks."""
    num_found: int
    """Objects that the mask has along this axis, small ones too."""
    axis: int
    """File axis of the slices."""
    window: Window
    modality: str
    """Empty if nothing says it."""
    spacing_mm: tuple[float, float, float]
    """Distance of voxel centres, (x, y, slice)."""


@dataclass(frozen=True)
class _Limits:
    """What an object needs to be kept."""

    smallest_area: int
    most: int


@dataclass(frozen=True)
class _Slices:
    """Slices of a scan along one axis, and the objects in them."""

    image: np.ndarray  # (slice, y, x), as read
    shape: tuple[int, ...]
    objects: Sequence[ScanObject]
    num_found: int
    spacing_mm: tuple[float, float, float]  # (x, y, slice)


def cut(scan: LabelledScan, options: PrepareOptions) -> Iterator[Stack]:
    """Cut a scan into stacks, one by one: first those along its own axis.

    Regions that overlap are objects of different stacks.

    Raises:
        InputError: A file cannot be read, the two do not fit together, or no object is large enough.
    """
    image = read_image(scan)
    labels = whole_numbers(match_order(read_mask(scan), image))
    limits = _Limits(options.smallest_area_of(scan), MAX_LABELS if scan.row is None else ROW_MAX_OBJECTS)
    layers = layers_of(labels, scan.regions)
    most_found, num_stacks = 0, 0
    for axis, windows in _plan(scan, image, options).items():
        sliced = [_slices(scan, image, layer, axis, limits, pieces=options.pieces) for layer in layers]
        num_found = sum(slices.num_found for slices in sliced)
        most_found = max(most_found, num_found)
        num_before = 0
        for slices in sliced:
            boxes = [one.box for one in slices.objects]
            for part in plan_parts(slices.shape, boxes, options.file_bytes // _BYTES_PER_VOXEL):
                numbered, members = _labels_of(part, slices.objects, limits)
                for window in windows if members else ():
                    num_stacks += 1
                    yield Stack(
                        image=to_uint8(slices.image[part.box], window),
                        labels=numbered,
                        names=tuple(slices.objects[member].name for member in members),
                        objects=frozenset(num_before + member for member in members),
                        num_found=num_found,
                        axis=axis,
                        window=window,
                        modality=image.modality or scan.modality or "",
                        spacing_mm=slices.spacing_mm,
                    )
            num_before += len(slices.objects)
    if not num_stacks:
        raise InputError(
            f"none of the {most_found} objects in the mask has {limits.smallest_area} pixels in a slice"
            if most_found
            else "the mask is empty"
        )


def _plan(scan: LabelledScan, image: Volume, options: PrepareOptions) -> Mapping[int, tuple[Window, ...]]:
    """Return file axis -> windows of the stacks along it, the scan's own axis and window first.

    A scan in a table gives more than one: volumes with nearly cubic voxels look alike along every axis, and
    the window of a CT is the reader's choice.
    """
    axis = slice_axis(image, options.plane, scan.row)
    window = window_of(scan, image, options.window)
    windows: tuple[Window, ...] = (window,)
    if scan.row is None:
        return {axis: windows}
    if image.modality == "CT" and window.source not in ("percentiles", "display", "range"):
        windows = (window, *more_windows(window))
    is_cubic = (
        scan.row.kind == "volume"
        and max(image.spacing) < LARGEST_ANISOTROPY * min(image.spacing)
        and min(image.shape) >= SMALLEST_SIDE
    )
    others = [other for other in range(3) if other != axis] if is_cubic else []
    return {axis: windows, **dict.fromkeys(others, (window,))}


def _slices(
    scan: LabelledScan, image: Volume, labels: np.ndarray, axis: int, limits: _Limits, *, pieces: bool
) -> _Slices:
    """Find the objects along an axis; of a scan in a table, crop to the room around them and thin it."""
    planes, numbers = slices_along(image.array, axis), slices_along(labels, axis)
    x_mm, y_mm = (step for number, step in enumerate(image.spacing) if number != axis)
    found = list(find_objects(numbers, scan.labels, scan.ignored, pieces=pieces))
    objects, step = _largest(found, limits), 1
    if scan.row is not None and objects:
        (z, y, x), step = room_around([one.box for one in objects], planes.shape)
        room = slice(z.start, z.stop, step), y, x
        planes, numbers = planes[room], numbers[room]
        objects = _largest(find_objects(numbers, scan.labels, scan.ignored, pieces=pieces), limits)
    return _Slices(planes, planes.shape, objects, len(found), (x_mm, y_mm, step * image.spacing[axis]))


def _largest(found: Iterator[ScanObject] | Sequence[ScanObject], limits: _Limits) -> list[ScanObject]:
    """Keep the objects that are large enough, in their order; of too many, those with most voxels."""
    objects = [one for one in found if one.largest_area >= limits.smallest_area]
    if len(objects) <= limits.most or limits.most == MAX_LABELS:  # each part has room for so many
        return objects
    sizes = np.array([int(one.mask.sum()) for one in objects])
    kept = np.sort(np.argsort(-sizes, kind="stable")[: limits.most])
    return [objects[place] for place in kept]


def _labels_of(part: Part, objects: Sequence[ScanObject], limits: _Limits) -> tuple[np.ndarray, list[int]]:
    """Number a part's objects from 1, the largest first to be kept where they are too many.

    Returns:
        uint8 labels of the part's size, and the places of its objects, label 1 first.
    """
    labels = np.zeros([place.stop - place.start for place in part.box], np.uint8)
    inside = []
    for member in part.members:
        target, mask = _overlap(part, objects[member])
        if mask.size and int(mask.sum(axis=(1, 2)).max()) >= limits.smallest_area:
            inside.append((member, target, mask))
    inside.sort(key=lambda one: int(one[2].sum()), reverse=True)
    for number, (_, target, mask) in enumerate(inside[: limits.most], start=1):
        labels[target][mask] = number
    return labels, [member for member, _, _ in inside[: limits.most]]


def _overlap(part: Part, one: ScanObject) -> tuple[tuple[slice, ...], np.ndarray]:
    """Return where an object lies in a part, and its mask there."""
    target, source = [], []
    for outer, inner in zip(part.box, one.box, strict=True):
        start = max(outer.start, inner.start)
        stop = max(start, min(outer.stop, inner.stop))
        target.append(slice(start - outer.start, stop - outer.start))
        source.append(slice(start - inner.start, stop - inner.start))
    return tuple(target), one.mask[tuple(source)]
