"""Read drawings on a scan, in any format, as labels on the scan's own grid with their names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medsam2.errors import GeometryError, InputError, MedSAM2Error, UnsupportedFormat, reading
from medsam2.imaging import io
from medsam2.imaging.dicom.header import lenient_dicom
from medsam2.imaging.formats import itk
from medsam2.imaging.formats.archive import kind_of_content
from medsam2.imaging.geometry import flip_ras_lps
from medsam2.imaging.volume import Volume, place

if TYPE_CHECKING:
    from pydicom import Dataset

_WHOLE = 1e-3  # how far a float label may be from a whole number; resampling and scaling leave as much
_MAX_LISTED = 20
_SLICER = (".seg.nrrd", ".nrrd")
_SEGMENTATIONS = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
_LABEL_MAP = "LABELMAP"
_STRUCTURES = "1.2.840.10008.5.1.4.1.1.481.3"
# In voxels of the scan. A frame says exactly where it lies, but a scan has the same step between all slices.
_TOLERANCE = 0.25

_NamedMask = tuple[int, str | None, np.ndarray]
"""Number, name and boolean mask (z, y, x) of an object, on the scan's grid."""


@dataclass(frozen=True, kw_only=True)
class DrawnLabel:
    """One object of a drawing."""

    layer: int
    """Which of the drawing's layers it lies in, from 0."""
    value: int
    """Its value there."""
    number: int
    """The number for users: the value if the drawing has one layer, else a count from 1."""
    name: str | None = None

    @property
    def title(self) -> str:
        """The label in words."""
        return f"{self.number}" if self.name is None else f"{self.number} ({self.name})"


@dataclass(frozen=True, kw_only=True, eq=False)
class Drawing:
    """Objects on a scan's grid; objects that overlap lie in different layers."""

    path: Path
    layers: tuple[np.ndarray, ...]
    """Whole numbers (z, y, x) each, 0 outside."""
    labels: tuple[DrawnLabel, ...]
    """Its objects, ordered by number."""

    def mask(self, label: DrawnLabel) -> np.ndarray:
        """One object, boolean (z, y, x)."""
        return np.asarray(self.layers[label.layer] == label.value)

    def chosen(self, wanted: Sequence[str]) -> list[DrawnLabel]:
        """Return the labels of these numbers or names; all if none is given.

        Raises:
            InputError: There is no such label, or several have this name.
        """
        found = []
        for one in wanted:
            number = int(one) if one.strip().isdecimal() else None
            matching = [label for label in self.labels if label.number == number]
            matching = matching or [label for label in self.labels if label.name == one]
            if len(matching) != 1:
                what = f"{len(matching)} labels are called" if matching else "there is no label"
                raise InputError(f"{self.path}: {what} {one!r}; its labels are {listed(self.labels)}")
            found += matching
        return sorted(set(found), key=lambda label: label.number) if wanted else list(self.labels)

    def stack(self) -> np.ndarray:
        """Return all labels as one array (z, y, x).

        Raises:
            InputError: Some overlap.
        """
        if len(self.layers) > 1:
            raise InputError(
                f"{self.path}: holds objects that overlap, in {len(self.layers)} layers; "
                "choose one label, or save them without overlap"
            )
        return self.layers[0]


def listed(labels: Sequence[DrawnLabel]) -> str:
    """List labels for a message."""
    rest = len(labels) - _MAX_LISTED
    named = ", ".join(label.title for label in labels[:_MAX_LISTED]) or "none"
    return named + (f" and {rest} more" if rest > 0 else "")


def read_drawing(path: Path, image: Volume) -> Drawing:
    """Read a mask file that lies on a scan's grid, or on a part of it.

    Args:
        path: Any file that `imaging.io.read` takes; 3D Slicer's .seg.nrrd, cropped or with overlaps; a DICOM
            segmentation or structure set.
        image: The scan, in any order of voxels.

    Raises:
        InputError: The file cannot be read, or holds no labels. Its subclasses:
        UnsupportedFormat: A DICOM file lacks required elements, or its pixels cannot be decoded.
        GeometryError: It does not lie on the scan's grid; the message begins with the file.
    """
    try:
        if _is_drawn_dicom(path):
            return _of_masks(path, _read_masks(path, image))
        if path.name.lower().endswith(_SLICER):
            return _of_slicer(path, image)
        return _of_layers(path, (place(io.read(path), image),))
    except GeometryError as error:
        text = str(error).removeprefix(f"{path}: ")
        raise GeometryError(f"{path}: {text}; a mask lies on the image's grid") from None


