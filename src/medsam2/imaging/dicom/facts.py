"""Read from a DICOM data set where its images lie, how they are scaled and to which series they belong."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medsam2.errors import UnsupportedFormat
from medsam2.imaging.dicom.elements import (
    TRAIT_GROUPS,
    TRAIT_TAGS,
    Trait,
    UnusableElement,
    decimal,
    element_name,
    integer,
    number_or_none,
    numbers,
    text,
    traits_of,
    values,
)

if TYPE_CHECKING:
    from pydicom import Dataset

IMAGE = "Image Storage"
"""End of the names of all classes of pictures."""

# Objects with rows and columns that are no scan: https://dicom.nema.org/medical/dicom/current PS3.4, B.5
_NO_SCANS = {
    "1.2.840.10008.5.1.4.1.1.481.2",  # RT Dose
    "1.2.840.10008.5.1.4.1.1.66.4",  # Segmentation
    "1.2.840.10008.5.1.4.1.1.66.7",  # Label Map Segmentation
    "1.2.840.10008.5.1.4.1.1.30",  # Parametric Map
}
# Class of images -> modality, and back: each is inferred from the other where it is missing.
_MODALITY_OF_CLASS = {
    "1.2.840.10008.5.1.4.1.1.2": "CT",
    "1.2.840.10008.5.1.4.1.1.2.1": "CT",
    "1.2.840.10008.5.1.4.1.1.2.2": "CT",
    "1.2.840.10008.5.1.4.1.1.4": "MR",
    "1.2.840.10008.5.1.4.1.1.4.1": "MR",
    "1.2.840.10008.5.1.4.1.1.4.4": "MR",
    "1.2.840.10008.5.1.4.1.1.128": "PT",
    "1.2.840.10008.5.1.4.1.1.130": "PT",
    "1.2.840.10008.5.1.4.1.1.128.1": "PT",
    "1.2.840.10008.5.1.4.1.1.20": "NM",
}
_CLASS_OF_MODALITY = {
    modality: sop_class for sop_class, modality in reversed(list(_MODALITY_OF_CLASS.items()))
}
_CENTIMETRES = 3  # Physical Units X Direction
_BITS = (8, 16, 32)  # that a number may be stored in
TAGS = (
    *("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "SeriesNumber", "InstanceNumber", "Modality"),
    *("ImageType", "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
    *("PixelPaddingValue", "PixelPaddingRangeLimit", "ImagePositionPatient", "ImageOrientationPatient"),
    *("PixelSpacing", "ImagerPixelSpacing", "SliceThickness", "SpacingBetweenSlices", "RescaleSlope"),
    *("RescaleIntercept", "ModalityLUTSequence", "WindowCenter", "WindowWidth"),
    *("SequenceOfUltrasoundRegions", "DetectorInformationSequence", "SliceVector"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
    *TRAIT_TAGS,
)
"""Elements that are read from a file."""
# Where a multi-frame file keeps elements that a single image has at its top level.
_GROUPS = (
    *("PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence"),
    *("PixelValueTransformationSequence", "FrameVOILUTSequence"),
    *TRAIT_GROUPS,
)


@dataclass(frozen=True, kw_only=True)
class Plane:
    """What a file says about its image, or about one of its frames."""

    position: tuple[float, ...] | None
    """LPS position of the first pixel's centre, (x, y, z) in mm."""
    orientation: tuple[float, ...] | None
    """Six numbers: the LPS directions in which columns and rows are counted."""
    spacing: tuple[float, ...] | None
    """Distance between rows and between columns, (y, x) in mm."""
    thickness: float | None
    """Distance to the next slice, or where the file does not say it the slice's own thickness, in mm."""
    slope: float | None
    """Stored values times this ..."""
    inter: float | None
    """... plus this are intensities, Hounsfield units in CT; None where the file does not say."""
    window: tuple[float, float] | None
    """(lower, upper) of the file's own window, in intensities."""
    traits: tuple[tuple[str, Trait], ...] = ()
    """Keywords and values that tell it from other images at its place."""

    @property
    def is_placed(self) -> bool:
        """Whether the file says where the image lies."""
        return self.position is not None and self.orientation is not None


