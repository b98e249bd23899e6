"""Read the headers of DICOM files without their pixels: of scans to read, and of sources to refer to."""

from __future__ import annotations

import logging
import os
import struct
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from medsam2.errors import InputError, UnsupportedFormat, reading
from medsam2.imaging.dicom.elements import (
    PRIVATE_TAGS,
    UnusableElement,
    dataset_of,
    element_name,
    with_points,
)
from medsam2.imaging.dicom.facts import IMAGE, TAGS, Header, Plane, header_of

if TYPE_CHECKING:
    from pydicom import Dataset

_DEFLATED = "1.2.840.10008.1.2.1.99"
_PREAMBLE_SIZE = 128
_MARK = b"DICM"
# Files from before the preamble became a rule begin with group 2 or 8, little endian.
_OLD_STARTS = tuple(map(bytes, ((2, 0, 0, 0), (8, 0, 0, 0), (8, 0, 1, 0), (8, 0, 5, 0), (8, 0, 8, 0))))


_DAMAGE = (
    *(AttributeError, EOFError, LookupError, OverflowError, RuntimeError, TypeError, ValueError),
    struct.error,
)


def damage(*others: type[Exception]) -> tuple[type[Exception], ...]:
    """Return what pydicom and its decoders raise for a file that breaks the standard."""
    from pydicom.errors import BytesLengthException

    return (*_DAMAGE, BytesLengthException, *others)


@contextmanager
def lenient_dicom() -> Iterator[None]:
    """Take odd values as they are, and keep the libraries from quoting them: they may be the patient's."""
    from pydicom.config import disable_value_validation

    logger = logging.getLogger("highdicom")  # logs names of patients that it finds odd
    with ExitStack() as stack:
        stack.callback(logger.setLevel, logger.level)
        logger.setLevel(logging.ERROR)
        stack.enter_context(disable_value_validation())
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        yield


def looks_like_dicom(head: bytes) -> bool:
    """Tell from its first 132 bytes whether a file may be DICOM."""
    return head[_PREAMBLE_SIZE : _PREAMBLE_SIZE + 4] == _MARK or head[:4] in _OLD_STARTS


def read_header(path: Path) -> Header | None:
    """Read a file's header.

    Returns:
        None if it is no DICOM file.

    Raises:
        InputError: The file cannot be read.
        UnsupportedFormat: It is DICOM, but damaged, or an element that is needed cannot be understood.
    """
    from pydicom.errors import InvalidDicomError

    try:
        with reading(path), lenient_dicom():
            return _read_header(path)
    except InvalidDicomError:
        return None
    except UnusableElement as error:
        raise UnsupportedFormat(f"{path}: {error}") from error
    except InputError:
        raise
    except damage(MemoryError) as error:  # pydicom allocates an element before it sees that it is short
        raise UnsupportedFormat(f"{path}: the DICOM header is damaged") from error


def _read_header(path: Path) -> Header | None:
    from pydicom import dcmread
    from pydicom.tag import Tag

    with path.open("rb") as file:
        head = file.read(_PREAMBLE_SIZE + 4)
        if not looks_like_dicom(head):
            return None
        has_preamble = head[_PREAMBLE_SIZE:] == _MARK
        if has_preamble:
            _refuse_deflated(path)
        file.seek(0)
        tags = [*map(Tag, TAGS), *map(Tag, PRIVATE_TAGS)]
        dataset = dcmread(file, stop_before_pixels=True, specific_tags=tags, force=not has_preamble)
        is_at_end = not file.read(1)
    header = header_of(dataset, path) if has_preamble or "SOPClassUID" in dataset else None
    if header is None and has_preamble:
        raise UnsupportedFormat(
            f"{path}: {element_name('SOPClassUID')} and {element_name('Modality')} are missing, so that "
            "nothing says what it is"
        )
    if header is not None and IMAGE in header.sop_class_name:
        if is_at_end:
            raise UnsupportedFormat(f"{path}: ends before its pixels; it is truncated")
        if not header.rows:
            raise UnusableElement(f"{element_name('Rows')} and {element_name('Columns')} are missing")
    return header


def _refuse_deflated(path: Path) -> None:
    """Deflated files are unpacked as a whole, a thousand times their size, before anything can be checked."""
    from pydicom.filereader import read_file_meta_info

    if read_file_meta_info(path).get("TransferSyntaxUID") == _DEFLATED:
        raise UnsupportedFormat(f"{path}: is deflated as a whole; DICOM with compressed pixels is read")


@dataclass(frozen=True)
class SourceFrames:
    """Some frames of a file that holds several volumes."""

    file: Path | bytes
    """The file, or what it holds."""
    frames: tuple[int, ...]
    """From 0."""


_Instance: TypeAlias = "str | os.PathLike[str] | Dataset | SourceFrames"
Source: TypeAlias = "str | os.PathLike[str] | Sequence[str | os.PathLike[str] | Dataset | SourceFrames]"
"""A folder of DICOM files, one file, or several files, datasets or frames of files."""

_OF_AN_INSTANCE = (
    *("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"),
    *("Rows", "Columns"),
)
# Segmentations, binary or not and as label maps: they lie on the same grid as the scan they were made of.
_RESULTS = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
_PIXELS = 0x7FE0_0000  # first tag of the group that holds them


