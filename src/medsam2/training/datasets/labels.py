"""What a data set calls the values of its masks, and objects that are made of several values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import numpy as np

from medsam2.errors import InputError

Regions = Mapping[int, frozenset[int]]
"""Number of a region -> the values of the mask that it is made of; empty where each value is an object."""


@dataclass(frozen=True, kw_only=True)
class LabelTable:
    """What a data set calls its objects."""

    names: Mapping[int, str] = field(default_factory=dict)
    """Value -> name, or number of a region -> name; without the background."""
    ignored: frozenset[int] = frozenset()
    """Values that mean "ignore"."""
    regions: Regions = field(default_factory=dict)
    """Number -> the values that an object is made of; empty where each object is one value."""


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
    numbered = list(zip((n for n in count(1) if n not in ignored), objects, strict=False))
    return LabelTable(
        names={number: name for number, (name, _) in numbered},
        ignored=ignored,
        regions={number: values for number, (_, values) in numbered},
    )


def _is_whole(value: object) -> bool:
    if isinstance(value, bool):
        return False
    return isinstance(value, int) or (isinstance(value, str) and value.lstrip("-").isdecimal())


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
    for group in _disjoint_groups(regions):
        numbers = np.zeros(length, dtype)
        for number in group:
            numbers[sorted(regions[number])] = number
        layers.append(numbers[mask])
    return layers


def _disjoint_groups(regions: Regions) -> list[list[int]]:
    """Put regions into groups in which no two share a value."""
    groups: list[list[int]] = []
    for number, values in regions.items():
        fitting = (g for g in groups if all(values.isdisjoint(regions[other]) for other in g))
        group = next(fitting, None)
        if group is None:
            groups.append([number])
        else:
            group.append(number)
    return groups