@dataclass(frozen=True, kw_only=True)
class Header:
    """What is needed of one file's header."""

    path: Path
    sop_class: str
    """UID of the kind of object."""
    sop_class_name: str
    """Its name in the standard."""
    uid: str
    """Of this object."""
    series: str
    """UID of the series; empty where there is none."""
    series_number: int | None
    instance_number: int
    modality: str
    image_type: tuple[str, ...]
    transfer_syntax: str
    """UID of the encoding of the file."""
    rows: int
    """0 in an object without pixels."""
    columns: int
    num_frames: int
    num_samples: int
    """Numbers per pixel; 3 in colour."""
    photometric: str
    bits_allocated: int
    bits_stored: int
    is_signed: bool
    padding: tuple[int, int] | None
    """Lowest and highest stored value of pixels where nothing was measured."""
    has_table: bool
    """Intensities are looked up in a table, not scaled."""
    planes: tuple[Plane, ...]
    """One for each frame; a single one for all frames if their places cannot be read."""
    inferred: tuple[str, ...]
    """Names of required elements that are missing, and whose values were inferred from other elements."""

    @property
    def is_scan(self) -> bool:
        """Whether it is an image, and not made from one."""
        return self.rows > 0 and self.sop_class not in _NO_SCANS

    @property
    def slices(self) -> list[Slice]:
        """Its planes, each with the number of its frame."""
        return [Slice(self, index, plane) for index, plane in enumerate(self.planes)]


@dataclass(frozen=True, eq=False)
class Slice:
    """One image: a frame of a file."""

    file: Header
    frame: int
    """From 0."""
    plane: Plane


def header_of(dataset: Dataset, path: Path) -> Header | None:
    """Read a header from a data set.

    Args:
        dataset: With the elements of `TAGS`.
        path: Of the file, for the header and for errors.

    Returns:
        None if neither class nor modality is known.

    Raises:
        UnusableElement: A required element is missing, or cannot be understood.
        UnsupportedFormat: Sizes are impossible.
    """
    inferred: list[str] = []
    sop_class, modality = _kind(dataset, inferred)
    if not sop_class and not modality:
        return None
    num_frames = integer(dataset, "NumberOfFrames") or 1
    rows, columns = integer(dataset, "Rows") or 0, integer(dataset, "Columns") or 0
    if num_frames < 1 or (rows > 0) != (columns > 0):
        raise UnsupportedFormat(
            f"{path}: the header claims {num_frames} frames of {rows} x {columns} pixels; it is damaged"
        )
    is_image = rows > 0 and sop_class not in _NO_SCANS
    bits, bits_stored = _bits(dataset, inferred) if is_image else (16, 16)
    is_signed = _is_signed(dataset) if is_image else False
    photometric = text(dataset.get("PhotometricInterpretation") or "")
    num_samples = integer(dataset, "SamplesPerPixel") or (1 if photometric.startswith("MONO") else 0)
    if is_image and (not photometric or not integer(dataset, "SamplesPerPixel")):
        if num_samples == 0 and photometric:
            num_samples = 3
        missing = "PhotometricInterpretation" if not photometric else "SamplesPerPixel"
        inferred.append(element_name(missing))
    if is_image and (uid := text(dataset.get("SOPInstanceUID") or "")) == "":
        inferred.append(element_name("SOPInstanceUID"))
        uid = meta(dataset, "MediaStorageSOPInstanceUID")
    return Header(
        path=path,
        sop_class=sop_class,
        sop_class_name=_class_name(sop_class),
        uid=uid if is_image else text(dataset.get("SOPInstanceUID") or ""),
        series=text(dataset.get("SeriesInstanceUID") or ""),
        series_number=_integer_or_none(dataset, "SeriesNumber"),
        instance_number=_integer_or_none(dataset, "InstanceNumber") or 0,
        modality=modality,
        image_type=tuple(text(word).upper() for word in values(dataset, "ImageType")),
        transfer_syntax=meta(dataset, "TransferSyntaxUID"),
        rows=rows,
        columns=columns,
        num_frames=num_frames,
        num_samples=num_samples or 1,
        photometric=photometric or "MONOCHROME2",
        bits_allocated=bits,
        bits_stored=bits_stored,
        is_signed=is_signed,
        padding=_padding(dataset, is_signed) if is_image else None,
        has_table="ModalityLUTSequence" in dataset,
        planes=_planes(dataset, num_frames) if is_image else (),
        inferred=tuple(inferred),
    )


