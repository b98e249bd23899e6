"""Read and check one entry of a prompt file: a row of a table or an object of JSON."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import NoReturn

from medsam2.errors import PromptError
from medsam2.prompts.statements import MaskFile, RecistLine, Statement
from medsam2.prompts.tables import comma_hint, named_file, number_in, numbers_in
from medsam2.prompts.types import MAX_OBJECTS, Box, Point

_ALIASES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "object": ("number", "object_id", "id"),
        "name": ("object_name",),
        "slice": ("slice_index", "key_slice", "key_slice_idx", "key_slice_index"),
        "slice_offset": (),
        "box": ("bbox",),
        "x_min": ("x0", "xmin"),
        "y_min": ("y0", "ymin"),
        "x_max": ("x1", "xmax"),
        "y_max": ("y1", "ymax"),
        "points": (),
        "labels": ("point_labels",),
        "point_x": ("x",),
        "point_y": ("y",),
        "point_label": (),
        "mask": ("mask_file",),
        "mask_label": (),
        "recist": ("recist_line",),
        "recist_points": (),
        "window": ("dicom_window",),
        "prompts": (),
    }
)
"""A key -> other names that it goes by, those of the real-time contract among them."""
_CANONICAL = {alias: key for key, aliases in _ALIASES.items() for alias in (key, *aliases)}
_CORNERS = ("x_min", "y_min", "x_max", "y_max")
_SHOWN_LENGTH = 60  # of a value in a message
MAX_RECIST_POINTS = 16


@dataclass(frozen=True)
class Entry:
    """An entry by its usual keys; empty values are left out."""

    where: str
    """File, and row or object: the beginning of a message about it."""
    values: Mapping[str, object]
    names: Mapping[str, str]
    """Usual key -> the key in the file, for messages."""

    @classmethod
    def of(cls, where: str, raw: Mapping[str, object], *, allowed: Sequence[str] = ()) -> Entry:
        """Read the keys of an entry.

        Args:
            where: File, and row or object.
            raw: Keys and values as the file has them.
            allowed: The usual keys that may be there; all but `prompts` if not given.

        Raises:
            PromptError: A key is unknown, or two of them mean the same.
        """
        known = tuple(allowed) or tuple(key for key in _ALIASES if key != "prompts")
        values: dict[str, object] = {}
        names: dict[str, str] = {}
        for name, value in raw.items():
            key = _CANONICAL.get(name.strip().lower())
            if key is None or key not in known:
                raise PromptError(f"{where}: no key is called {name!r}{_instead(name, known)}")
            if value is None or (isinstance(value, str) and not value.strip()):
                continue
            if key in values:
                raise PromptError(f"{where}: {names[key]!r} and {name!r} mean the same; give one of them")
            values[key], names[key] = value, name
        return cls(where, values, names)

    def __contains__(self, key: str) -> bool:
        return key in self.values

    def refuse(self, key: str, wanted: str) -> NoReturn:
        """Say that a value is wrong, and what would be right.

        Raises:
            PromptError: Always.
        """
        shown, hint = repr(self.values[key]), comma_hint(self.values[key])
        if len(shown) > _SHOWN_LENGTH:
            shown = f"{shown[: _SHOWN_LENGTH - 3]}..."
        raise PromptError(f"{self.where}, {self.names[key]}: {shown} is not usable; give {wanted}{hint}")

    def text(self, key: str) -> str | None:
        """A text, None if there is none."""
        if key not in self:
            return None
        value = self.values[key]
        if not isinstance(value, str):
            self.refuse(key, "a text")
        return value.strip()

    def whole(self, key: str, *, low: int | None = None, high: int | None = None) -> int | None:
        """A whole number, None if there is none."""
        if key not in self:
            return None
        number = number_in(self.values[key])
        lowest, highest = -math.inf if low is None else low, math.inf if high is None else high
        if number is None or not number.is_integer() or not lowest <= number <= highest:
            limits = ("" if low is None else f" from {low}") + ("" if high is None else f" to {high}")
            self.refuse(key, f"a whole number{limits}")
        return int(number)

    def numbers(self, key: str, counts: Sequence[int], wanted: str) -> list[float] | None:
        """A list of finite numbers, `counts` of them, None if there is none."""
        if key not in self:
            return None
        numbers = _numbers(self.values[key], counts)
        if numbers is None:
            self.refuse(key, wanted)
        return numbers

    def number(self, key: str, wanted: str) -> float:
        """A finite number, which must be there."""
        number = number_in(self.values[key])
        if number is None:
            self.refuse(key, wanted)
        return number


def window_of(entry: Entry) -> tuple[float, float] | str | None:
    """Read a window: a name or two limits."""
    value = entry.values.get("window")
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z][\w-]*", value.strip()):
        return value.strip()
    limits = entry.numbers("window", (2,), "two limits, lower first, or a window's name")
    if limits is None:
        return None
    if limits[0] >= limits[1]:
        entry.refuse("window", "two limits, lower < upper, or a window's name")
    return limits[0], limits[1]


def object_number(entry: Entry) -> int | None:
    """Read an object's number."""
    return entry.whole("object", low=1, high=MAX_OBJECTS)


