"""Tables of a report: rows of text for a page, rows of values for CSV, and how numbers are written."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from medsam2.imaging.replacing import replacing

NOTHING = "-"
"""Where there is no number."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of text, each cell below its heading. The first column is the name of its row."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: frozenset[str] = frozenset()
    """Headings of further columns that hold words; all other columns hold numbers."""
    marks: tuple[str, ...] = ()
    """Of each row, how it stands out: "failed", "error", "warning" or ""; none stands out if not given."""

    def columns(self) -> list[tuple[str, str]]:
        """Return each heading with the kind of its column, "word" or "number"."""
        return [
            (text, "word" if index == 0 or text in self.words else "number")
            for index, text in enumerate(self.header)
        ]

    def marked_rows(self) -> list[tuple[str, list[tuple[str, str]]]]:
        """Return each row's mark, and its cells with the kind of their column."""
        kinds = [kind for _, kind in self.columns()]
        marks = self.marks or [""] * len(self.rows)
        return [
            (mark, list(zip(row, kinds, strict=True))) for mark, row in zip(marks, self.rows, strict=True)
        ]


def number(value: float | None, digits: int) -> str:
    """Write a number; a dash for none."""
    return NOTHING if value is None else f"{value:.{digits}f}"


def percent(share: float, interval: tuple[float, float] | None) -> str:
    """Write a share in per cent, with its interval if there is one."""
    text = f"{100 * share:.0f} %"
    if interval is None:
        return text
    low, high = interval
    return f"{text} ({100 * low:.0f} to {100 * high:.0f} %)"


def minutes(seconds: float, interval: tuple[float, float] | None = None) -> str:
    """Write seconds as minutes and seconds, with their interval if there is one."""
    whole = round(seconds)
    text = f"{whole} s" if whole < 60 else f"{whole // 60} min {whole % 60:02d} s"
    if interval is None:
        return text
    low, high = interval
    return f"{text} ({minutes(low)} to {minutes(high)})"


def counted(count: int, noun: str) -> str:
    """Write a number of things."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def write_rows(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write rows of values; an earlier file is replaced once the new one is whole.

    Raises:
        InputError: The file cannot be written.
    """
    with (
        replacing(path, ".part") as temporary,
        temporary.open("x", encoding="utf-8", errors="backslashreplace", newline="") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
