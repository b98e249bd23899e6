"""Take the objects of a mask apart, and choose the parts of a scan that hold them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
from scipy import ndimage

from medsam2.errors import InputError
from medsam2.imaging.geometry import plane_axis
from medsam2.imaging.volume import Volume
from medsam2.training.datasets.scan import TableRow

DEFAULT_AXIS = 2  # as in inference: slices are stacked along the file's third axis

Box = tuple[slice, slice, slice]


@dataclass(frozen=True, kw_only=True)
class ScanObject:
    """One object and where it lies."""

    value: int
    """Value in the mask."""
    name: str
    box: Box
    """(slice, y, x), just around it."""
    mask: np.ndarray
    """Boolean, of the box's size."""

    @property
    def largest_area(self) -> int:
        """Pixels in its largest slice."""
        return int(self.mask.sum(axis=(1, 2)).max())


def slice_axis(volume: Volume, plane: str | None, row: TableRow | None = None) -> int:
    """Return the file axis that slices are stacked along: that of a plane, else a row's, else the third.

    Raises:
        InputError: The plane is none of axial, coronal, sagittal.
    """
    if plane is not None:
        return plane_axis(volume.affine, plane)
    return DEFAULT_AXIS if row is None else row.axis


def find_objects(
    slices: np.ndarray,
    names: Mapping[int, str],
    ignored: frozenset[int] = frozenset(),
    *,
    pieces: bool = False,
) -> Iterator[ScanObject]:
    """Find the objects of a mask.

    Args:
        slices: Whole numbers from 0, (slice, y, x).
        names: Value -> name; a value without one is called by its number.
        ignored: Values that are no object.
        pieces: Make each 26-connected piece of a label an object of its own.
    """
    for index, box in enumerate(ndimage.find_objects(slices)):
        value = index + 1
        if box is None or value in ignored:
            continue
        mask = slices[box] == value
        name = names.get(value, str(value))
        if not pieces:
            yield ScanObject(value=value, name=name, box=_box(box), mask=mask)
            continue
        labelled, _ = ndimage.label(mask, structure=np.ones((3, 3, 3), bool))
        for piece, inner in enumerate(ndimage.find_objects(labelled)):
            place = _box(slice(o.start + i.start, o.start + i.stop) for o, i in zip(box, inner, strict=True))
            yield ScanObject(value=value, name=name, box=place, mask=labelled[inner] == piece + 1)


def _box(slices: Iterable[slice]) -> Box:
    z, y, x = slices
    return z, y, x


CONTEXT = 4.5  # side of a part over the object's longest side: the widest view of `DataConfig.zoom`
MIN_SIDE = 128  # pixels; the widest smallest view of `DataConfig.min_side`
MARGIN_SLICES = 8  # beyond the object, so that clips can leave it
MIN_SLICES = 16
"""Slices that a part has where the scan does: a clip of eight slices that skips every other one."""


ROOM_PIXELS = 30
"""Least room around the objects of a scan in a table, in the plane of the slices."""
ROOM_SHARE = 0.5
"""The same, as a share of the longer side of the box around all objects."""
ROOM_SLICES = 10
MOST_SLICES = 120
"""A stack with more slices keeps every other one."""


@dataclass(frozen=True)
class Part:
    """A part of a scan and the objects that it was made for."""

    box: Box
    """(slice, y, x)."""
    members: tuple[int, ...]
    """Their places in the list of boxes."""


def room_around(boxes: Sequence[Box], shape: tuple[int, ...]) -> tuple[Box, int]:
    """Return the crop around all objects of a scan in a table, and the step from slice to slice.

    Args:
        boxes: Just around each object, one at least.
        shape: Slices, rows, columns of the scan.

    Returns:
        The box (slice, y, x), and 1, or 2 where it has more than `MOST_SLICES`.
    """
    z, y, x = reduce(_hull, boxes)
    margin = max(ROOM_PIXELS, round(ROOM_SHARE * max(_length(y), _length(x))))
    box = _box(
        slice(max(0, inner.start - room), min(size, inner.stop + room))
        for inner, room, size in zip((z, y, x), (ROOM_SLICES, margin, margin), shape, strict=True)
    )
    return box, 2 if _length(box[0]) > MOST_SLICES else 1