def meta(dataset: Dataset, keyword: str) -> str:
    """Return a text of the group before the data set."""
    return text(getattr(dataset, "file_meta", {}).get(keyword, ""))


def _kind(dataset: Dataset, inferred: list[str]) -> tuple[str, str]:
    """Return the class and the modality; if one is missing, it is inferred."""
    sop_class, modality = (text(dataset.get(name) or "") for name in ("SOPClassUID", "Modality"))
    if not sop_class:
        sop_class = meta(dataset, "MediaStorageSOPClassUID") or _CLASS_OF_MODALITY.get(modality, "")
        if sop_class or modality:
            inferred.append(element_name("SOPClassUID"))
    if not modality and sop_class in _MODALITY_OF_CLASS:
        modality = _MODALITY_OF_CLASS[sop_class]
        inferred.append(element_name("Modality"))
    return sop_class, modality


def _class_name(sop_class: str) -> str:
    from pydicom.uid import UID

    return text(UID(sop_class).name) if sop_class else "object of no class"


def _bits(dataset: Dataset, inferred: list[str]) -> tuple[int, int]:
    """Return how many bits a stored number takes, and how many of them it uses."""
    allocated, stored = integer(dataset, "BitsAllocated"), integer(dataset, "BitsStored")
    highest = integer(dataset, "HighBit")
    if allocated is None:
        known = stored or (None if highest is None else highest + 1)
        if known is None:
            raise UnusableElement(
                f"{element_name('BitsAllocated')} is missing; it says how pixels are stored"
            )
        allocated = next((bits for bits in _BITS if bits >= known), known)
        inferred.append(element_name("BitsAllocated"))
    if stored is None:
        stored = allocated if highest is None else highest + 1
        inferred.append(element_name("BitsStored"))
    return allocated, stored


def _is_signed(dataset: Dataset) -> bool:
    sign = integer(dataset, "PixelRepresentation")
    if sign is None:
        raise UnusableElement(
            f"{element_name('PixelRepresentation')} is missing; it must be 1 where stored numbers have a "
            "sign, else 0"
        )
    return bool(sign)


def _padding(dataset: Dataset, is_signed: bool) -> tuple[int, int] | None:
    try:
        ends = [integer(dataset, name) for name in ("PixelPaddingValue", "PixelPaddingRangeLimit")]
    except UnusableElement:
        return None
    # Some write it with the other sign: 65535 for -1, or 32768 and above for numbers with a sign.
    there = [_as_stored(end, is_signed) for end in ends if end is not None]
    return (min(there), max(there)) if ends[0] is not None else None


def _as_stored(value: int, is_signed: bool) -> int:
    if is_signed:
        return value - 0x10000 if 0x8000 <= value <= 0xFFFF else value
    return value + 0x10000 if -0x8000 <= value < 0 else value