def statement_of(entry: Entry, *, folder: Path, slice_offset: int = 0) -> Statement:
    """Read the prompt of an entry.

    Args:
        entry: The entry.
        folder: Names of mask files are relative to it.
        slice_offset: Number of the image's first slice, if the entry gives none.

    Raises:
        PromptError: A value is wrong, or there is no prompt.
    """
    box, points = _box(entry), _points(entry)
    line, mask = _line(entry), _mask(entry, folder)
    if box is None and not points and line is None and mask is None:
        raise PromptError(f"{entry.where}: says nothing; give a box, points, a recist line or a mask file")
    if mask is not None and (box is not None or points or line is not None):
        raise PromptError(f"{entry.where}: a mask replaces box, points and recist line; give it alone")
    if line is not None and box is not None:
        raise PromptError(f"{entry.where}: a recist line makes a box of its own; give one of the two")
    return Statement(
        where=entry.where,
        slice_index=_slice(entry, slice_offset, is_needed=mask is None),
        box=box,
        points=points,
        line=line,
        line_points=_line_points(entry),
        mask=mask,
    )


def _slice(entry: Entry, slice_offset: int, *, is_needed: bool) -> int | None:
    number = entry.whole("slice")
    offset = entry.whole("slice_offset")
    offset = slice_offset if offset is None else offset
    if number is None:
        if is_needed:
            raise PromptError(f"{entry.where}: names no slice; give the key slice's number")
        return None
    if number < offset:
        entry.refuse("slice", f"{offset} or more, since the image's first slice has that number")
    return number - offset


def _box(entry: Entry) -> Box | None:
    wanted = "four numbers x_min y_min x_max y_max"
    ends = entry.numbers("box", (4,), wanted)
    corners = [key for key in _CORNERS if key in entry]
    if ends is not None and corners:
        raise PromptError(f"{entry.where}: gives a box twice, as {entry.names['box']!r} and by its corners")
    if corners:
        missing = [key for key in _CORNERS if key not in entry]
        if missing:
            raise PromptError(f"{entry.where}: a box has four ends, {', '.join(missing)} is missing")
        ends = [entry.number(key, "a number of pixels") for key in _CORNERS]
    return None if ends is None else Box.from_xyxy(ends)


def _points(entry: Entry) -> tuple[Point, ...]:
    num_coordinates = ("point_x" in entry) + ("point_y" in entry)
    if num_coordinates:
        if "points" in entry or num_coordinates < 2:
            raise PromptError(f"{entry.where}: a point is point_x and point_y; several are points")
        x, y = (entry.number(key, "a number of pixels") for key in ("point_x", "point_y"))
        label = entry.whole("point_label", low=0, high=1)
        return (Point(x=x, y=y, is_positive=label != 0),)
    if "point_label" in entry:
        raise PromptError(f"{entry.where}: has a point_label and no point_x and point_y")
    wanted = "points as [x, y] or [x, y, label], in a table as x y label; x y label"
    rows = _rows(entry.values["points"]) if "points" in entry else []
    if rows is None:
        entry.refuse("points", wanted)
    numbers = [read for row in rows if (read := _numbers(row, (2, 3))) is not None]
    if len(numbers) < len(rows):
        entry.refuse("points", wanted)
    labels = entry.numbers("labels", (len(rows),), f"one label for each of {len(rows)} points, 1 in or 0 out")
    points = []
    for index, row in enumerate(numbers):
        x, y, *rest = row
        if rest and labels is not None:
            raise PromptError(f"{entry.where}: gives labels twice, with the points and as labels")
        kind = rest[0] if rest else 1.0 if labels is None else labels[index]
        if kind not in (0, 1):
            entry.refuse("points" if rest else "labels", "labels of 1 (inside) or 0 (outside)")
        points.append(Point(x=x, y=y, is_positive=kind == 1))
    return tuple(points)


def _mask(entry: Entry, folder: Path) -> MaskFile | None:
    name = entry.text("mask")
    label = entry.whole("mask_label", low=1)
    if name is None:
        if label is not None:
            raise PromptError(f"{entry.where}: has a mask_label and no mask")
        return None
    return MaskFile(path=named_file(name, folder), label=label)


def _line(entry: Entry) -> RecistLine | None:
    wanted = "the line's two ends x0 y0 x1 y1, or four with the short diameter"
    numbers = entry.numbers("recist", (4, 8), wanted)
    if numbers is None:
        return None
    try:
        return RecistLine.from_numbers(numbers)
    except PromptError as error:
        raise PromptError(f"{entry.where}: {error}") from None


def _line_points(entry: Entry) -> int:
    if "recist_points" in entry and "recist" not in entry:
        raise PromptError(f"{entry.where}: has recist_points and no recist line")
    return entry.whole("recist_points", low=0, high=MAX_RECIST_POINTS) or 0


def _numbers(value: object, counts: Sequence[int]) -> list[float] | None:
    """A list of numbers, or a text of them, as many as are wanted."""
    if isinstance(value, str):
        return numbers_in(value, counts)
    if not isinstance(value, (list, tuple)) or len(value) not in counts:
        return None
    numbers = [number for part in value if (number := number_in(part)) is not None]
    return numbers if len(numbers) == len(value) else None


def _rows(value: object) -> list[object] | None:
    """A list of lists or of `{"x", "y", "label"}`, or a text of points with semicolons between them."""
    if isinstance(value, str):
        if not value.strip().startswith("["):
            return [part for part in value.split(";") if part.strip()]
        try:
            value = json.loads(value)
        except ValueError:
            return None
    if not isinstance(value, list):
        return None
    rows = [_pointed(part) for part in value]
    return None if None in rows else list(rows)


def _pointed(value: object) -> list[object] | None:
    if isinstance(value, dict):
        if not {"x", "y"} <= value.keys() <= {"x", "y", "label"}:
            return None
        return [value[key] for key in ("x", "y", "label") if key in value]
    return value if isinstance(value, list) else None


def _instead(name: str, known: Sequence[str]) -> str:
    close = get_close_matches(name.lower(), known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; keys are {', '.join(known)}"
