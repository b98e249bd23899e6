"""The lesions of one image in DeepLesion's table, DL_info.csv.

Its slices are numbered in the series, from 1; the image holds a part of the series. Its boxes are in pixels
of the PNG slices, counted from 1, and reach 5 pixels beyond both RECIST diameters. The authors' program for
NIfTI stores those slices with x and y exchanged and an affine that says so.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NoReturn

from medsam2.errors import PromptError
from medsam2.prompts.statements import PromptedObject, Prompts, Statement
from medsam2.prompts.types import MAX_OBJECTS, Box

FIRST_PIXEL = 1  # as the authors' own code subtracts
LESION_TYPES: Mapping[str, str] = MappingProxyType(
    {
        "1": "bone",
        "2": "abdomen",
        "3": "mediastinum",
        "4": "liver",
        "5": "lung",
        "6": "kidney",
        "7": "soft tissue",
        "8": "pelvis",
    }
)
"""Coarse_lesion_type in words."""

_NEEDED = ("File_name", "Key_slice_index", "Bounding_boxes")
_SERIES = re.compile(r"\d+_\d+_\d+")
_SUBVOLUME = re.compile(r"(\d+_\d+_\d+)(?:_(\d+)-(\d+))?(?!\d)")

_Row = tuple[str, Mapping[str, object]]


def is_deeplesion(columns: Iterable[str]) -> bool:
    """Tell DeepLesion's table by its columns."""
    return set(_NEEDED) <= set(columns)


def lesions_of(rows: Sequence[_Row], *, path: Path, image: Path, num_slices: int) -> Prompts:
    """Read the lesions of one image.

    Args:
        rows: Where a row stands, and its cells by column.
        path: The table.
        image: The image. Its name tells series and slices, as in `000001_01_01_103-115.nii.gz`; any name will
            do for a table of a single series.
        num_slices: How many slices it has.

    Raises:
        PromptError: No row is about the image, its slices cannot be told, or a cell cannot be.
    """
    named = _SUBVOLUME.match(image.name)
    of_series = _rows_of_series(rows, named.group(1) if named else None, path, image)
    if named and named.group(2):
        first, last = int(named.group(2)), int(named.group(3))
        if last - first + 1 != num_slices:
            raise PromptError(
                f"{path}: {image.name} is named after slices {first} to {last} and holds {num_slices}; "
                "they should be as many"
            )
    else:
        first = _first_slice(of_series, num_slices, path, image)
    chosen = [row for row in of_series if first <= _whole(row, "Key_slice_index") < first + num_slices]
    if not chosen:
        keys = sorted({_whole(row, "Key_slice_index") for row in of_series})
        raise PromptError(
            f"{path}: no lesion of this series lies in the slices of {image.name}, "
            f"{first} to {first + num_slices - 1}; key slices are {', '.join(map(str, keys))}"
        )
    if len(chosen) > MAX_OBJECTS:
        raise PromptError(
            f"{path}: has {len(chosen)} lesions of {image.name}, a mask has at most {MAX_OBJECTS}"
        )
    windows = dict.fromkeys(_window(row) for row in chosen if row[1].get("DICOM_windows"))
    return Prompts(
        objects=tuple(_lesion(row, number, first) for number, row in enumerate(chosen, start=1)),
        windows=tuple(windows),
        is_shown=True,
    )


def _rows_of_series(rows: Sequence[_Row], series: str | None, path: Path, image: Path) -> list[_Row]:
    there = {_series(row) for row in rows}
    if series is None and len(there) > 1:
        raise PromptError(
            f"{path}: has {len(there)} series, and {image.name} does not tell which it is; "
            "a name begins with it, as 000001_01_01_103-115.nii.gz"
        )
    chosen = [row for row in rows if series is None or _series(row) == series]
    if not chosen:
        raise PromptError(f"{path}: has no row for series {series} of {image.name}")
    return chosen


def _first_slice(rows: Sequence[_Row], num_slices: int, path: Path, image: Path) -> int:
    """Number in the series of an image's first slice, where the image's name does not say it."""
    ranges = {(_range(row)[0], _range(row)[1]) for row in rows if row[1].get("Slice_range")}
    fitting = {first for first, last in ranges if last - first + 1 == num_slices}
    if len(fitting) == 1:
        return fitting.pop()
    if not fitting and num_slices >= max(_whole(row, "Key_slice_index") for row in rows):
        return 1  # the whole series
    listed = ", ".join(f"{first}-{last}" for first, last in sorted(ranges)) or "not given"
    raise PromptError(
        f"{path}: which slices of the series {image.name} holds cannot be told from their number, "
        f"{num_slices}; slice ranges are {listed}; name it as 000001_01_01_103-115.nii.gz"
    )


def _lesion(row: _Row, number: int, first: int) -> PromptedObject:
    where = row[0]
    ends = [value - FIRST_PIXEL for value in _numbers(row, "Bounding_boxes", 4)]
    statement = Statement(
        where=where, slice_index=_whole(row, "Key_slice_index") - first, box=Box.from_xyxy(ends)
    )
    kind = LESION_TYPES.get(str(row[1].get("Coarse_lesion_type", "")).strip())
    return PromptedObject(
        number=number, name=None if kind is None else f"{kind} lesion", statements=(statement,)
    )


def _series(row: _Row) -> str:
    name = _SERIES.match(str(row[1].get("File_name") or "").strip())
    if name is None:
        _refuse(row, "File_name", "patient_study_series_slice.png, as 000001_01_01_109.png")
    return name.group()


def _window(row: _Row) -> tuple[float, float]:
    lower, upper = _numbers(row, "DICOM_windows", 2)
    if lower >= upper:
        _refuse(row, "DICOM_windows", "two limits, lower < upper")
    return lower, upper


def _range(row: _Row) -> tuple[int, int]:
    first, last = _numbers(row, "Slice_range", 2)
    return int(first), int(last)


def _whole(row: _Row, column: str) -> int:
    (value,) = _numbers(row, column, 1)
    if not value.is_integer():
        _refuse(row, column, "a whole number")
    return int(value)


def _numbers(row: _Row, column: str, count: int) -> list[float]:
    try:
        values = [float(part) for part in str(row[1].get(column) or "").split(",")]
    except ValueError:
        values = []
    if len(values) != count or not all(abs(value) < float("inf") for value in values):
        _refuse(row, column, "a number" if count == 1 else f"{count} numbers with commas between them")
    return values


def _refuse(row: _Row, column: str, wanted: str) -> NoReturn:
    raise PromptError(f"{row[0]}, {column}: {row[1].get(column)!r} is not usable; give {wanted}")
