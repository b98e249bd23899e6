"""Read the headers of DICOM slices, one a file or several frames in one, leniently and without pixels."""

from __future__ import annotations

import logging
import os
import struct
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from medsam2.errors import InputError, UnsupportedFormat
from medsam2.imaging.dicom.elements import UnusableElement, element_name, with_points
from medsam2.imaging.dicom.facts import Header, Plane, header_of

if TYPE_CHECKING:
    from pydicom import Dataset


@dataclass(frozen=True)
class SourceFrames:
    """Some frames of a file that holds several volumes."""

    file: Path | bytes
    """The file, or what it holds."""
    frames: tuple[int, ...]
    """From 0."""


Source: TypeAlias = "str | os.PathLike[str] | Sequence[str | os.PathLike[str] | Dataset | SourceFrames]"
"""A folder of DICOM files, one file, or several files, datasets or frames of files."""

_OF_AN_INSTANCE = (
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "FrameOfReferenceUID",
    "Rows",
    "Columns",
)
# Segmentations, binary or not and as label maps: they lie on the same grid, beside what they were made of.
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
    """Read what is a slice, once for each instance; in a folder other files are passed over.

    Args:
        source: Datasets stay as they are.

    Raises:
        InputError: A file that was named is not DICOM, or cannot be read, there is no slice, or slices at
            several places share one UID.
    """
    from pydicom.errors import InvalidDicomError

    given: Sequence[str | os.PathLike[str] | Dataset | SourceFrames]
    is_folder = isinstance(source, (str, os.PathLike)) and Path(source).is_dir()
    if isinstance(source, (str, os.PathLike)):
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
        except (InvalidDicomError, AttributeError, EOFError, TypeError, ValueError, struct.error) as error:
            if is_folder and not isinstance(error, InputError):
                continue
            raise (
                error if isinstance(error, InputError) else InputError(f"{one}: not a DICOM file")
            ) from error
        if found:
            _check_uid(found, slices.get(found[0].header.SOPInstanceUID))
            slices[found[0].header.SOPInstanceUID] = found
    if not slices:
        named = os.fspath(source) if isinstance(source, (str, os.PathLike)) else "the source"
        reason = f": {reasons[0]}" if reasons else ""
        raise InputError(f"{named}: no DICOM slice with a position and a frame of reference is there{reason}")
    return [part for parts in slices.values() for part in parts]


def _check_uid(found: list[SourceSlice], other: list[SourceSlice] | None) -> None:
    """Refuse one UID for slices at several places: a result refers to them by it."""
    if other and not np.allclose(found[0].position, other[0].position):
        raise InputError(
            f"slices of the source share one {element_name('SOPInstanceUID')}, by which a result refers to "
            "them; give each slice a UID of its own"
        )


def _header_of(one: str | os.PathLike[str] | Dataset | SourceFrames) -> Dataset:
    """Read everything but the pixels, in a dataset of our own."""
    from pydicom import Dataset, dcmread

    if isinstance(one, Dataset):
        header = one[:_PIXELS]
        if hasattr(one, "file_meta"):
            header.file_meta = one.file_meta
        return header
    file = one.file if isinstance(one, SourceFrames) else Path(one)
    try:
        return dcmread(BytesIO(file) if isinstance(file, bytes) else file, stop_before_pixels=True)
    except OSError as error:
        raise InputError(f"{one}: cannot be read: {error.strerror or error}") from error


def _slices_of(one: str | os.PathLike[str] | Dataset | SourceFrames) -> list[SourceSlice]:
    """The slices an instance has; none if it is no image.

    Raises:
        UnusableElement: It does not say where it lies, or what it belongs to.
        UnsupportedFormat: It has impossible sizes.
    """
    header = _header_of(one)
    with_points(header)
    facts = header_of(header, Path())
    if facts is None or not facts.rows or facts.sop_class in _RESULTS:
        return []
    _complete(header, facts)
    for keyword in _OF_AN_INSTANCE:
        if header.get(keyword) in (None, ""):
            raise UnusableElement(f"{element_name(keyword)} is missing")
    if len(facts.planes) < facts.num_frames:
        return []
    wanted = one.frames if isinstance(one, SourceFrames) else range(facts.num_frames)
    is_single = facts.num_frames == 1 and "PerFrameFunctionalGroupsSequence" not in header
    found = []
    for frame in wanted:
        place = _place(facts.planes[frame])
        found.append(SourceSlice(header, None if is_single else frame + 1, place))
    return found


def _complete(header: Dataset, facts: Header) -> None:
    """Write into a header what it lacks and other elements say, and leave elements of a caller alone."""
    for keyword, kind, value in (
        ("SOPClassUID", "UI", facts.sop_class),
        ("SOPInstanceUID", "UI", facts.uid),
        ("Modality", "CS", facts.modality),
    ):
        if not header.get(keyword) and value:
            header.add_new(keyword, kind, value)


def _place(plane: Plane) -> Dataset:
    from pydicom import Dataset
    from pydicom.valuerep import DSfloat

    place = Dataset()
    for keyword, values in (
        ("ImagePositionPatient", plane.position),
        ("ImageOrientationPatient", plane.orientation),
        ("PixelSpacing", plane.spacing),
    ):
        if values is None:
            raise UnusableElement(f"{element_name(keyword)} is missing")
        setattr(place, keyword, [DSfloat(value, auto_format=True) for value in values])
    return place


@contextmanager
def lenient_dicom() -> Iterator[None]:
    """Take values as they are, and keep the libraries from quoting those that break the standard's rules."""
    from pydicom.config import disable_value_validation

    logger = logging.getLogger("highdicom")  # logs names of patients that it finds odd
    with ExitStack() as stack:
        stack.callback(logger.setLevel, logger.level)
        logger.setLevel(logging.ERROR)
        stack.enter_context(disable_value_validation())
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        yield


def require_highdicom() -> None:
    """Make sure that DICOM files can be written.

    Raises:
        InputError: highdicom is not installed.
    """
    try:
        import_module("highdicom")
    except ImportError as error:
        raise InputError("writing DICOM needs highdicom: pip install 'medsam2[dicom]'") from error
