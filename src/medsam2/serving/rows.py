"""The table of a request, and each row of it as values."""

from __future__ import annotations

import base64
import binascii
import codecs
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeGuard
from urllib.parse import unquote

import orjson

from medsam2.errors import InputError
from medsam2.imaging.intensity import Window
from medsam2.prompts.types import Box, prompt_from
from medsam2.serving.http_errors import Fault, in_column, shown

_OTHER_MARKS = {codecs.BOM_UTF16_LE: "UTF-16", codecs.BOM_UTF16_BE: "UTF-16"}
_TO_STANDARD = str.maketrans("-_", "+/")


def json_in(body: bytes | bytearray | memoryview) -> object:
    """Read JSON; a byte order mark before it says nothing (RFC 8259 lets a reader skip it).

    Raises:
        ValueError: It is none, in one clause.
    """
    text = memoryview(body)
    if bytes(text[:3]) == codecs.BOM_UTF8:
        text = text[3:]
    elif (mark := bytes(text[:2])) in _OTHER_MARKS:
        raise ValueError(f"it is text in {_OTHER_MARKS[mark]}; UTF-8 is expected")
    return orjson.loads(text)


def bytes_in(text: str) -> bytes:
    """Read base64 (RFC 4648) in either alphabet, with or without padding, line breaks and `data:...;base64,`.

    Raises:
        ValueError: It is none, in one clause.
    """
    if text[:5].lower() == "data:":
        head, comma, text = text.partition(",")
        if not comma or not head.lower().endswith(";base64"):
            raise ValueError("a data: URI holds ;base64, before its data")
        text = unquote(text) if "%" in text else text
    if any(space in text for space in "\r\n\t "):  # some encoders break lines
        text = "".join(text.split())
    if "-" in text or "_" in text:
        text = text.translate(_TO_STANDARD)
    text = text.rstrip("=") if text.endswith("=") else text
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from None


WRAPPERS = ("input_data", "dataframe_split", "dataframe_records", "inputs")
REQUIRED = ("nii_image", "key_slice_idx", "dicom_window")
COLUMNS = (*REQUIRED, "bbox", "slice_offset", "points", "point_labels", "mask_format", "memory", "frame")
_ASIDE = {"params"}
"""What platforms put beside the table; it says nothing about a mask."""

Cells = Mapping[str, object]


def read_table(body: bytes | bytearray, max_rows: int) -> list[Cells]:
    """Take a request apart.

    Args:
        body: JSON.
        max_rows: How many rows are taken at once.

    Returns:
        A row's columns, by name; a column that it lacks is not there.

    Raises:
        Fault: 400, this is not JSON or not the table; 413, it has too many rows.
    """
    try:
        request = json_in(body)
    except ValueError as error:
        raise Fault(400, f"the request is not JSON: {error}") from None
    rows = _rows(_unwrapped(request))
    if not rows:
        raise Fault(400, "the table has no rows; give one entry per row in every column")
    if len(rows) > max_rows:
        raise Fault(413, f"the table has {len(rows)} rows, at most {max_rows} are taken at once")
    for number, cells in enumerate(rows):
        _check_columns(number, cells)
    return rows


def _unwrapped(request: object) -> object:
    if not isinstance(request, dict):
        raise Fault(400, f"the request is {shown(request)}; {_EXPECTED}")
    names = [name for name in request if name not in _ASIDE]
    if len(names) != 1 or names[0] not in WRAPPERS:
        raise Fault(400, f"the request has the keys {shown(names)}; {_EXPECTED}")
    return request[names[0]]


_EXPECTED = f"an object with one of the keys {', '.join(WRAPPERS)}, which holds the table, is expected"


def _rows(table: object) -> list[Cells]:
    if isinstance(table, list):
        return [_record(number, row) for number, row in enumerate(table)]
    if not isinstance(table, dict):
        raise Fault(400, f"the table is {shown(table)}; an object of columns or a list of rows is expected")
    if "columns" in table and "data" in table:
        return _split_rows(table["columns"], table["data"])
    return _column_rows(table)


