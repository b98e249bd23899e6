"""Find the DICOM slices that a label volume was drawn on, in whatever order and orientation either is."""

from __future__ import annotations

import logging
import os
import struct
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from medsam2.errors import GeometryError, InputError
from medsam2.imaging.geometry import flip_ras_lps
from medsam2.imaging.volume import Volume

if TYPE_CHECKING:
    from pydicom import Dataset

Source: TypeAlias = "str | os.PathLike[str] | Sequence[str | os.PathLike[str] | Dataset]"
"""A folder of DICOM files, one file, or several files or datasets."""

_NEEDED = (
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "FrameOfReferenceUID",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "Rows",
    "Columns",
)
_SAME_IN_A_STACK = ("SeriesInstanceUID", "FrameOfReferenceUID", "Rows", "Columns")
_ALIKE_IN_A_STACK = MappingProxyType({"ImageOrientationPatient": 1e-3, "PixelSpacing": 1e-4})
_PIXELS = 0x7FE0_0000  # first tag of the group that holds them
# Cosine of 0.26 degrees: directions are written with six decimals, and NIfTI's quaternions with as many.
_PARALLEL = 1 - 1e-5
_SAME_SPACING = 1e-3
# Of a step or of a pixel. Positions are rounded, and a volume has one step for all of them.
_SAME_PLACE = 0.25
# The reader stacks slices upright below a gantry's tilt of half a degree.
_LEAN = np.tan(np.radians(0.5))

_TYPE_2_BLANKS = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "AccessionNumber",
    "ReferringPhysicianName",
)
_SEXES = ("M", "F", "O")


@dataclass(frozen=True, eq=False)
class MatchedSeries:
    """Labels laid out as the slices of a DICOM series are."""

    headers: tuple[Dataset, ...]
    """One a slice, without pixels; the first has every patient and study field, blank where it had none."""
    array: np.ndarray
    """(slice, row, column), a view of the labels: `array[k]` belongs to `headers[k]`."""


def match(source: Source, labels: Volume) -> MatchedSeries:
    """Find the slices of a source on which labels lie; their order, and mirrored axes, do not matter.

    Args:
        source: It may hold other series, and more slices than the labels have. Pixels are not read.
        labels: On the grid of a series or of a part of it, in any order of axes.

    Raises:
        InputError: There is no DICOM slice, or several series fit.
        GeometryError: No series fits the labels' grid; the message says why not.
    """
    stacks = _stacks(_headers(source))
    if not stacks:
        raise InputError(
            f"{_named(source)}: no single-frame DICOM slice with a position and a frame of reference is there"
        )
    fits = [_fit(stack, labels) for stack in stacks]
    found = [fit for fit in fits if isinstance(fit, MatchedSeries)]
    if len(found) > 1:
        raise InputError(
            f"{_named(source)}: {len(found)} series lie on the grid of the labels; give the files of one"
        )
    if not found:
        raise GeometryError(f"{_named(source)}: not the series of these labels: {fits[0]}")
    with lenient_dicom():
        return MatchedSeries((_presentable(found[0].headers[0]), *found[0].headers[1:]), found[0].array)


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


def require_pydicom() -> None:
    """Make sure that DICOM files can be written.

    Raises:
        InputError: pydicom or highdicom is not installed.
    """
    try:
        for name in ("pydicom", "highdicom"):
            import_module(name)
    except ImportError as error:
        raise InputError("DICOM files need pydicom and highdicom: pip install 'medsam2[dicom]'") from error


def _named(source: Source) -> str:
    return os.fspath(source) if isinstance(source, (str, os.PathLike)) else "the source"


def _headers(source: Source) -> list[Dataset]:
    """Read what is DICOM, once for each instance; in a folder other files are passed over."""
    from pydicom import Dataset
    from pydicom.errors import InvalidDicomError

    given: Sequence[str | os.PathLike[str] | Dataset]
    is_folder = isinstance(source, (str, os.PathLike)) and Path(source).is_dir()
    if isinstance(source, (str, os.PathLike)):
        given = sorted(one for one in Path(source).iterdir() if one.is_file()) if is_folder else [source]
    else:
        given = source
    headers: dict[str, Dataset] = {}
    for one in given:
        try:
            with lenient_dicom():
                header = one[:_PIXELS] if isinstance(one, Dataset) else _read_header(Path(one))
                is_slice = all(header.get(keyword) not in (None, "") for keyword in _NEEDED)
        except (InvalidDicomError, AttributeError, EOFError, TypeError, ValueError, struct.error) as error:
            if is_folder and not isinstance(error, InputError):
                continue
            raise (
                error if isinstance(error, InputError) else InputError(f"{one}: not a DICOM file")
            ) from error
        if is_slice:
            headers[str(header.SOPInstanceUID)] = header
    return list(headers.values())


def _read_header(path: Path) -> Dataset:
    from pydicom import dcmread

    try:
        return dcmread(path, stop_before_pixels=True)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error


def _stacks(headers: Sequence[Dataset]) -> list[list[Dataset]]:
    """Group slices that are parallel, alike in size and of one series, the largest group first."""
    stacks: list[list[Dataset]] = []
    for header in headers:
        if int(header.get("NumberOfFrames") or 1) > 1:
            continue
        stack = next((stack for stack in stacks if _is_alike(stack[0], header)), None)
        if stack is None:
            stacks.append([header])
        else:
            # Libraries compare directions digit by digit, and scanners do not always write the same.
            header.add(stack[0]["ImageOrientationPatient"])
            stack.append(header)
    return sorted(stacks, key=len, reverse=True)


