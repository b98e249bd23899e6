"""Regions: objects that are made of several values of a mask, and may overlap."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

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
