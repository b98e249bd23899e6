"""What lists of scans in JSON have in common: channels, label tables and regions of several values."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import numpy as np

from medsam2.errors import InputError
from medsam2.prompts.tables import table_text

Regions = Mapping[int, frozenset[int]]
"""Number of a region -> the values of the mask that it is made of; empty where each value is an object."""


def layers_of(mask: np.ndarray, regions: Regions) -> list[np.ndarray]:
    """Number the regions of a mask.

    Args:
        mask: Whole numbers from 0.
        regions: Of its values.

    Returns:
        Masks of the same shape in which a region has its number, as few as keep regions apart that share a
        value; the mask itself where there are no regions.
    """
    if not regions:
        return [mask]
    dtype = np.uint8 if max(regions) < 256 else np.uint16
    length = max(int(mask.max()), *(max(values) for values in regions.values())) + 1
    layers = []
    for group in _apart(regions):
        numbers = np.zeros(length, dtype)
        for number in group:
            numbers[sorted(regions[number])] = number
        layers.append(numbers[mask])
    return layers


def _apart(regions: Regions) -> list[list[int]]:
    """Put regions into groups in which no two share a value."""
    groups: list[list[int]] = []
    for number, values in regions.items():
        for group in groups:
            if all(values.isdisjoint(regions[other]) for other in group):
                group.append(number)
                break
        else:
            groups.append([number])
    return groups


LARGEST_LIST_BYTES = 64 * 2**20
"""Larger JSON files and tables are taken for something else and not read."""

Table = dict[str, object]


@dataclass(frozen=True, kw_only=True)
class LabelTable:
    """What a data set calls its objects."""

    names: Mapping[int, str] = field(default_factory=dict)
    """Value -> name, or number of a region -> name; without the background."""
    ignored: frozenset[int] = frozenset()
    """Values that mean "ignore"."""
    regions: Regions = field(default_factory=dict)
    """Number -> the values that an object is made of; empty where each object is one value."""


def read_text(path: Path, *, is_table: bool = False) -> str:
    """Read a list in UTF-8, or a table as spreadsheets save it, as text.

    Raises:
        InputError: The file cannot be read, is no text, or is larger than a list would be.
    """
    try:
        size = path.stat().st_size
        if size > LARGEST_LIST_BYTES:
            raise InputError(f"{path}: has {size} bytes; a list of scans has at most {LARGEST_LIST_BYTES}")
        return table_text(path) if is_table else path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is no text in UTF-8") from error


def read_table(path: Path) -> Table:
    """Read a JSON file that holds one object.

    Raises:
        InputError: The file cannot be read, or holds something else.
    """
    try:
        table = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: not JSON: {error}") from error
    if not isinstance(table, dict):
        raise InputError(f"{path}: describes a data set by a JSON object, not by a {type(table).__name__}")
    return table


def channel_names(table: Table, path: Path) -> dict[int, str]:
    """Return number -> name of a data set's channels, from `channel_names` or `modality`.

    Raises:
        InputError: They are there in another form.
    """
    named = table.get("channel_names", table.get("modality"))
    if named is None:
        return {}
    if isinstance(named, str):
        return {0: named}
    if isinstance(named, list):
        return {number: str(name) for number, name in enumerate(named)}
    if isinstance(named, dict) and all(str(number).isdecimal() for number in named):
        return {int(number): str(name) for number, name in named.items()}
    raise InputError(f'{path}: channels are listed as {{"0": "CT", ...}}, not as {named!r}')


def choose_channel(wanted: str | None, names: Mapping[int, str], path: Path) -> int:
    """Return the number of the channel that a person named, or of the only one.

    Args:
        wanted: A number, a name in any case, or None.
        names: Number -> name; the name may be the number again.
        path: Of the data set, for messages.

    Raises:
        InputError: There is no such channel, or there are several and none is named.
    """
    listed = ", ".join(f"{number} ({name})" for number, name in sorted(names.items()))
    if wanted is None:
        if len(names) > 1:
            raise InputError(f"{path}: scans have {len(names)} channels, {listed}; choose one by --channel")
        return next(iter(names), 0)
    for number, name in names.items():
        if wanted == str(number) or wanted.strip().lower() == name.strip().lower():
            return number
    raise InputError(f"{path}: no channel is called {wanted!r}; there are {listed or 'none that have names'}")


def label_table(value: object, path: Path | str) -> LabelTable:
    """Read a table of labels in either direction.

    nnU-Net 2 writes name -> value, or a list of values for a region, which is their union; regions may
    overlap. nnU-Net 1, MSD and MONAI write value -> name. As soon as one object has several values, all
    objects are numbered in the order of the table, from 1, past the values that mean "ignore".

    Raises:
        InputError: It is there in another form, or a region holds the background.
    """
    if value is None:
        return LabelTable()
    if not isinstance(value, dict):
        raise InputError(f"{path}: labels are a JSON object, not {value!r}")
    objects: list[tuple[str, frozenset[int]]] = []
    for key, entry in value.items():
        name, numbers = (str(entry), [key]) if str(key).lstrip("-").isdecimal() else (str(key), entry)
        numbers = numbers if isinstance(numbers, list) else [numbers]
        if not numbers or not all(_is_whole(number) for number in numbers):
            raise InputError(f"{path}: the label {name!r} has the value {entry!r}, not whole numbers")
        values = frozenset(int(number) for number in numbers)
        if len(values) > 1 and min(values) < 1:
            raise InputError(f"{path}: the region {name!r} holds {min(values)}; 0 is the background")
        if values != {0}:
            objects.append((name, values))
    ignored = frozenset(v for name, values in objects if name.strip().lower() == "ignore" for v in values)
    objects = [(name, values) for name, values in objects if not values <= ignored]
    if all(len(values) == 1 for _, values in objects):
        return LabelTable(
            names=dict(sorted((min(values), name) for name, values in objects)), ignored=ignored
        )
    numbers_of = dict(zip((n for n in count(1) if n not in ignored), objects, strict=False))
    return LabelTable(
        names={number: name for number, (name, _) in numbers_of.items()},
        ignored=ignored,
        regions={number: values for number, (_, values) in numbers_of.items()},
    )


def _is_whole(value: object) -> bool:
    if isinstance(value, bool):
        return False
    return isinstance(value, int) or (isinstance(value, str) and value.lstrip("-").isdecimal())