def plan_parts(shape: tuple[int, ...], boxes: Sequence[Box], largest_voxels: int) -> list[Part]:
    """Divide a scan into parts.

    A scan that is small enough is one part. Otherwise each object gets its surroundings, narrower ones where
    they are too large, and those that overlap so much that one part is no larger than two are joined. What is
    still too large is cut across the slices; pieces overlap by `MARGIN_SLICES`.

    Args:
        shape: Slices, rows, columns of the scan.
        boxes: Just around each object.
        largest_voxels: What a part may have.

    Raises:
        InputError: An object does not fit even alone.
    """
    whole = _box(slice(0, size) for size in shape)
    if _voxels(whole) <= largest_voxels:
        return [Part(whole, tuple(range(len(boxes))))] if boxes else []
    parts = [
        Part(_fit(_surroundings(box, shape), box, shape, largest_voxels), (number,))
        for number, box in enumerate(boxes)
    ]
    return [piece for part in _joined(parts, largest_voxels) for piece in _cut(part, largest_voxels)]


def _surroundings(box: Box, shape: tuple[int, ...]) -> Box:
    z, y, x = box
    side = max(MIN_SIDE, round(CONTEXT * max(_length(y), _length(x))))
    slices = max(MIN_SLICES, _length(z) + 2 * MARGIN_SLICES)
    return _around(z, slices, shape[0]), _around(y, side, shape[1]), _around(x, side, shape[2])


def _fit(part: Box, box: Box, shape: tuple[int, ...], largest_voxels: int) -> Box:
    """Narrow a part in its plane until `MIN_SLICES` of it fit."""
    z, y, x = part
    least_slices = min(MIN_SLICES, shape[0])
    height, width = _length(y), _length(x)
    least_height, least_width = _length(box[1]), _length(box[2])
    needed = least_height * least_width * least_slices
    if needed > largest_voxels:
        raise InputError(
            f"an object of {least_width} x {least_height} pixels does not fit into a file: "
            f"{least_slices} slices of it have {needed} voxels, a file has {largest_voxels} at most"
        )
    while height * width * least_slices > largest_voxels:
        height, width = max(least_height, round(0.9 * height)), max(least_width, round(0.9 * width))
    return z, _around(box[1], height, shape[1]), _around(box[2], width, shape[2])


def _joined(parts: Sequence[Part], largest_voxels: int) -> list[Part]:
    kept: list[Part] = []
    for part in parts:
        for number, other in enumerate(kept):
            both = _hull(part.box, other.box)
            saves = _voxels(both) <= _voxels(part.box) + _voxels(other.box)
            if saves and _voxels(both) <= largest_voxels:
                kept[number] = Part(both, (*other.members, *part.members))
                break
        else:
            kept.append(part)
    return kept


def _cut(part: Part, largest_voxels: int) -> list[Part]:
    z, y, x = part.box
    at_most = largest_voxels // (_length(y) * _length(x))
    if _length(z) <= at_most:
        return [part]
    step = max(1, at_most - MARGIN_SLICES)
    starts = [*range(z.start, z.stop - at_most, step), z.stop - at_most]
    return [Part((slice(start, start + at_most), y, x), part.members) for start in starts]


def _around(inner: slice, length: int, size: int) -> slice:
    """Return a stretch of a length around another one, within 0 and size."""
    length = min(length, size)
    start = (inner.start + inner.stop - length) // 2
    start = min(max(0, start), size - length)
    return slice(start, start + length)


def _hull(first: Box, second: Box) -> Box:
    return _box(slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(first, second, strict=True))


def _length(part: slice) -> int:
    return int(part.stop - part.start)


def _voxels(box: Box) -> int:
    z, y, x = box
    return _length(z) * _length(y) * _length(x)