def _planes(dataset: Dataset, num_frames: int) -> tuple[Plane, ...]:
    shared = _item(dataset, "SharedFunctionalGroupsSequence")
    frames = dataset.get("PerFrameFunctionalGroupsSequence") or []
    places = [_places(dataset, shared, frame) for frame in frames] or [[dataset]]
    planes = tuple(_plane(place, number) for number, place in enumerate(places[:num_frames]))
    detector = _item(dataset, "DetectorInformationSequence")
    if frames or detector is None or num_frames < 2:
        return planes
    return _detected(dataset, detector, planes[0], num_frames)


def _detected(dataset: Dataset, detector: Dataset, first: Plane, num_frames: int) -> tuple[Plane, ...]:
    """Return the frames of nuclear medicine: the file has the place of the first, and their distance."""
    position = numbers([detector, dataset], "ImagePositionPatient", 3)
    orientation = numbers([detector, dataset], "ImageOrientationPatient", 6)
    step = numbers([dataset], "SpacingBetweenSlices", 1)
    slice_numbers = [int(str(value)) for value in values(dataset, "SliceVector")] or list(
        range(1, num_frames + 1)
    )
    if position is None or orientation is None or step is None or len(slice_numbers) < num_frames:
        return (first,)
    normal = np.cross(orientation[:3], orientation[3:])
    return tuple(
        replace(
            first,
            position=tuple((position + normal * step[0] * (slice_numbers[frame] - 1)).tolist()),
            orientation=orientation,
            traits=traits_of([dataset], frame),
        )
        for frame in range(num_frames)
    )


def _places(dataset: Dataset, shared: Dataset | None, frame: Dataset) -> list[Dataset]:
    """Return the data sets that describe a frame, the nearest first."""
    found = [_item(holder, name) for holder in (frame, shared) if holder is not None for name in _GROUPS]
    return [*(item for item in found if item is not None), dataset]


def _plane(places: list[Dataset], frame: int) -> Plane:
    thickness = number_or_none(places, "SpacingBetweenSlices") or number_or_none(places, "SliceThickness")
    slope, inter = (numbers(places, name, 1) for name in ("RescaleSlope", "RescaleIntercept"))
    return Plane(
        position=numbers(places, "ImagePositionPatient", 3),
        orientation=numbers(places, "ImageOrientationPatient", 6),
        spacing=numbers(places, "PixelSpacing", 2)
        or numbers(places, "ImagerPixelSpacing", 2)
        or _ultrasound_spacing(places[-1]),
        thickness=abs(thickness) if thickness else None,
        slope=None if slope is None else slope[0],
        inter=None if inter is None else inter[0],
        window=_window(places),
        traits=traits_of(places, frame),
    )


def _window(places: list[Dataset]) -> tuple[float, float] | None:
    """Return the limits of the first window, as viewers compute them from width and centre.

    The limits of the standard's own formula differ by half a unit.
    """
    centre, width = (number_or_none(places, name) for name in ("WindowCenter", "WindowWidth"))
    if centre is None or width is None:
        return None
    lower, upper = centre - width / 2, centre + width / 2
    # A positive width is not enough: far from zero, both limits may round to one number.
    return (lower, upper) if math.isfinite(lower) and math.isfinite(upper) and lower < upper else None


def _ultrasound_spacing(dataset: Dataset) -> tuple[float, ...] | None:
    """Return the scale of an ultrasound picture with one region, (y, x) in mm."""
    regions = dataset.get("SequenceOfUltrasoundRegions") or []
    if len(regions) != 1:
        return None
    units = [regions[0].get(f"PhysicalUnits{axis}Direction") for axis in "YX"]
    steps = [abs(decimal(regions[0].get(f"PhysicalDelta{axis}") or 0)) * 10 for axis in "YX"]
    return tuple(steps) if units == [_CENTIMETRES] * 2 and all(steps) else None


def _item(dataset: Dataset, name: str) -> Dataset | None:
    sequence = dataset.get(name)
    return sequence[0] if sequence else None


def _integer_or_none(dataset: Dataset, keyword: str) -> int | None:
    try:
        return integer(dataset, keyword)
    except UnusableElement:
        return None
