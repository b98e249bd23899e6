"""Read what a DICOM file says about its images, without their pixels."""

import math
import struct
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from medsam2.errors import InputError, UnsupportedFormat

if TYPE_CHECKING:
    from pydicom import Dataset

# Objects with rows and columns that are no scan: https://dicom.nema.org/medical/dicom/current PS3.4, B.5
_NO_SCANS = {
    "1.2.840.10008.5.1.4.1.1.481.2",  # RT Dose
    "1.2.840.10008.5.1.4.1.1.66.4",  # Segmentation
    "1.2.840.10008.5.1.4.1.1.66.7",  # Label Map Segmentation
    "1.2.840.10008.5.1.4.1.1.30",  # Parametric Map
}
_DIRECTORY = "1.2.840.10008.1.3.10"
_IMAGE = "Image Storage"  # how the names of all classes with pixels for looking at end
_DEFLATED = "1.2.840.10008.1.2.1.99"
_PREAMBLE_SIZE = 128
_MARK = b"DICM"
# Files from before the preamble was asked for begin with group 2 or 8, little endian.
_OLD_STARTS = (
    b"\x02\x00\x00\x00",
    b"\x08\x00\x00\x00",
    b"\x08\x00\x01\x00",
    b"\x08\x00\x05\x00",
    b"\x08\x00\x08\x00",
)
_LONGEST_TEXT = 64  # of a UID, and of all other texts that are read here
_CENTIMETRES = 3  # Physical Units X Direction
_TAGS = (
    *("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "SeriesNumber", "InstanceNumber", "Modality"),
    *("ImageType", "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation"),
    *(
        "BitsAllocated",
        "BitsStored",
        "PixelRepresentation",
        "ImagePositionPatient",
        "ImageOrientationPatient",
    ),
    *("PixelSpacing", "ImagerPixelSpacing", "SliceThickness", "SpacingBetweenSlices", "RescaleSlope"),
    *(
        "RescaleIntercept",
        "ModalityLUTSequence",
        "WindowCenter",
        "WindowWidth",
        "SequenceOfUltrasoundRegions",
    ),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
)
# Where a multi-frame file keeps what a single image has at its top.
_GROUPS = (
    *("PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence"),
    *("PixelValueTransformationSequence", "FrameVOILUTSequence"),
)


@dataclass(frozen=True, kw_only=True)
class Plane:
    """What a file says of its image, or of one of its frames."""

    position: tuple[float, ...] | None
    """LPS position of the first pixel's centre, (x, y, z) in mm."""
    orientation: tuple[float, ...] | None
    """Six numbers: the LPS directions in which columns and rows are counted."""
    spacing: tuple[float, ...] | None
    """Distance between rows and between columns, (y, x) in mm."""
    thickness: float | None
    """Distance to the next slice, or if that is not told the slice's own thickness, in mm."""
    slope: float
    """Stored values times this ..."""
    inter: float
    """... plus this are intensities, Hounsfield units in CT."""
    window: tuple[float, float] | None
    """(lower, upper) of intensities that the file asks to be shown with."""


@dataclass(frozen=True, kw_only=True)
class Header:
    """What matters here of one file."""

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
    """UID of the way that the file is encoded."""
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
    has_table: bool
    """Intensities are looked up in a table, not scaled."""
    planes: tuple[Plane, ...]
    """One for each frame; a single one for all where the file tells their places in no way that we know."""

    @property
    def is_scan(self) -> bool:
        """Whether it is an image, and not made from one."""
        return self.rows > 0 and self.sop_class not in _NO_SCANS

    @property
    def slices(self) -> "list[Slice]":
        """Its planes, each with the number of its frame."""
        return [Slice(self, index, plane) for index, plane in enumerate(self.planes)]


@dataclass(frozen=True, eq=False)
class Slice:
    """One image among the files: a frame of one."""

    file: Header
    frame: int
    """From 0."""
    plane: Plane


def damage(*others: type[Exception]) -> tuple[type[Exception], ...]:
    """Return what pydicom and its decoders raise over a file that is not as the standard has it."""
    from pydicom.errors import BytesLengthException

    return (
        AttributeError,
        EOFError,
        LookupError,
        OverflowError,
        RuntimeError,
        TypeError,
        ValueError,
        struct.error,
        BytesLengthException,
        *others,
    )


@contextmanager
def quiet_pydicom() -> Iterator[None]:
    """Keep pydicom from warning of odd values, which it quotes: they may be the patient's."""
    from pydicom.config import disable_value_validation

    with warnings.catch_warnings(), disable_value_validation():
        warnings.simplefilter("ignore")
        yield


def require_pydicom() -> None:
    """Say what is missing where DICOM cannot be read.

    Raises:
        InputError: The extra `dicom` is not installed.
    """
    try:
        import pydicom  # noqa: F401
    except ImportError as error:
        raise InputError("reading DICOM needs pydicom: pip install 'medsam2[dicom]'") from error


def looks_like_dicom(head: bytes) -> bool:
    """Tell from its first 132 bytes whether a file may be DICOM."""
    return head[_PREAMBLE_SIZE : _PREAMBLE_SIZE + 4] == _MARK or head[:4] in _OLD_STARTS


def read_header(path: Path) -> Header | None:
    """Read a file's header.

    Returns:
        None if it is no DICOM file, or a DICOMDIR.

    Raises:
        InputError: The file cannot be read.
        UnsupportedFormat: It is DICOM, but damaged.
    """
    from pydicom import dcmread
    from pydicom.errors import InvalidDicomError

    try:
        with path.open("rb") as file, quiet_pydicom():
            head = file.read(_PREAMBLE_SIZE + 4)
            if not looks_like_dicom(head):
                return None
            has_preamble = head[_PREAMBLE_SIZE:] == _MARK
            if has_preamble:
                _refuse_deflated(path)
            file.seek(0)
            dataset = dcmread(
                file, stop_before_pixels=True, specific_tags=list(_TAGS), force=not has_preamble
            )
            is_at_end = not file.read(1)
            header = _header(dataset, path) if "SOPClassUID" in dataset else None
            if header is None and has_preamble and not _is_directory(dataset):
                raise UnsupportedFormat(f"{path}: the DICOM header does not say what it is; it is damaged")
            if header is not None and is_at_end and _IMAGE in header.sop_class_name:
                raise UnsupportedFormat(f"{path}: ends before its pixels; it is truncated")
            return header
    except InvalidDicomError:
        return None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    except UnsupportedFormat:
        raise
    except damage(MemoryError) as error:  # room for an element is made before it is seen to be short
        raise UnsupportedFormat(f"{path}: the DICOM header is damaged") from error


def _refuse_deflated(path: Path) -> None:
    """Deflated files are unpacked as a whole, a thousand times their size, before anything can be checked."""
    from pydicom.filereader import read_file_meta_info

    if read_file_meta_info(path).get("TransferSyntaxUID") == _DEFLATED:
        raise UnsupportedFormat(f"{path}: is deflated as a whole; DICOM with compressed pixels is read")


def _is_directory(dataset: "Dataset") -> bool:
    """Whether this is a DICOMDIR, the list of what is on a disc."""
    return _meta(dataset, "MediaStorageSOPClassUID") == _DIRECTORY


def _meta(dataset: "Dataset", name: str) -> str:
    return _text(getattr(dataset, "file_meta", {}).get(name, ""))


def _text(value: object) -> str:
    """Return an element's text as it can stand in a sentence; damaged ones hold anything."""
    text = str(value)
    if len(text) > _LONGEST_TEXT or not text.isprintable():
        return "".join(letter if letter.isprintable() else "?" for letter in text[:_LONGEST_TEXT])
    return text


def _header(dataset: "Dataset", path: Path) -> Header:
    shared = _item(dataset, "SharedFunctionalGroupsSequence")
    frames = dataset.get("PerFrameFunctionalGroupsSequence") or []
    num_frames = int(dataset.get("NumberOfFrames") or 1)
    rows, columns = int(dataset.get("Rows") or 0), int(dataset.get("Columns") or 0)
    if num_frames < 1 or (rows > 0) != (columns > 0):
        raise UnsupportedFormat(
            f"{path}: the header claims {num_frames} frames of {rows} x {columns} pixels; it is damaged"
        )
    places = [_places(dataset, shared, frame) for frame in frames] or [[dataset]]
    bits = int(dataset.get("BitsAllocated") or 16)
    return Header(
        path=path,
        sop_class=_text(dataset.SOPClassUID),
        sop_class_name=_text(dataset.SOPClassUID.name),
        uid=_text(dataset.get("SOPInstanceUID", "")),
        series=_text(dataset.get("SeriesInstanceUID", "")),
        series_number=_integer(dataset.get("SeriesNumber")),
        instance_number=_integer(dataset.get("InstanceNumber")) or 0,
        modality=_text(dataset.get("Modality") or ""),
        image_type=tuple(_text(word).upper() for word in _values(dataset.get("ImageType"))),
        transfer_syntax=_meta(dataset, "TransferSyntaxUID"),
        rows=rows,
        columns=columns,
        num_frames=num_frames,
        num_samples=int(dataset.get("SamplesPerPixel") or 1),
        photometric=_text(dataset.get("PhotometricInterpretation") or "MONOCHROME2"),
        bits_allocated=bits,
        bits_stored=int(dataset.get("BitsStored") or bits),
        is_signed=bool(dataset.get("PixelRepresentation")),
        has_table="ModalityLUTSequence" in dataset,
        planes=tuple(_plane(place) for place in places[:num_frames]),
    )


def _places(dataset: "Dataset", shared: "Dataset | None", frame: "Dataset") -> list["Dataset"]:
    """Return where to look for what a frame says of itself, the nearest first."""
    found = [_item(holder, name) for holder in (frame, shared) if holder is not None for name in _GROUPS]
    return [*(item for item in found if item is not None), dataset]


def _plane(places: "list[Dataset]") -> Plane:
    thickness = _numbers(places, "SpacingBetweenSlices", 1) or _numbers(places, "SliceThickness", 1)
    return Plane(
        position=_numbers(places, "ImagePositionPatient", 3),
        orientation=_numbers(places, "ImageOrientationPatient", 6),
        spacing=_numbers(places, "PixelSpacing", 2)
        or _numbers(places, "ImagerPixelSpacing", 2)
        or _ultrasound_spacing(places[-1]),
        thickness=abs(thickness[0]) or None if thickness else None,
        slope=(_numbers(places, "RescaleSlope", 1) or (1.0,))[0],
        inter=(_numbers(places, "RescaleIntercept", 1) or (0.0,))[0],
        window=_window(places),
    )


def _window(places: "list[Dataset]") -> tuple[float, float] | None:
    """Return the limits of the first window, width and centre as every viewer takes them.

    The standard's own formula lies half a unit beside it.
    """
    centres, widths = (_first(places, name) for name in ("WindowCenter", "WindowWidth"))
    if not centres or not widths:
        return None
    centre, width = float(str(centres[0])), float(str(widths[0]))
    lower, upper = centre - width / 2, centre + width / 2
    # Not of the width alone: far from zero both ends may be one number.
    return (lower, upper) if math.isfinite(lower) and math.isfinite(upper) and lower < upper else None


def _ultrasound_spacing(dataset: "Dataset") -> tuple[float, ...] | None:
    """Return the scale of an ultrasound picture with one region, (y, x) in mm."""
    regions = dataset.get("SequenceOfUltrasoundRegions") or []
    if len(regions) != 1:
        return None
    units = [regions[0].get(f"PhysicalUnits{axis}Direction") for axis in "YX"]
    steps = [abs(float(regions[0].get(f"PhysicalDelta{axis}") or 0)) * 10 for axis in "YX"]
    return tuple(steps) if units == [_CENTIMETRES] * 2 and all(steps) else None


def _item(dataset: "Dataset", name: str) -> "Dataset | None":
    sequence = dataset.get(name)
    return sequence[0] if sequence else None


def _first(places: "Iterable[Dataset]", name: str) -> list[object]:
    """Return the values of an element where it is first found with any."""
    return next((values for place in places if (values := _values(place.get(name)))), [])


def _numbers(places: "Iterable[Dataset]", name: str, length: int) -> tuple[float, ...] | None:
    """Return as many numbers as there should be; of a single one the first of those there are."""
    values = tuple(float(str(value)) for value in _first(places, name))
    has_them = len(values) == length or length == 1 <= len(values)
    return values if has_them and all(math.isfinite(value) for value in values) else None


def _values(value: object) -> list[object]:
    """Return the values of an element, of which there may be none, one or several."""
    if value is None or value == "":
        return []
    is_several = isinstance(value, Iterable) and not isinstance(value, str)
    return list(value) if is_several else [value]  # type: ignore[call-overload]


def _integer(value: object) -> int | None:
    try:
        return int(str(value))
    except ValueError:
        return None
