"""Read prompts from a file: JSON, a table (CSV), or the table of DeepLesion.

JSON is a list of objects, or `{"objects": [...]}`, where `slice_offset` and `window` may be given for all:

    {"slice_offset": 0, "window": [-160, 240], "objects": [
        {"object": 1, "name": "liver", "slice": 42, "box": [120, 96, 180, 150]},
        {"name": "spleen", "prompts": [{"slice": 40, "points": [[31, 27, 1], [5, 5, 0]]},
                                       {"slice": 44, "mask": "drawn.nii.gz", "mask_label": 2}]}]}

The table of the real-time contract is read as well, in each of its forms; its keys about the image and the
answer are ignored. A CSV has a row for each prompt and the same keys as columns. A box may be the four
columns x_min, y_min, x_max, y_max. Rows with the same object number, or the same name, are one object. What
spreadsheets add, such as `sep=;` and decimal commas, is understood (`tables`).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from medsam2.errors import PromptError, UnsupportedFormat
from medsam2.prompts.statements import Claim, PromptedObject, Prompts, Statement, number_objects
from medsam2.prompts.tables import read_text, table_rows
from medsam2.prompts.types import MAX_OBJECTS, Box
from medsam2.prompts.wire import Entry, object_number, statement_of, window_of

MAX_BYTES = 64 * 2**20
"""A prompt file that is larger is refused; the whole table of DeepLesion has 10 MB."""

_TABLES = ("input_data", "dataframe_split", "dataframe_records", "inputs")
# Keys of the contract about the image and the answer.
_IGNORED = {"nii_image", "mask_format", "memory", "frame"}
_FILE_KEYS = ("slice_offset", "window")

_Row = tuple[str, Mapping[str, object]]
"""Where a row stands, and its cells by column."""


def read_prompts(path: Path, *, image: Path, num_slices: int) -> Prompts:
    """Read what a file says about the objects of an image.

    Args:
        path: A .json, .csv, .tsv or .txt file. Names of mask files in it are relative to its folder.
        image: The image to segment; DeepLesion's table is searched for its name.
        num_slices: How many slices the image has.

    Raises:
        InputError: The file cannot be read.
        UnsupportedFormat: It is neither JSON nor a table.
        PromptError: A prompt is wrong. The message names file, row or object, key and value, and says what
            would be right.
    """
    suffix = path.suffix.lower()
    text = read_text(path, most_bytes=MAX_BYTES, limit="prompt files have", is_table=suffix != ".json")
    if suffix == ".json":
        return _from_json(text, path)
    if suffix not in (".csv", ".tsv", ".txt"):
        raise UnsupportedFormat(f"{path}: prompts are read from .json, .csv and .tsv files")
    rows = list(table_rows(text, path))
    if set(rows[0][1]) >= _LESION_COLUMNS:
        return _lesions(rows, path, image, num_slices)
    return _from_rows(rows, path)


def parse_json(text: str, path: Path) -> object:
    """Read JSON, and refuse a key that is repeated in one object.

    Raises:
        UnsupportedFormat: It is no JSON, or is nested too deeply.
        PromptError: A key is repeated.
    """
    try:
        return json.loads(text, object_pairs_hook=_without_repeats)
    except json.JSONDecodeError as error:
        raise UnsupportedFormat(f"{path}: is not JSON: {error.msg} in line {error.lineno}") from error
    except PromptError as error:
        raise PromptError(f"{path}: {error}") from None
    except RecursionError as error:
        raise UnsupportedFormat(f"{path}: is nested too deeply to be a list of prompts") from error


def _from_json(text: str, path: Path) -> Prompts:
    content = parse_json(text, path)
    if isinstance(content, dict) and (table := next((key for key in _TABLES if key in content), None)):
        rows = _contract_rows(content[table], f"{path}: {table}")
        return _from_rows(((f"{path}: {table}, row {n}", row) for n, row in enumerate(rows, start=1)), path)
    slice_offset, windows = 0, []
    if isinstance(content, dict) and "objects" in content:
        rest = {key: value for key, value in content.items() if key != "objects"}
        head = Entry.of(str(path), rest, allowed=_FILE_KEYS)
        slice_offset, windows = head.whole("slice_offset") or 0, [window_of(head)]
        content = content["objects"]
    objects = content if isinstance(content, list) else [content]
    claims: list[Claim] = []
    for index, raw in enumerate(objects, start=1):
        where = f"{path}: object {index}"
        if not isinstance(raw, dict):
            raise PromptError(f"{where}: an object is {{...}} with a slice and a box, points, recist or mask")
        claim, window = claim_of(raw, where, folder=path.parent, slice_offset=slice_offset)
        claims.append(claim)
        windows.append(window)
    return _checked(claims, windows, path)


def claim_of(
    raw: Mapping[str, object], where: str, *, folder: Path, slice_offset: int = 0
) -> tuple[Claim, tuple[float, float] | str | None]:
    """Read one object of JSON, with one prompt or a list of prompts, or one row of a table.

    Args:
        raw: Its keys and values.
        where: File, and row or object, for messages.
        folder: Names of mask files are relative to it.
        slice_offset: Number of the image's first slice, if the object gives none.

    Returns:
        The prompts of the object, and its window.

    Raises:
        PromptError: A key or a value is wrong, or there is no prompt.
    """
    if "prompts" not in raw:
        entry = Entry.of(where, raw)
        statements = [statement_of(entry, folder=folder, slice_offset=slice_offset)]
    else:
        entry = Entry.of(where, raw, allowed=("object", "name", "slice_offset", "window", "prompts"))
        parts = entry.values.get("prompts")
        if not isinstance(parts, list) or not parts or not all(isinstance(part, dict) for part in parts):
            entry.refuse("prompts", "a list of prompts, {...} each")
        own_offset = entry.whole("slice_offset")
        slice_offset = slice_offset if own_offset is None else own_offset
        statements = [
            statement_of(
                Entry.of(f"{where}, prompt {index}", part, allowed=_STATEMENT_KEYS),
                folder=folder,
                slice_offset=slice_offset,
            )
            for index, part in enumerate(parts, start=1)
        ]
    claim = Claim(
        where=where, number=object_number(entry), name=entry.text("name"), statements=tuple(statements)
    )
    return claim, window_of(entry)


_STATEMENT_KEYS = (
    *("slice", "slice_offset", "box", "x_min", "y_min", "x_max", "y_max", "points", "labels", "point_x"),
    *("point_y", "point_label", "mask", "mask_label", "recist", "recist_points"),
)


def _from_rows(rows: Iterable[_Row], path: Path) -> Prompts:
    found = [claim_of(row, where, folder=path.parent) for where, row in rows]
    return _checked([claim for claim, _ in found], [window for _, window in found], path)


def _checked(claims: list[Claim], windows: list[tuple[float, float] | str | None], path: Path) -> Prompts:
    if not claims:
        raise PromptError(f"{path}: names no object; give one with a slice and a box, points, recist or mask")
    found = tuple(dict.fromkeys(window for window in windows if window is not None))
    return Prompts(objects=number_objects(claims), windows=found)


def _without_repeats(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Make a dictionary, and refuse a repeated key, of which only the last value would count."""
    content = dict(pairs)
    if len(content) < len(pairs):
        repeated = next(key for key in content if sum(key == other for other, _ in pairs) > 1)
        raise PromptError(f"the key {repeated!r} stands twice in one object")
    return content


