"""Read a table of images and prompts, CSV, JSON or Parquet, as rows.

JSON is a list of rows, or `{"cases": [...]}`; a row may contain its objects, as in prompt files:

    [{"case": "p1", "image": "p1.nii.gz", "window": "abdomen", "objects": [
        {"name": "liver", "slice": 42, "box": [120, 96, 180, 150]},
        {"name": "spleen", "prompts": [{"slice": 40, "points": [[31, 27, 1]]}]}]}]
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from medsam2.errors import InputError, PromptError, UnsupportedFormat, reading
from medsam2.prompts.files import parse_json
from medsam2.prompts.tables import table_rows, table_text

SUFFIXES = (".csv", ".tsv", ".txt", ".json", ".parquet")
MAX_BYTES = 1 << 30
"""Largest table, because its rows are kept in memory. Split a larger one, with a folder for each part."""


@dataclass(frozen=True)
class Row:
    """One row, without its empty cells."""

    where: str
    """File and row; every message about the row begins with it."""
    values: Mapping[str, object]


def read_rows(path: Path) -> list[Row]:
    """Read a table.

    Args:
        path: A .csv, .tsv, .txt, .json or .parquet file.

    Raises:
        InputError: The file cannot be read, is too large or has no row.
        UnsupportedFormat: It is not such a table.
        ModuleNotFoundError: It is Parquet, and pyarrow is not installed.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise UnsupportedFormat(f"{path}: a table of cases ends in {', '.join(SUFFIXES)}")
    with reading(path):
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise InputError(f"{path}: has {size} bytes, a table has at most {MAX_BYTES}; split it")
        try:
            if suffix == ".parquet":
                found = _parquet_rows(path)
            elif suffix == ".json":
                found = _json_rows(path.read_text(encoding="utf-8-sig"), path)
            else:
                found = table_rows(table_text(path), path)
            rows = [Row(where, _filled(values)) for where, values in found]
        except UnicodeDecodeError as error:
            raise UnsupportedFormat(f"{path}: is not text in UTF-8") from error
    if not rows:
        raise InputError(f"{path}: has no case")
    return rows


def _json_rows(text: str, path: Path) -> Iterator[tuple[str, dict[str, object]]]:
    content = parse_json(text, path)
    if isinstance(content, dict) and content.keys() == {"cases"}:
        content = content["cases"]
    if not isinstance(content, list) or not all(isinstance(case, dict) for case in content):
        raise UnsupportedFormat(f'{path}: cases are a list of {{...}}, or {{"cases": [...]}}')
    for number, case in enumerate(content, start=1):
        where = f"{path}: case {number}"
        if "objects" not in case:
            yield where, case
            continue
        objects = case["objects"]
        if not isinstance(objects, list) or not objects or not all(isinstance(one, dict) for one in objects):
            raise PromptError(f"{where}, objects: give a list of objects, {{...}} each")
        head = {key: value for key, value in case.items() if key != "objects"}
        for index, one in enumerate(objects, start=1):
            # The values of the case hold for each of its objects, unless the object has its own.
            yield f"{where}, object {index}", {**head, **one}


def _parquet_rows(path: Path) -> Iterator[tuple[str, dict[str, object]]]:
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches():
                for values in batch.to_pylist():
                    number += 1
                    yield f"{path}: row {number}", values
    except ArrowException as error:
        raise UnsupportedFormat(f"{path}: is not Parquet, or is damaged: {error}") from error


def _filled(values: Mapping[str, object]) -> dict[str, object]:
    """Leave out empty cells, which are NaN in tables from data frames."""
    return {
        key: value
        for key, value in values.items()
        if not (
            value is None
            or (isinstance(value, float) and value != value)
            or (isinstance(value, str) and not value.strip())
        )
    }
