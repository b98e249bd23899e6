"""Read DICOM segmentations and structure sets onto the grid of the scan they were drawn on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medsam2.errors import GeometryError, InputError, MedSAM2Error, UnsupportedFormat
from medsam2.imaging.content import kind_of_content
from medsam2.imaging.geometry import flip_ras_lps
from medsam2.imaging.outputs.dicom_slices import lenient_dicom
from medsam2.imaging.volume import Volume

if TYPE_CHECKING:
    from pydicom import Dataset

_SEGMENTATIONS = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
_LABEL_MAP = "LABELMAP"
_STRUCTURES = "1.2.840.10008.5.1.4.1.1.481.3"
# In voxels of the scan. Each frame has a place of its own, and a scan one step for all of them.
_TOLERANCE = 0.25


@dataclass(frozen=True, kw_only=True, eq=False)
class DrawnSegment:
    """One segment, or one region of interest."""

    number: int
    name: str | None
    mask: np.ndarray
    """Boolean (z, y, x), on the scan's grid."""


def is_drawing(path: Path) -> bool:
    """Whether a file is a DICOM segmentation or structure set.

    Raises:
        InputError: The file cannot be read.
    """
    if not path.is_file() or kind_of_content(path) != "DICOM":
        return False
    return _read(path, pixels=False).get("SOPClassUID") in (*_SEGMENTATIONS, _STRUCTURES)


def read_drawn_dicom(path: Path, image: Volume) -> list[DrawnSegment]:
    """Read what was drawn.

    Args:
        path: A file for which `is_drawing`.
        image: The scan, in whatever order of voxels.

    Raises:
        GeometryError: Frames or contours do not lie on slices of the scan.
        UnsupportedFormat: The file lacks what it must have, or it cannot be unpacked.
        InputError: It cannot be read.
    """
    with lenient_dicom():
        file = _read(path, pixels=True)
        try:
            if file.SOPClassUID == _STRUCTURES:
                return list(_regions(file, image))
            return list(_segments(file, image))
        except MedSAM2Error:
            raise
        except (AttributeError, IndexError, KeyError, TypeError, ValueError, NotImplementedError) as error:
            raise UnsupportedFormat(
                f"{path}: this DICOM segmentation or structure set cannot be read ({type(error).__name__})"
            ) from error


def _read(path: Path, *, pixels: bool) -> Dataset:
    from pydicom import dcmread
    from pydicom.errors import InvalidDicomError

    try:
        return dcmread(path, stop_before_pixels=not pixels)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (InvalidDicomError, EOFError, ValueError) as error:
        raise UnsupportedFormat(f"{path}: the DICOM header is damaged") from error


def _segments(file: Dataset, image: Volume) -> Iterator[DrawnSegment]:
    frames = file.pixel_array.reshape(-1, int(file.Rows), int(file.Columns))
    to_voxel = np.linalg.inv(flip_ras_lps(image.affine))
    places = [
        _place_of(_frame_affine(file, group), frames.shape[1:], to_voxel, image)
        for group in file.PerFrameFunctionalGroupsSequence
    ]
    is_map = file.SegmentationType == _LABEL_MAP
    half = 0.5 * int(file.get("MaximumFractionalValue") or 1) if file.SegmentationType == "FRACTIONAL" else 0
    for segment in file.SegmentSequence:
        number = int(segment.SegmentNumber)
        mask = np.zeros(image.shape, bool)
        for group, frame, place in zip(file.PerFrameFunctionalGroupsSequence, frames, places, strict=True):
            if is_map:
                inside = frame == number
            elif _segment_number(file, group) == number:
                inside = frame > half
            else:
                continue
            mask[place] |= inside
        yield DrawnSegment(number=number, name=str(segment.get("SegmentLabel") or "") or None, mask=mask)


def _segment_number(file: Dataset, group: Dataset) -> int:
    return int(_macro(file, group, "SegmentIdentificationSequence").ReferencedSegmentNumber)


