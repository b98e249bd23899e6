"""What lists of scans in JSON have in common: channels, label tables and the file itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from medsam2.errors import InputError

LARGEST_LIST_BYTES = 64 * 2**20
"""Larger JSON files and tables are taken for something else and not read."""

Table = dict[str, object]


def read_text(path: Path) -> str:
    """Read a list or a table as text.

    Raises:
        InputError: The file cannot be read, is no text, or is larger than a list would be.
    """
    try:
        size = path.stat().st_size
        if size > LARGEST_LIST_BYTES:
            raise InputError(f"{path}: has {size} bytes; a list of scans has at most {LARGEST_LIST_BYTES}")
        return path.read_text(encoding="utf-8-sig")
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


def label_table(value: object, path: Path | str) -> tuple[dict[int, str], frozenset[int]]:
    """Read a table of labels in either direction.

    nnU-Net 2 writes name -> value, or a list of values for a region made of several; nnU-Net 1, MSD and MONAI
    write value -> name. A value of several regions gets the name of the smallest. The background is left out.

    Returns:
        Value -> name, and the values that mean "ignore".

    Raises:
        InputError: It is there in another form.
    """
    if value is None:
        return {}, frozenset()
    if not isinstance(value, dict):
        raise InputError(f"{path}: labels are a JSON object, not {value!r}")
    regions: list[tuple[int, int, str]] = []  # size of the region, value, name
    for key, entry in value.items():
        name, numbers = (str(entry), [key]) if str(key).lstrip("-").isdecimal() else (str(key), entry)
        numbers = numbers if isinstance(numbers, list) else [numbers]
        if not all(_is_whole(number) for number in numbers):
            raise InputError(f"{path}: the label {name!r} has the value {entry!r}, not whole numbers")
        regions += [(len(numbers), int(number), name) for number in numbers]
    named: dict[int, str] = {}
    for _, number, name in sorted(regions, key=lambda region: region[0], reverse=True):
        named[number] = name
    ignored = frozenset(number for number, name in named.items() if name.strip().lower() == "ignore")
    is_object = {number: name for number, name in named.items() if number not in ignored and number != 0}
    return dict(sorted(is_object.items())), ignored


def _is_whole(value: object) -> bool:
    if isinstance(value, bool):
        return False
    return isinstance(value, int) or (isinstance(value, str) and value.lstrip("-").isdecimal())