def _record(number: int, row: object) -> Cells:
    if not isinstance(row, dict):
        raise Fault(400, f"row {number} is {shown(row)}; an object with a value per column is expected")
    return row


def _split_rows(columns: object, data: object) -> list[Cells]:
    if not isinstance(columns, list) or not all(isinstance(name, str) for name in columns):
        raise Fault(400, f"columns is {shown(columns)}; a list of names is expected")
    if len(set(columns)) != len(columns):
        raise Fault(400, f"columns is {shown(columns)}; a name can stand there once")
    if not isinstance(data, list):
        raise Fault(400, f"data is {shown(data)}; a list of rows is expected")
    for number, row in enumerate(data):
        if not isinstance(row, list) or len(row) != len(columns):
            raise Fault(
                400, f"row {number} is {shown(row)}; a list of {len(columns)} values, as columns, is expected"
            )
    return [dict(zip(columns, row, strict=True)) for row in data]


def _column_rows(table: dict[str, object]) -> list[Cells]:
    columns: dict[str, list[object]] = {}
    for name, entries in table.items():
        if not isinstance(entries, list):
            raise Fault(
                400, f"column {shown(name)} is {shown(entries)}; a list with an entry per row is expected"
            )
        columns[name] = entries
    lengths = {name: len(entries) for name, entries in columns.items()}
    if len(set(lengths.values())) > 1:
        raise Fault(400, f"the columns have {shown(lengths)} entries; each has one per row")
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _check_columns(number: int, cells: Cells) -> None:
    for name in cells:
        if name not in COLUMNS:
            raise Fault(400, f"row {number} has a column {shown(name)}; columns are {', '.join(COLUMNS)}")
    for name in REQUIRED:
        if name not in cells:
            raise Fault(400, f"row {number} has no column {name}")
    if "bbox" not in cells and "points" not in cells:
        raise Fault(400, f"row {number} has neither a column bbox nor points: say what to segment")


MASK_FORMATS = ("nested", "nifti", "rle")
MEMORIES = ("recent", "self-sorting")
MAX_POINTS = 1000

Points = tuple[tuple[float, float], ...]


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row whose values make sense by themselves; whether they lie in the image is seen with the image."""

    number: int
    """From 0; named in errors."""
    image: str
    """Base64 of a NIfTI file, or a URL of one."""
    key_slice_index: int
    """In the series that the file is from."""
    slice_offset: int
    """Of the file's first slice in that series."""
    window: tuple[float, float]
    """Intensities shown as black and as white."""
    box_xyxy: tuple[float, float, float, float] | None
    """Pixels of the key slice, both ends included."""
    points_xy: Points
    """Pixels of the key slice."""
    point_labels: tuple[int, ...]
    """1 inside, 0 outside, one per point."""
    mask_format: str
    memory: str
    frame: int | None = None
    """Which volume of a 4D file, from 0."""

    @property
    def adjusted_index(self) -> int:
        """The key slice's index in the file."""
        return self.key_slice_index - self.slice_offset

    def check_within(self, shape_zyx: tuple[int, int, int]) -> None:
        """Make sure that the prompt lies in the image.

        Raises:
            Fault: 422; the message names the column, the value and the range.
        """
        depth = shape_zyx[0]
        if not 0 <= self.adjusted_index < depth:
            first = self.slice_offset
            raise in_column(
                self.number,
                "key_slice_idx",
                f"slice {self.key_slice_index} is not in the file, which has {depth} slices: "
                f"with slice_offset {first} it must be {first} to {first + depth - 1}",
            )
        try:
            if self.box_xyxy is not None:
                prompt_from(self.adjusted_index, box=self.box_xyxy).checked(shape_zyx)
        except InputError as error:
            raise in_column(self.number, "bbox", error) from None
        try:
            if self.points_xy:
                prompt_from(self.adjusted_index, points=self.points_xy).checked(shape_zyx)
        except InputError as error:
            raise in_column(self.number, "points", error) from None