def _is_alike(one: Dataset, other: Dataset) -> bool:
    """Whether two slices are of one series and of one size, and parallel."""
    same = all(one[keyword].value == other[keyword].value for keyword in _SAME_IN_A_STACK)
    return same and all(
        np.allclose(np.array(one[keyword].value, float), np.array(other[keyword].value, float), atol=atol)
        for keyword, atol in _ALIKE_IN_A_STACK.items()
    )


def _fit(stack: Sequence[Dataset], labels: Volume) -> MatchedSeries | str:
    """Lay labels out on a stack of slices, or say why they do not lie there."""
    along_row, along_column = np.reshape([float(v) for v in stack[0].ImageOrientationPatient], (2, 3))
    turned = _turned(labels, along_row, along_column)
    if turned is None:
        return "its slices are not parallel to the labels' slices along any axis"
    array, lps = turned
    row_mm, column_mm = (float(value) for value in stack[0].PixelSpacing)
    size, spacing = (int(stack[0].Rows), int(stack[0].Columns)), np.linalg.norm(lps[:3, :3], axis=0)
    if array.shape[1:] != size:
        return (
            f"its slices have {size[0]} x {size[1]} pixels, the labels' {array.shape[1]} x {array.shape[2]}"
        )
    if not np.allclose(spacing[:2], (column_mm, row_mm), rtol=_SAME_SPACING):
        return (
            f"its pixels are {column_mm:g} x {row_mm:g} mm large, the labels' {spacing[0]:g} x {spacing[1]:g}"
        )
    places = np.array([[float(value) for value in one.ImagePositionPatient] for one in stack])
    expected = lps[:3, 3] + np.arange(len(array))[:, None] * lps[:3, 2]
    order = _nearest(places, expected, np.cross(along_row, along_column), spacing)
    if isinstance(order, str):
        return order
    return MatchedSeries(tuple(stack[index] for index in order), array)


def _turned(
    labels: Volume, along_row: np.ndarray, along_column: np.ndarray
) -> tuple[np.ndarray, np.ndarray] | None:
    """View labels with columns and rows running as a DICOM slice's do.

    Returns:
        The view (slice, row, column) and its affine (column, row, slice) to LPS mm, or None if no two axes
        of the labels are parallel to the slice.
    """
    lps = flip_ras_lps(labels.affine)
    directions = lps[:3, :3] / np.linalg.norm(lps[:3, :3], axis=0)
    cosines = np.stack((along_row, along_column)) @ directions
    x_axis, y_axis = (int(axis) for axis in np.abs(cosines).argmax(axis=1))
    if x_axis == y_axis or min(abs(cosines[0, x_axis]), abs(cosines[1, y_axis])) < _PARALLEL:
        return None
    axes = (x_axis, y_axis, 3 - x_axis - y_axis)
    array = labels.array.transpose([2 - axis for axis in reversed(axes)])
    placed = lps.copy()
    placed[:3, :3] = lps[:3, axes]
    for axis, cosine in ((0, cosines[0, x_axis]), (1, cosines[1, y_axis])):
        if cosine < 0:
            array = np.flip(array, 2 - axis)
            placed[:3, 3] += (array.shape[2 - axis] - 1) * placed[:3, axis]
            placed[:3, axis] *= -1
    return array, placed


def _nearest(
    places: np.ndarray, expected: np.ndarray, normal: np.ndarray, spacing: np.ndarray
) -> list[int] | str:
    """Give each expected position (n, 3) the index of the one place (m, 3) that is there, in LPS mm."""
    depths, wanted = places @ normal, expected @ normal
    step = abs(wanted[1] - wanted[0]) if len(wanted) > 1 else spacing[2]
    order = []
    for number, depth in enumerate(wanted):
        near = np.flatnonzero(np.abs(depths - depth) <= _SAME_PLACE * step)
        if near.size != 1:
            many = f"{near.size} files lie" if near.size else "no file lies"
            return f"{many} where slice {number} of the labels does"
        index = int(near[0])
        aside = places[index] - expected[number]
        aside -= (aside @ normal) * normal
        allowed = _SAME_PLACE * spacing[:2].min() + _LEAN * abs(depth - wanted[0])
        if np.linalg.norm(aside) > allowed:
            return f"slice {number} of the labels lies {np.linalg.norm(aside):.3g} mm beside its file's"
        order.append(index)
    return order


def _presentable(header: Dataset) -> Dataset:
    """Copy a header with every field that a result must have, in Unicode.

    Fields that are missing become blank, and so do dates, times and a sex that the standard does not know:
    a result must not fail, nor be invalid, because its source is.
    """
    from pydicom.valuerep import DA, TM

    copied = deepcopy(header)
    copied.decode()
    copied.SpecificCharacterSet = "ISO_IR 192"
    for keyword in _TYPE_2_BLANKS:
        if copied.get(keyword) is None:
            setattr(copied, keyword, "")
    if copied.PatientSex not in _SEXES:
        copied.PatientSex = ""
    for keyword, kind in (("PatientBirthDate", DA), ("StudyDate", DA), ("StudyTime", TM)):
        try:
            kind(copied[keyword].value)
        except ValueError:
            setattr(copied, keyword, "")
    return copied
