"""Find the DICOM slices on which a label volume was drawn, whatever the order and orientation of both."""

from __future__ import annotations

import os
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medsam2.errors import GeometryError, InputError
from medsam2.imaging.dicom.grid import even_parts
from medsam2.imaging.dicom.header import Source, SourceSlice, lenient_dicom, read_slices
from medsam2.imaging.geometry import flip_ras_lps
from medsam2.imaging.volume import Volume

if TYPE_CHECKING:
    from pydicom import Dataset

_SAME_IN_A_STACK = ("SeriesInstanceUID", "FrameOfReferenceUID", "Rows", "Columns")
_SAME_DIRECTION = 1e-3
# Cosine of 0.26 degrees: directions are written with six decimals, and NIfTI's quaternions with as many.
_PARALLEL = 1 - 1e-5
_SAME_SPACING = 1e-3
# Of a step or of a pixel. Positions are rounded, and a volume has one step for all of them.
_SAME_PLACE = 0.25
_SAME_INDEX = 0.05  # of a step, between a slice of the labels and the reader's grid
# The reader stacks slices upright below a gantry's tilt of half a degree.
_LEAN = np.tan(np.radians(0.5))

PATIENT_AND_STUDY = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID"),
    *("AccessionNumber", "ReferringPhysicianName"),
)
"""Elements that every result must have; those that the source lacks are blank."""
_SEXES = ("M", "F", "O")


@dataclass(frozen=True, eq=False)
class MatchedSeries:
    """Labels in the layout of a DICOM series' slices."""

    slices: tuple[SourceSlice, ...]
    array: np.ndarray
    """(slice, row, column), a view of the labels: `array[k]` belongs to `slices[k]`."""
    step_mm: float
    """Distance between slices, at right angles to them."""

    @property
    def first(self) -> Dataset:
        """A copy of the first header with every patient and study field, blank where it had none."""
        with lenient_dicom():
            return _presentable(self.slices[0].header)


def match(source: Source, labels: Volume) -> MatchedSeries:
    """Find the slices of a source on which labels lie; their order and mirrored axes do not matter.

    Args:
        source: It may hold other series, and more slices than the labels. Pixels are not read.
        labels: On the grid of a series or of a part of it, in any order of axes.

    Raises:
        InputError: There is no DICOM slice, or several series fit.
        GeometryError: No series fits the labels' grid; the message says why not.
    """
    stacks = _stacks(read_slices(source))
    fits = [_fit(stack, labels) for stack in stacks]
    found = [fit for fit in fits if isinstance(fit, MatchedSeries)]
    if len(found) > 1:
        raise InputError(
            f"{_named(source)}: {len(found)} series lie on the grid of the labels; give the files of one"
        )
    if not found:
        raise GeometryError(f"{_named(source)}: not the series of these labels: {fits[0]}")
    return found[0]


def _named(source: Source) -> str:
    return os.fspath(source) if isinstance(source, (str, os.PathLike)) else "the source"


def _stacks(slices: Sequence[SourceSlice]) -> list[list[SourceSlice]]:
    """Group slices that are parallel, alike in size and of one series, the largest group first."""
    stacks: list[list[SourceSlice]] = []
    for one in slices:
        stack = next((stack for stack in stacks if _is_alike(stack[0], one)), None)
        if stack is None:
            stacks.append([one])
        else:
            if one.frame is None:
                # Libraries compare directions digit by digit, and scanners write them with small differences.
                one.header.add(stack[0].place["ImageOrientationPatient"])
            stack.append(one)
    return sorted(stacks, key=len, reverse=True)


def _is_alike(one: SourceSlice, other: SourceSlice) -> bool:
    """Whether two slices are of one series and of one size, and parallel."""
    if (one.frame is None) != (other.frame is None):
        return False
    if one.frame is not None and one.header is not other.header:
        return False  # a result can refer to only one file of several frames
    same = all(one.header[keyword].value == other.header[keyword].value for keyword in _SAME_IN_A_STACK)
    return (
        same
        and np.allclose(one.axes, other.axes, atol=_SAME_DIRECTION)
        and np.allclose(one.pixel_mm, other.pixel_mm, rtol=_SAME_SPACING)
    )


