"""Take the objects of a mask apart: each label one, or each connected piece of a label."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from medsam2.imaging.geometry import plane_axis
from medsam2.imaging.volume import Volume
from medsam2.training.datasets.scan import TableRow

DEFAULT_AXIS = 2  # as in inference: slices are stacked along the file's third axis

Box = tuple[slice, slice, slice]


@dataclass(frozen=True, kw_only=True)
class ScanObject:
    """One object and where it lies."""

    value: int
    """Of the mask."""
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


def _box(slices: Iterator[slice] | tuple[slice, ...]) -> Box:
    z, y, x = slices
    return z, y, x