def _contract_rows(table: object, where: str) -> Iterator[dict[str, object]]:
    """Rows of the contract's table: lists as columns, `columns` and `data`, or a list of rows."""
    wanted = "a table: a list for each column, `columns` and `data`, or a list of rows"
    if isinstance(table, dict) and {"columns", "data"} <= table.keys():
        columns, data = table["columns"], table["data"]
        is_table = isinstance(columns, list) and isinstance(data, list)
        if not is_table or not all(isinstance(row, list) and len(row) == len(columns) for row in data):
            raise PromptError(f"{where}: every row of `data` has a value for each of `columns`")
        rows = [dict(zip(map(str, columns), row, strict=True)) for row in data]
    elif isinstance(table, dict) and table and all(isinstance(values, list) for values in table.values()):
        lengths = {name: len(values) for name, values in table.items()}
        if len(set(lengths.values())) != 1:
            raise PromptError(f"{where}: columns of a table have one length, these have {lengths}")
        rows = [dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)]
    elif isinstance(table, list) and all(isinstance(row, dict) for row in table):
        rows = table
    else:
        raise PromptError(f"{where} is {wanted}")
    for row in rows:
        yield {key: value for key, value in row.items() if key not in _IGNORED}


# DeepLesion numbers slices in their series, from 1, and the image holds a part of the series. Boxes are in
# pixels of the PNG slices, counted from 1, and reach 5 pixels beyond both RECIST diameters. The authors'
# program for NIfTI stores those slices with x and y exchanged and an affine that says so.
_FIRST_PIXEL = 1  # as the authors' own code subtracts
_LESION_TYPES = ("bone", "abdomen", "mediastinum", "liver", "lung", "kidney", "soft tissue", "pelvis")
"""Coarse_lesion_type 1, 2, ... in words."""
_LESION_COLUMNS = {"File_name", "Key_slice_index", "Bounding_boxes"}
_SERIES = re.compile(r"\d+_\d+_\d+")
_SUBVOLUME = re.compile(r"(\d+_\d+_\d+)(?:_(\d+)-(\d+))?(?!\d)")