def _fit(stack: Sequence[SourceSlice], labels: Volume) -> MatchedSeries | str:
    """Lay labels out on a stack of slices, or return the reason why they do not fit."""
    along_row, along_column = stack[0].axes
    turned = _turned(labels, along_row, along_column)
    if turned is None:
        return "its slices are not parallel to the labels' slices along any axis"
    array, lps = turned
    height, width = int(stack[0].header.Rows), int(stack[0].header.Columns)
    if array.shape[1:] != (height, width):
        return f"its slices have {height} x {width} pixels, the labels' {array.shape[1]} x {array.shape[2]}"
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    x_mm, y_mm = stack[0].pixel_mm
    if not np.allclose(spacing[:2], (x_mm, y_mm), rtol=_SAME_SPACING):
        return f"its pixels are {x_mm:g} x {y_mm:g} mm large, the labels' {spacing[0]:g} x {spacing[1]:g}"
    places = np.stack([one.position for one in stack])
    expected = lps[:3, 3] + np.arange(len(array))[:, None] * lps[:3, 2]
    normal = np.cross(along_row, along_column)
    order = _as_read(places, expected, normal, spacing)
    if order is None:
        found = _nearest(places, expected, normal, spacing)
        if isinstance(found, str):
            return found
        order = found
    return MatchedSeries(tuple(stack[index] for index in order), array, abs(float(normal @ lps[:3, 2])))


def _turned(
    labels: Volume, along_row: np.ndarray, along_column: np.ndarray
) -> tuple[np.ndarray, np.ndarray] | None:
    """View labels with columns and rows in the directions of a DICOM slice's.

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


def _as_read(
    places: np.ndarray, expected: np.ndarray, normal: np.ndarray, spacing: np.ndarray
) -> list[int] | None:
    """Find for each expected position the slice that the reader put there, however far it lies from it.

    The reader keeps the places of the first and the last slice of a series, or of a part of it, and spaces
    the others evenly between.

    Returns:
        Indices of places, or None if the positions are not on such a grid.
    """
    depths, wanted = places @ normal, expected @ normal
    order = np.argsort(depths, kind="stable")
    if len(order) < 2 or len(wanted) < 2 or np.diff(depths[order]).min() <= 0:
        return None
    try:
        parts = even_parts(places[order], Path())
    except GeometryError:
        return None
    for part in parts:
        numbers = order[part.first : part.last + 1]
        step = (depths[numbers[-1]] - depths[numbers[0]]) / (len(numbers) - 1)
        index = (wanted - depths[numbers[0]]) / step
        nearest = np.rint(index).astype(int)
        is_inside = nearest.min() >= 0 and nearest.max() < len(numbers)
        if not is_inside or np.abs(index - nearest).max() > _SAME_INDEX:
            continue
        chosen = numbers[nearest]
        ends = [int(nearest.argmin()), int(nearest.argmax())]
        aside = places[chosen[ends]] - expected[ends]
        aside -= np.outer(aside @ normal, normal)
        allowed = _SAME_PLACE * spacing[:2].min() + _LEAN * np.ptp(wanted)
        if len(set(nearest.tolist())) == len(nearest) and np.linalg.norm(aside, axis=1).max() <= allowed:
            return [int(number) for number in chosen]
    return None


def _nearest(
    places: np.ndarray, expected: np.ndarray, normal: np.ndarray, spacing: np.ndarray
) -> list[int] | str:
    """Find for each expected position (n, 3) the index of the one place (m, 3) near it, in LPS mm."""
    depths, wanted = places @ normal, expected @ normal
    step = abs(wanted[1] - wanted[0]) if len(wanted) > 1 else spacing[2]
    order = []
    for number, depth in enumerate(wanted):
        near = np.flatnonzero(np.abs(depths - depth) <= _SAME_PLACE * step)
        if near.size != 1:
            if not near.size:
                return f"none of its slices lies where slice {number} of the labels does"
            return (
                f"{near.size} slices of it lie where slice {number} of the labels does, as in a series of "
                "several phases or echoes; give the files of one of them (`series_files` lists them by frame)"
            )
        index = int(near[0])
        aside = places[index] - expected[number]
        aside -= (aside @ normal) * normal
        allowed = _SAME_PLACE * spacing[:2].min() + _LEAN * abs(depth - wanted[0])
        if np.linalg.norm(aside) > allowed:
            return f"slice {number} of the labels lies {np.linalg.norm(aside):.3g} mm beside its place there"
        order.append(index)
    return order


def _presentable(header: Dataset) -> Dataset:
    """Copy a header with every field that a result must have, in Unicode.

    Missing fields become blank, and so do dates, times and a sex that break the standard: a result must not
    fail or be invalid because its source is invalid.
    """
    from pydicom.valuerep import DA, TM

    copied = deepcopy(header)
    copied.decode()
    copied.SpecificCharacterSet = "ISO_IR 192"
    for keyword in PATIENT_AND_STUDY:
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