def _macro(file: Dataset, group: Dataset, keyword: str) -> Dataset:
    """A functional group of a frame, or the one that all frames share."""
    holder = group if keyword in group else file.SharedFunctionalGroupsSequence[0]
    return holder[keyword][0]


def _frame_affine(file: Dataset, group: Dataset) -> np.ndarray:
    """(3, 3), in LPS mm: the step along a row, the step down a column, the first pixel's place."""
    row_mm, column_mm = (float(step) for step in _macro(file, group, "PixelMeasuresSequence").PixelSpacing)
    axes = _macro(file, group, "PlaneOrientationSequence").ImageOrientationPatient
    along_row, along_column = np.reshape([float(value) for value in axes], (2, 3))
    first = [float(value) for value in _macro(file, group, "PlanePositionSequence").ImagePositionPatient]
    return np.stack((along_row * column_mm, along_column * row_mm, first), axis=1)


def _place_of(
    frame: np.ndarray, shape: Sequence[int], to_voxel: np.ndarray, image: Volume
) -> tuple[np.ndarray, ...]:
    """Return the voxels (z, y, x) of a frame's pixels, as indices that broadcast to (row, column)."""
    height, width = shape
    steps = to_voxel[:3, :3] @ frame[:, :2]
    first = to_voxel[:3, :3] @ frame[:, 2] + to_voxel[:3, 3]
    whole = np.rint(steps)
    far = np.abs(steps - whole) @ (width - 1, height - 1) + np.abs(first - np.rint(first))
    if (np.abs(whole).sum(axis=0) != 1).any() or far.max() > _TOLERANCE:
        raise GeometryError("its frames do not lie on slices of the image")
    rows, columns = np.ogrid[:height, :width]
    indices = np.rint(first).astype(int)[:, None, None] + sum(
        whole[:, axis].astype(int)[:, None, None] * steps_along
        for axis, steps_along in ((0, columns), (1, rows))
    )
    size = np.array(image.shape[::-1])[:, None, None]
    if ((indices < 0) | (indices >= size)).any():
        raise GeometryError("its frames reach beyond the image")
    return tuple(indices[::-1])


def _regions(file: Dataset, image: Volume) -> Iterator[DrawnSegment]:
    names = {int(one.ROINumber): str(one.get("ROIName") or "") for one in file.StructureSetROISequence}
    to_voxel = np.linalg.inv(flip_ras_lps(image.affine))
    for region in file.ROIContourSequence:
        number = int(region.ReferencedROINumber)
        mask = np.zeros(image.shape, bool)
        for contour in region.get("ContourSequence") or ():
            if contour.ContourGeometricType not in ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR"):
                continue  # a point or a line encloses nothing
            corners = np.reshape([float(value) for value in contour.ContourData], (-1, 3))
            _fill(mask, corners @ to_voxel[:3, :3].T + to_voxel[:3, 3])
        yield DrawnSegment(number=number, name=names.get(number) or None, mask=mask)


def _fill(mask: np.ndarray, corners: np.ndarray) -> None:
    """Turn over what a contour of voxels (x, y, z) encloses: a contour inside another one is a hole."""
    from skimage.draw import polygon

    spread = np.ptp(corners, axis=0)
    axis = int(spread.argmin())
    depth = float(np.median(corners[:, axis]))
    index = round(depth)
    if spread[axis] > _TOLERANCE or abs(depth - index) > _TOLERANCE:
        raise GeometryError("its contours do not lie on slices of the image")
    if not 0 <= index < mask.shape[2 - axis]:
        raise GeometryError("its contours reach beyond the image")
    plane = np.moveaxis(mask, 2 - axis, 0)[index]
    in_plane = np.delete(corners, axis, axis=1)
    rows, columns = polygon(in_plane[:, 1], in_plane[:, 0], plane.shape)
    plane[rows, columns] ^= True