def _of_layers(path: Path, layers: Sequence[np.ndarray]) -> Drawing:
    """Make a drawing of layers whose labels have values but no names."""
    whole = tuple(_as_whole(layer, path) for layer in layers)
    found = [
        (index, value)
        for index, layer in enumerate(whole)
        for value in sorted({value for plane in layer for value in np.unique(plane).tolist()} - {0})
    ]
    labels = tuple(
        DrawnLabel(layer=index, value=value, number=value if len(whole) == 1 else number)
        for number, (index, value) in enumerate(found, start=1)
    )
    return Drawing(path=path, layers=whole, labels=labels)


def _of_slicer(path: Path, image: Volume) -> Drawing:
    """Give the labels the names in 3D Slicer's header."""
    volumes, texts = itk.read_layers(path)
    plain = _of_layers(path, tuple(place(volume, image) for volume in volumes))
    names: dict[tuple[int, int], str] = {}
    index = 0
    while f"Segment{index}_ID" in texts or f"Segment{index}_Name" in texts:
        layer, value = (texts.get(f"Segment{index}_{key}", "") for key in ("Layer", "LabelValue"))
        name = texts.get(f"Segment{index}_Name", "").strip()
        if name and (layer or "0").isdecimal() and (value or str(index + 1)).isdecimal():
            names[int(layer or 0), int(value or index + 1)] = name
        index += 1
    labels = tuple(replace(one, name=names.get((one.layer, one.value))) for one in plain.labels)
    return replace(plain, labels=labels)


def _of_masks(path: Path, masks: Sequence[_NamedMask]) -> Drawing:
    """Put masks that may overlap into as few layers as they need."""
    layers: list[np.ndarray] = []
    labels = []
    for number, name, mask in masks:
        free = (index for index, layer in enumerate(layers) if not layer[mask].any())
        index = next(free, len(layers))
        if index == len(layers):
            layers.append(np.zeros(mask.shape, np.uint16))
        layers[index][mask] = number
        if mask.any():
            labels.append(DrawnLabel(layer=index, value=number, number=number, name=name))
    return Drawing(path=path, layers=tuple(layers), labels=tuple(labels))


def _as_whole(array: np.ndarray, path: Path) -> np.ndarray:
    """Return labels as whole numbers; floats that are nearly whole are rounded."""
    if array.dtype.kind == "b":
        return array.astype(np.uint8)
    if array.dtype.kind in "iu":
        return array
    whole = np.rint(array)
    with np.errstate(invalid="ignore"):
        odd = ~(np.abs(array - whole) <= _WHOLE)
    if odd.any():
        raise InputError(f"{path}: the mask holds the value {array[odd][0]:g}; labels are whole numbers")
    return whole.astype(np.int64)


def _is_drawn_dicom(path: Path) -> bool:
    """Whether a file is a DICOM segmentation or structure set."""
    if not path.is_file() or kind_of_content(path) != "DICOM":
        return False
    return _read_file(path, pixels=False).get("SOPClassUID") in (*_SEGMENTATIONS, _STRUCTURES)


def _read_masks(path: Path, image: Volume) -> list[_NamedMask]:
    """Read the objects of a DICOM segmentation or structure set."""
    with lenient_dicom():
        file = _read_file(path, pixels=True)
        try:
            return list((_regions if file.SOPClassUID == _STRUCTURES else _segments)(file, image))
        except MedSAM2Error:
            raise
        except (AttributeError, IndexError, KeyError, TypeError, ValueError, NotImplementedError) as error:
            raise UnsupportedFormat(
                f"{path}: this DICOM segmentation or structure set cannot be read ({type(error).__name__})"
            ) from error