def read_row(number: int, cells: Cells) -> Row:
    """Turn a row's cells into values.

    Raises:
        Fault: 422, a value cannot be; the message names row, column, value and what would do.
    """
    box = _box(number, cells.get("bbox"))
    points = _points(number, cells.get("points"))
    if box is None and not points:
        raise in_column(number, "bbox", "is empty, as points is: say what to segment by one of them")
    return Row(
        number=number,
        image=_image(number, cells["nii_image"]),
        key_slice_index=_whole(number, "key_slice_idx", cells["key_slice_idx"]),
        slice_offset=_whole(number, "slice_offset", _default(cells.get("slice_offset"), 0)),
        window=_window(number, cells["dicom_window"]),
        box_xyxy=box,
        points_xy=points,
        point_labels=_labels(number, cells.get("point_labels"), len(points)),
        mask_format=_choice(number, "mask_format", cells.get("mask_format"), MASK_FORMATS),
        memory=_choice(number, "memory", cells.get("memory"), MEMORIES),
        frame=None if cells.get("frame") is None else _whole(number, "frame", cells["frame"]),
    )


def _image(number: int, value: object) -> str:
    if not isinstance(value, str) or not value:
        raise _wrong(
            number, "nii_image", value, "base64 of a .nii or .nii.gz file, or a URL of one, is expected"
        )
    return value


def _whole(number: int, column: str, value: object) -> int:
    # Data frames turn whole numbers into floats.
    if not _is_number(value) or value != math.floor(value) or value < 0:
        raise _wrong(number, column, value, "a whole number, 0 or more, is expected")
    return int(value)


def _window(number: int, value: object) -> tuple[float, float]:
    limits = _numbers(value)
    if limits is None or len(limits) != 2:
        raise _wrong(number, "dicom_window", value, "two numbers [lower, upper] are expected")
    try:
        Window(limits[0], limits[1], source="caller")
    except InputError as error:
        raise in_column(number, "dicom_window", error) from None
    return limits[0], limits[1]


def _box(number: int, value: object) -> tuple[float, float, float, float] | None:
    if value is None:
        return None
    ends = _numbers(value)
    if ends is None or len(ends) != 4:
        raise _wrong(number, "bbox", value, "four numbers [x_min, y_min, x_max, y_max] are expected")
    return Box.from_xyxy(ends).xyxy


def _points(number: int, value: object) -> Points:
    pairs = [_numbers(pair) for pair in value] if isinstance(value, list) else None
    if value is None:
        return ()
    if pairs is None or any(pair is None or len(pair) != 2 for pair in pairs):
        raise _wrong(number, "points", value, "a list of pairs [x, y] is expected")
    if len(pairs) > MAX_POINTS:
        raise in_column(number, "points", f"holds {len(pairs)} points; at most {MAX_POINTS} are taken")
    return tuple((pair[0], pair[1]) for pair in pairs if pair is not None)


def _labels(number: int, value: object, num_points: int) -> tuple[int, ...]:
    if value is None:
        return (1,) * num_points
    labels = _numbers(value)
    if labels is None or len(labels) != num_points or not set(labels) <= {0.0, 1.0}:
        what = f"{num_points} labels, 1 (inside) or 0 (outside) per point, are expected"
        raise _wrong(number, "point_labels", value, what)
    return tuple(int(label) for label in labels)


def _choice(number: int, column: str, value: object, choices: tuple[str, ...]) -> str:
    if value is None:
        return choices[0]
    if value not in choices:
        raise _wrong(number, column, value, f"one of {', '.join(choices)} is expected")
    return str(value)


def _default(value: object, default: object) -> object:
    return default if value is None else value


def _numbers(value: object) -> list[float] | None:
    if not isinstance(value, list) or not all(_is_number(entry) for entry in value):
        return None
    return [float(entry) for entry in value]


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _wrong(number: int, column: str, value: object, expected: str) -> Fault:
    return in_column(number, column, f"{shown(value)} cannot be; {expected}")
