"""The table of a request, in each of the ways that model servers wrap one."""

from __future__ import annotations

from collections.abc import Mapping

from medsam2.serving.encodings import json_in
from medsam2.serving.faults import Fault, shown

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