def _read_file(path: Path, *, pixels: bool) -> Dataset:
    from pydicom import dcmread
    from pydicom.errors import InvalidDicomError

    try:
        with reading(path):
            return dcmread(path, stop_before_pixels=not pixels)
    except InputError:
        raise
    except (InvalidDicomError, EOFError, ValueError) as error:
        raise UnsupportedFormat(f"{path}: the DICOM header is damaged") from error


def _segments(file: Dataset, image: Volume) -> Iterator[_NamedMask]:
    """Put together the frames of each segment."""
    frames = file.pixel_array.reshape(-1, int(file.Rows), int(file.Columns))
    to_voxel = np.linalg.inv(flip_ras_lps(image.affine))
    groups = file.PerFrameFunctionalGroupsSequence
    voxels = [_voxels_of(_frame_axes(file, group), frames.shape[1:], to_voxel, image) for group in groups]
    is_map = file.SegmentationType == _LABEL_MAP
    half = 0.5 * int(file.get("MaximumFractionalValue") or 1) if file.SegmentationType == "FRACTIONAL" else 0
    for segment in file.SegmentSequence:
        number = int(segment.SegmentNumber)
        mask = np.zeros(image.shape, bool)
        for group, frame, where in zip(groups, frames, voxels, strict=True):
            if is_map:
                mask[where] |= frame == number
            elif int(_macro(file, group, "SegmentIdentificationSequence").ReferencedSegmentNumber) == number:
                mask[where] |= frame > half
        yield number, str(segment.get("SegmentLabel") or "") or None, mask


def _macro(file: Dataset, group: Dataset, keyword: str) -> Dataset:
    """A functional group of a frame, or the group that all frames share."""
    holder = group if keyword in group else file.SharedFunctionalGroupsSequence[0]
    return holder[keyword][0]


def _frame_axes(file: Dataset, group: Dataset) -> np.ndarray:
    """(3, 3), columns in LPS mm: the step along a row, the step down a column, the first pixel's place."""
    row_mm, column_mm = (float(step) for step in _macro(file, group, "PixelMeasuresSequence").PixelSpacing)
    axes = _macro(file, group, "PlaneOrientationSequence").ImageOrientationPatient
    along_row, along_column = np.reshape([float(value) for value in axes], (2, 3))
    first = [float(value) for value in _macro(file, group, "PlanePositionSequence").ImagePositionPatient]
    return np.stack((along_row * column_mm, along_column * row_mm, first), axis=1)


def _voxels_of(
    axes: np.ndarray, shape: Sequence[int], to_voxel: np.ndarray, image: Volume
) -> tuple[np.ndarray, ...]:
    """Return the voxels (z, y, x) of a frame's pixels, as indices that broadcast to (row, column)."""
    height, width = shape
    steps = to_voxel[:3, :3] @ axes[:, :2]
    first = to_voxel[:3, :3] @ axes[:, 2] + to_voxel[:3, 3]
    whole = np.rint(steps)
    far = np.abs(steps - whole) @ (width - 1, height - 1) + np.abs(first - np.rint(first))
    if (np.abs(whole).sum(axis=0) != 1).any() or far.max() > _TOLERANCE:
        raise GeometryError("its frames do not lie on slices of the image")
    rows, columns = np.ogrid[:height, :width]
    along_row, along_column = whole.T.astype(int)[:, :, None, None]
    indices = np.rint(first).astype(int)[:, None, None] + along_row * columns + along_column * rows
    size = np.array(image.shape[::-1])[:, None, None]
    if ((indices < 0) | (indices >= size)).any():
        raise GeometryError("its frames reach beyond the image")
    return tuple(indices[::-1])


def _regions(file: Dataset, image: Volume) -> Iterator[_NamedMask]:
    """Fill the contours of each region of a structure set."""
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
        yield number, names.get(number) or None, mask


def _fill(mask: np.ndarray, corners: np.ndarray) -> None:
    """Invert the voxels inside a contour (x, y, z): a contour inside another one makes a hole."""
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