@dataclass(frozen=True, eq=False)
class SourceSlice:
    """One slice of a series: a file, or a frame of a file with several."""

    header: Dataset
    """The whole instance's, without pixels."""
    frame: int | None
    """Number of the frame, from 1; None for a file of one slice."""
    place: Dataset
    """`ImagePositionPatient`, `ImageOrientationPatient` and `PixelSpacing`, wherever the header has them."""

    @property
    def position(self) -> np.ndarray:
        """Middle of the first pixel, (3,) LPS mm."""
        return np.array([float(value) for value in self.place.ImagePositionPatient])

    @property
    def axes(self) -> np.ndarray:
        """Unit vectors (2, 3) in LPS: along a row, along a column."""
        return np.reshape([float(value) for value in self.place.ImageOrientationPatient], (2, 3))

    @property
    def pixel_mm(self) -> tuple[float, float]:
        """Distance of pixels (x, y): along a row, along a column."""
        row_mm, column_mm = self.place.PixelSpacing
        return float(column_mm), float(row_mm)


def read_slices(source: Source) -> list[SourceSlice]:
    """Read the slices of a source, each instance once; other files in a folder are skipped.

    Raises:
        InputError: A file that was named is not DICOM, or cannot be read, there is no slice, or slices at
            several places share one UID.
    """
    from pydicom.errors import InvalidDicomError

    given: Sequence[_Instance]
    name, is_folder = "the source", False
    if isinstance(source, (str, os.PathLike)):
        name, is_folder = os.fspath(source), Path(source).is_dir()
        given = sorted(one for one in Path(source).iterdir() if one.is_file()) if is_folder else [source]
    else:
        given = source
    slices: dict[str, list[SourceSlice]] = {}
    reasons: list[str] = []
    for one in given:
        try:
            with lenient_dicom():
                found = _slices_of(one)
        except (UnusableElement, UnsupportedFormat) as error:
            reasons.append(str(error))
            continue
        except InputError:
            raise
        except (InvalidDicomError, AttributeError, EOFError, TypeError, ValueError, struct.error) as error:
            if is_folder:
                continue
            raise InputError(f"{one}: not a DICOM file") from error
        if found:
            _check_uid(found, slices.get(found[0].header.SOPInstanceUID))
            slices[found[0].header.SOPInstanceUID] = found
    if not slices:
        reason = f": {reasons[0]}" if reasons else ""
        raise InputError(f"{name}: no DICOM slice with a position and a frame of reference is there{reason}")
    return [part for parts in slices.values() for part in parts]


def _check_uid(found: list[SourceSlice], other: list[SourceSlice] | None) -> None:
    """Refuse one UID for slices at several places: a result refers to them by it."""
    if other and not np.allclose(found[0].position, other[0].position):
        raise InputError(
            f"slices of the source share one {element_name('SOPInstanceUID')}, by which a result refers to "
            "them; give each slice a UID of its own"
        )


def _slices_of(one: _Instance) -> list[SourceSlice]:
    """The slices an instance has; none if it is no image.

    Raises:
        UnusableElement: It does not say where it lies, or what it belongs to.
        UnsupportedFormat: It has impossible sizes.
    """
    header = _whole_header(one)
    with_points(header)
    facts = header_of(header, Path())
    if facts is None or not facts.rows or facts.sop_class in _RESULTS:
        return []
    # What the header lacks and other elements say is written into it; a caller's elements stay.
    for keyword, kind, value in (
        ("SOPClassUID", "UI", facts.sop_class),
        ("SOPInstanceUID", "UI", facts.uid),
        ("Modality", "CS", facts.modality),
    ):
        if not header.get(keyword) and value:
            header.add_new(keyword, kind, value)
    for keyword in _OF_AN_INSTANCE:
        if header.get(keyword) in (None, ""):
            raise UnusableElement(f"{element_name(keyword)} is missing")
    if len(facts.planes) < facts.num_frames:
        return []
    frames = one.frames if isinstance(one, SourceFrames) else range(facts.num_frames)
    is_single = facts.num_frames == 1 and "PerFrameFunctionalGroupsSequence" not in header
    return [
        SourceSlice(header, None if is_single else frame + 1, _place(facts.planes[frame])) for frame in frames
    ]


def _whole_header(one: _Instance) -> Dataset:
    """Read everything but the pixels, into a dataset of our own."""
    from pydicom import Dataset, dcmread

    if isinstance(one, Dataset):
        header = one[:_PIXELS]
        if hasattr(one, "file_meta"):
            header.file_meta = one.file_meta
        return header
    file = one.file if isinstance(one, SourceFrames) else Path(one)
    with reading(Path("the source") if isinstance(file, bytes) else file):
        return dcmread(BytesIO(file) if isinstance(file, bytes) else file, stop_before_pixels=True)


def _place(plane: Plane) -> Dataset:
    """Write where a frame lies as elements of a data set."""
    from pydicom.valuerep import DSfloat

    place = dataset_of()
    for keyword, values in (
        ("ImagePositionPatient", plane.position),
        ("ImageOrientationPatient", plane.orientation),
        ("PixelSpacing", plane.spacing),
    ):
        if values is None:
            raise UnusableElement(f"{element_name(keyword)} is missing")
        setattr(place, keyword, [DSfloat(value, auto_format=True) for value in values])
    return place
