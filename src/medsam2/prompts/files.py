"""Read prompts from a file: JSON, a table (CSV), or the table of DeepLesion.

JSON is a list of objects, or `{"objects": [...]}` with an optional `slice_offset` and `window` for all:

    {"slice_offset": 0, "window": [-160, 240], "objects": [
        {"object": 1, "name": "liver", "slice": 42, "box": [120, 96, 180, 150]},
        {"name": "spleen", "prompts": [{"slice": 40, "points": [[31, 27, 1], [5, 5, 0]]},
                                       {"slice": 44, "mask": "drawn.nii.gz", "mask_label": 2}]}]}

The table of the real-time contract is taken as well, in each of its wrappings; what it says of the image and
of the answer is not looked at. A CSV has a row for each prompt and the same keys for columns; a box may be
four columns x_min, y_min, x_max, y_max, and rows of one object number, or of one name, are one object. What
spreadsheets write beside that, `sep=;` and decimal commas, is understood (`tables`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from medsam2.errors import PromptError, UnsupportedFormat
from medsam2.prompts.deeplesion import is_deeplesion, lesions_of
from medsam2.prompts.statements import Claim, Prompts, number_objects
from medsam2.prompts.tables import read_text, table_rows
from medsam2.prompts.wire import Entry, object_number, statement_of, window_of

MAX_BYTES = 64 * 2**20
"""A prompt file that is larger is refused; the whole table of DeepLesion has 10 MB."""

_TABLES = ("input_data", "dataframe_split", "dataframe_records", "inputs")
# Of the contract, about the image and the answer.
_NOT_LOOKED_AT = {"nii_image", "mask_format", "memory", "frame"}
_FILE_KEYS = ("slice_offset", "window")


def read_prompts(path: Path, *, image: Path, num_slices: int) -> Prompts:
    """Read what a file says about the objects of an image.

    Args:
        path: A .json or .csv file (.tsv, .txt as well). Names of mask files in it start from its folder.
        image: The image that is prompted; DeepLesion's table is searched for its name.
        num_slices: How many slices it has.

    Raises:
        InputError: The file cannot be read.
        UnsupportedFormat: It is neither JSON nor a table.
        PromptError: What it says cannot be; the message names file, row or object, key and value, and says
            what would do.
    """
    suffix = path.suffix.lower()
    text = read_text(path, most_bytes=MAX_BYTES, limit="prompt files have", is_table=suffix != ".json")
    if suffix == ".json":
        return _from_json(text, path)
    if suffix not in (".csv", ".tsv", ".txt"):
        raise UnsupportedFormat(f"{path}: prompts are read from .json, .csv and .tsv files")
    rows = list(table_rows(text, path))
    if is_deeplesion(rows[0][1]):
        return lesions_of(rows, path=path, image=image, num_slices=num_slices)
    return _from_rows(rows, path)


def parse_json(text: str, path: Path) -> object:
    """Read JSON in which no key stands twice.

    Raises:
        UnsupportedFormat: It is none, or is nested too deeply.
        PromptError: A key stands twice.
    """
    try:
        return json.loads(text, object_pairs_hook=_without_doubles)
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
    """Read one object of JSON, which has one prompt in it or a list of them, or one row of a table.

    Args:
        raw: Its keys and values.
        where: Where it stands.
        folder: Where the names of mask files start from.
        slice_offset: Number of the image's first slice, where the object says none.

    Returns:
        The prompts of the object, and the window it comes with.

    Raises:
        PromptError: A key or a value cannot be, or there is no prompt.
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


def _from_rows(rows: Iterable[tuple[str, Mapping[str, object]]], path: Path) -> Prompts:
    found = [claim_of(row, where, folder=path.parent) for where, row in rows]
    return _checked([claim for claim, _ in found], [window for _, window in found], path)


def _checked(claims: list[Claim], windows: list[tuple[float, float] | str | None], path: Path) -> Prompts:
    if not claims:
        raise PromptError(f"{path}: names no object; give one with a slice and a box, points, recist or mask")
    found = tuple(dict.fromkeys(window for window in windows if window is not None))
    return Prompts(objects=number_objects(claims), windows=found)


def _without_doubles(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Keep JSON's last value of a key from hiding the others."""
    content = dict(pairs)
    if len(content) < len(pairs):
        doubled = next(key for key in content if sum(key == other for other, _ in pairs) > 1)
        raise PromptError(f"the key {doubled!r} stands twice in one object")
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
        yield {key: value for key, value in row.items() if key not in _NOT_LOOKED_AT}
