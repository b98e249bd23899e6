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
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from medsam2.errors import InputError

if TYPE_CHECKING:
    from pydicom import Dataset

Source: TypeAlias = "str | os.PathLike[str] | Sequence[str | os.PathLike[str] | Dataset]"
"""A folder of DICOM files, one file, or several files or datasets."""

_OF_AN_INSTANCE = (
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "FrameOfReferenceUID",
    "Rows",
    "Columns",
)
# Keyword -> where files of several frames have it.
_OF_A_SLICE = MappingProxyType(
    {
        "ImagePositionPatient": "PlanePositionSequence",
        "ImageOrientationPatient": "PlaneOrientationSequence",
        "PixelSpacing": "PixelMeasuresSequence",
    }
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
        InputError: A file that was named is not DICOM, or cannot be read.
    """
    from pydicom import Dataset
    from pydicom.errors import InvalidDicomError

    given: Sequence[str | os.PathLike[str] | Dataset]
    is_folder = isinstance(source, (str, os.PathLike)) and Path(source).is_dir()
    if isinstance(source, (str, os.PathLike)):
        given = sorted(one for one in Path(source).iterdir() if one.is_file()) if is_folder else [source]
    else:
        given = source
    slices: dict[str, list[SourceSlice]] = {}
    for one in given:
        try:
            with lenient_dicom():
                header = one[:_PIXELS] if isinstance(one, Dataset) else _read_header(Path(one))
                slices[str(header.get("SOPInstanceUID"))] = list(_slices_of(header))
        except (InvalidDicomError, AttributeError, EOFError, TypeError, ValueError, struct.error) as error:
            if is_folder and not isinstance(error, InputError):
                continue
            raise (
                error if isinstance(error, InputError) else InputError(f"{one}: not a DICOM file")
            ) from error
    return [part for parts in slices.values() for part in parts]


def _read_header(path: Path) -> Dataset:
    from pydicom import dcmread

    try:
        return dcmread(path, stop_before_pixels=True)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error


def _slices_of(header: Dataset) -> Iterator[SourceSlice]:
    """The slices an instance has; none if it is no image, or has no place in the patient."""
    from pydicom import Dataset

    if any(header.get(keyword) in (None, "") for keyword in _OF_AN_INSTANCE):
        return
    if header.SOPClassUID in _RESULTS:
        return
    groups = header.get("PerFrameFunctionalGroupsSequence")
    if groups is None and int(header.get("NumberOfFrames") or 1) > 1:
        return
    shared = header.get("SharedFunctionalGroupsSequence")
    for number, group in enumerate(groups or [None], start=1):
        place = Dataset()
        for keyword, sequence in _OF_A_SLICE.items():
            macros = [(one or {}).get(sequence) for one in (group, *(shared or ()))]
            holders = [header, *(macro[0] for macro in macros if macro)]
            element = next((one[keyword] for one in holders if one.get(keyword)), None)
            if element is None:
                return
            place.add(element)
        yield SourceSlice(header, None if group is None else number, place)


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