def _lesions(rows: Sequence[_Row], path: Path, image: Path, num_slices: int) -> Prompts:
    """Read the lesions of one image.

    The image's name tells series and slices, as in `000001_01_01_103-115.nii.gz`; any name will do for a
    table of a single series.
    """
    named = _SUBVOLUME.match(image.name)
    of_series = _rows_of_series(rows, named.group(1) if named else None, path, image)
    keys = [_whole(row, "Key_slice_index") for row in of_series]
    if named and named.group(2):
        first, last = int(named.group(2)), int(named.group(3))
        if last - first + 1 != num_slices:
            raise PromptError(
                f"{path}: {image.name} is named after slices {first} to {last} and holds {num_slices}; "
                "they should be as many"
            )
    else:
        first = _first_slice(of_series, keys, num_slices, path, image)
    chosen = [
        (row, key) for row, key in zip(of_series, keys, strict=True) if first <= key < first + num_slices
    ]
    if not chosen:
        raise PromptError(
            f"{path}: no lesion of this series lies in the slices of {image.name}, {first} to "
            f"{first + num_slices - 1}; key slices are {', '.join(map(str, sorted(set(keys))))}"
        )
    if len(chosen) > MAX_OBJECTS:
        raise PromptError(
            f"{path}: has {len(chosen)} lesions of {image.name}, a mask has at most {MAX_OBJECTS}"
        )
    windows = dict.fromkeys(_lesion_window(row) for row, _ in chosen if row[1].get("DICOM_windows"))
    objects = (_lesion(row, number, key - first) for number, (row, key) in enumerate(chosen, start=1))
    return Prompts(objects=tuple(objects), windows=tuple(windows), is_shown=True)


def _rows_of_series(rows: Sequence[_Row], series: str | None, path: Path, image: Path) -> list[_Row]:
    names = []
    for row in rows:
        name = _SERIES.match(str(row[1].get("File_name") or "").strip())
        if name is None:
            _refuse(row, "File_name", "patient_study_series_slice.png, as 000001_01_01_109.png")
        names.append(name.group())
    if series is None and len(set(names)) > 1:
        raise PromptError(
            f"{path}: has {len(set(names))} series, and {image.name} does not tell which it is; "
            "a name begins with it, as 000001_01_01_103-115.nii.gz"
        )
    chosen = [row for row, name in zip(rows, names, strict=True) if series in (None, name)]
    if not chosen:
        raise PromptError(f"{path}: has no row for series {series} of {image.name}")
    return chosen


def _first_slice(rows: Sequence[_Row], keys: Sequence[int], num_slices: int, path: Path, image: Path) -> int:
    """Number in the series of an image's first slice, where the image's name does not say it."""
    with_range = (row for row in rows if row[1].get("Slice_range"))
    ranges = {tuple(map(int, _values(row, "Slice_range", 2))) for row in with_range}
    fitting = {first for first, last in ranges if last - first + 1 == num_slices}
    if len(fitting) == 1:
        return fitting.pop()
    if not fitting and num_slices >= max(keys):
        return 1  # the whole series
    listed = ", ".join(f"{first}-{last}" for first, last in sorted(ranges)) or "not given"
    raise PromptError(
        f"{path}: which slices of the series {image.name} holds cannot be told from their number, "
        f"{num_slices}; slice ranges are {listed}; name it as 000001_01_01_103-115.nii.gz"
    )


def _lesion(row: _Row, number: int, slice_index: int) -> PromptedObject:
    where, cells = row
    box = Box.from_xyxy([value - _FIRST_PIXEL for value in _values(row, "Bounding_boxes", 4)])
    kind = str(cells.get("Coarse_lesion_type", "")).strip()
    is_known = kind.isdecimal() and 1 <= int(kind) <= len(_LESION_TYPES)
    return PromptedObject(
        number=number,
        name=f"{_LESION_TYPES[int(kind) - 1]} lesion" if is_known else None,
        statements=(Statement(where=where, slice_index=slice_index, box=box),),
    )


def _lesion_window(row: _Row) -> tuple[float, float]:
    lower, upper = _values(row, "DICOM_windows", 2)
    if lower >= upper:
        _refuse(row, "DICOM_windows", "two limits, lower < upper")
    return lower, upper


def _whole(row: _Row, column: str) -> int:
    (value,) = _values(row, column, 1)
    if not value.is_integer():
        _refuse(row, column, "a whole number")
    return int(value)


def _values(row: _Row, column: str, count: int) -> list[float]:
    """Read the numbers of a cell, with commas between them."""
    try:
        values = [float(part) for part in str(row[1].get(column) or "").split(",")]
    except ValueError:
        values = []
    if len(values) != count or not all(map(math.isfinite, values)):
        _refuse(row, column, "a number" if count == 1 else f"{count} numbers with commas between them")
    return values


def _refuse(row: _Row, column: str, wanted: str) -> NoReturn:
    raise PromptError(f"{row[0]}, {column}: {row[1].get(column)!r} is not usable; give {wanted}")
