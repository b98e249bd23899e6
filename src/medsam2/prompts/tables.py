"""Tables as spreadsheets save them: `sep=`, semicolons, decimal commas, backslashes, other code pages."""

from __future__ import annotations

import codecs
import csv
import io
import math
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

from medsam2.errors import InputError, PromptError, UnsupportedFormat, reading

_DELIMITERS = ",;\t"
_SEPARATOR_LINE = re.compile(r'"?sep=(?P<delimiter>[^"\r\n]?)"?\r?\n', re.IGNORECASE)
_CODE_PAGE = (
    "cp1252"  # what Excel's "CSV" is in in western Europe; Latin-1 with letters for its control codes
)
_CONTROLS = re.compile(r"[\x00-\x08\x0e-\x1f]")
_WITH_COMMA = re.compile(r"[+-]?\d*,\d+")
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3})+")


def read_text(path: Path, *, most_bytes: int, limit: str, is_table: bool = False) -> str:
    """Read JSON in UTF-8, or a table as spreadsheets save it, as text.

    Args:
        path: The file.
        most_bytes: A larger file is refused unread.
        limit: Who has this limit, with the verb: "prompt files have".
        is_table: Whether `table_text` reads it.

    Raises:
        InputError: The file cannot be read or is too large.
        UnsupportedFormat: It is no text.
    """
    with reading(path):
        size = path.stat().st_size
        if size > most_bytes:
            raise InputError(f"{path}: holds {size} bytes, {limit} at most {most_bytes}")
        try:
            return table_text(path) if is_table else path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise UnsupportedFormat(f"{path}: is not text in UTF-8") from error


def table_text(path: Path) -> str:
    """Read a table's text: UTF-8, UTF-16 with its mark, or else Windows-1252, with a warning.

    Raises:
        OSError: It cannot be read.
        UnsupportedFormat: It is no text.
    """
    content = path.read_bytes()
    is_utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    for encoding in ("utf-16",) if is_utf16 else ("utf-8-sig", _CODE_PAGE):
        try:
            text = content.decode(encoding)
        except UnicodeDecodeError:
            continue
        if _CONTROLS.search(text):
            break
        if encoding == _CODE_PAGE:
            warnings.warn(
                f"{path}: is not text in UTF-8 and was read as Windows-1252; if names look wrong, save it as "
                "'CSV UTF-8'",
                stacklevel=2,
            )
        return text
    raise UnsupportedFormat(f"{path}: is not text in UTF-8")


def delimited(text: str) -> tuple[str, str]:
    """Return a table without Excel's line `sep=;`, and what stands between its cells.

    Without that line it is the most frequent of comma, semicolon and tab in the first one.
    """
    separator = _SEPARATOR_LINE.match(text)
    if separator is not None:
        text = text[separator.end() :]
        if separator["delimiter"]:
            return text, separator["delimiter"]
    return text, max(_DELIMITERS, key=text.split("\n", 1)[0].count)


def table_rows(text: str, path: Path) -> Iterator[tuple[str, dict[str, object]]]:
    """Rows of a table under its first line, which names the columns; counted as spreadsheets do.

    Args:
        text: Cells with commas, semicolons or tabs between them; a line `sep=;` before them is not counted.
        path: Its file, for messages.

    Yields:
        Where a row stands, and its cells by column.

    Raises:
        UnsupportedFormat: It is no table.
        PromptError: Two columns have the same name, a row has more cells than columns, or there is no row.
    """
    text, delimiter = delimited(text)
    reader = csv.reader(io.StringIO(text), delimiter=delimiter, skipinitialspace=True, strict=True)
    try:
        columns = [name.strip() for name in next(reader, [])]
        named = [name for name in columns if name]  # spreadsheets leave columns without one at the end
        if len(set(named)) < len(named):
            first_line = text.split("\n", 1)[0]
            raise PromptError(f"{path}: two columns have the same name; the first line is {first_line!r}")
        is_empty = True
        for number, row in enumerate(reader, start=2):
            if not any(cell.strip() for cell in row):
                continue
            if len(row) > len(columns):
                raise PromptError(
                    f"{path}: row {number}: has {len(row)} cells for {len(columns)} columns, separated by "
                    f"{delimiter!r}; put quotes around a cell with the delimiter in it"
                )
            is_empty = False
            cells = zip(columns, row, strict=False)
            yield f"{path}: row {number}", {name: cell for name, cell in cells if name or cell.strip()}
    except csv.Error as error:
        raise UnsupportedFormat(f"{path}: is not a table (CSV): {error} in line {reader.line_num}") from error
    if is_empty:
        raise PromptError(f"{path}: holds no row below its first line, which names the columns")


def number_in(value: object) -> float | None:
    """Read a finite number, with a decimal point or comma; None for others, 1,234 as well (1234?)."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(_with_point(value) if isinstance(value, str) else value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def numbers_in(text: str, counts: Sequence[int]) -> list[float] | None:
    """Read as many numbers as are wanted, with spaces, commas or semicolons between them.

    A comma may be a decimal one where only that gives as many: "26,5; 18; 54; 42" are four.

    Args:
        text: Brackets around it do not matter.
        counts: How many there may be.

    Returns:
        None if there are not so many, or a comma can be read in both ways.
    """
    stripped = text.strip().strip("[]()")
    readings = {
        tuple(numbers)
        for pattern in (r"[\s,;]+", r"[\s;]+")
        if None not in (numbers := [number_in(part) for part in re.split(pattern, stripped) if part])
        and len(numbers) in counts
    }
    if len(readings) != 1:
        return None
    return [number for number in readings.pop() if number is not None]


def comma_hint(value: object) -> str:
    """What to add to a message about a value with a comma in it."""
    has_comma = isinstance(value, str) and re.search(r"\d,\d", value) is not None
    return "; write decimals with a point" if has_comma else ""


def named_file(name: str, folder: Path) -> Path:
    r"""The file that a table in a folder means by a name; Windows writes `\` for `/`."""
    path = folder / name
    if "\\" in name and not os.path.exists(path):  # of a name that is too long, pathlib raises
        return folder / name.replace("\\", "/")
    return path


def _with_point(text: str) -> str:
    stripped = text.strip()
    is_decimal = _WITH_COMMA.fullmatch(stripped) and not _THOUSANDS.fullmatch(stripped)
    return stripped.replace(",", ".") if is_decimal else stripped
