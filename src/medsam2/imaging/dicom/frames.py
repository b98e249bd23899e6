"""Separate the volumes of a DICOM series: phases, echoes, b-values and acquisitions at the same places."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np

from medsam2.errors import GeometryError
from medsam2.imaging.dicom.elements import OF_A_VOLUME, OF_AN_IMAGE, TIMES, Trait, element_name
from medsam2.imaging.dicom.facts import Slice

_MOST_NAMED = 3


@dataclass(frozen=True, eq=False)
class Frame:
    """The slices of one volume of a series."""

    numbers: tuple[int, ...]
    """Of the slices, from the lowest place up."""
    name: str = field(default="")
    """What tells it from the others, as "AcquisitionNumber 2"; empty if it is the only one."""


def frames_of(slices: Sequence[Slice], places: Sequence[int], path: Path) -> list[Frame]:
    """Divide slices into volumes, so that each volume has one slice at each place.

    Phase, echo, b-value, acquisition and time in the headers decide. If the headers have none of these, the
    order of InstanceNumber decides, if it counts volume by volume or place by place.

    Args:
        slices: Of one series, alike in size and direction.
        places: For each slice the number of the place where it lies, counted along the normal.
        path: Named in errors.

    Returns:
        Volumes in the order of their numbers or traits; one if each place holds one image.

    Raises:
        GeometryError: Images of one place cannot be told apart, or some places hold more than others.
    """
    series = _Series(slices, np.asarray(places))
    groups = [list(range(len(slices)))]
    for keyword in OF_A_VOLUME:
        groups = [part for group in groups for part in series.divided(group, keyword)]
    groups = [part for group in groups for part in series.settled(group, path)]
    ordered = series.in_order(groups)
    return [
        Frame(
            tuple(sorted(group, key=lambda number: places[number])),
            series.name_of(group) if len(ordered) > 1 else "",
        )
        for group in ordered
    ]


@dataclass(frozen=True, eq=False)
class _Series:
    slices: Sequence[Slice]
    places: np.ndarray
    traits: list[dict[str, Trait]] = field(init=False)
    numbers: np.ndarray = field(init=False)
    """Of each slice, in the order of InstanceNumber and frame; the same where these are the same."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "traits", [dict(one.plane.traits) for one in self.slices])
        keys = [(one.file.instance_number, one.frame) for one in self.slices]
        order = {key: number for number, key in enumerate(sorted(set(keys)))}
        object.__setattr__(self, "numbers", np.array([order[key] for key in keys]))

    def crowd(self, group: list[int]) -> tuple[int, int]:
        """Return the fewest and the most images that a place of the group holds."""
        counts = Counter(self.places[group].tolist()).values()
        return min(counts), max(counts)

    def divided(self, group: list[int], keyword: str) -> list[list[int]]:
        """Divide by a trait that differs between volumes, unless it numbers single slices."""
        parts = self._by_value(group, keyword)
        is_numbering = self.crowd(group)[1] == 1 and min(len(part) for part in parts) < 2
        return [group] if is_numbering else parts

    def settled(self, group: list[int], path: Path) -> list[list[int]]:
        """Divide a group until each place of a part holds one image."""
        parts = [group]
        for keyword in OF_AN_IMAGE:
            parts = [part for whole in parts for part in self._divided_alike(whole, keyword)]
        return [one for part in parts for one in self._ranked(part, path)]

    def in_order(self, groups: list[list[int]]) -> list[list[int]]:
        """Sort volumes by their InstanceNumbers, where each image has its own."""
        if len(set(self.numbers.tolist())) < len(self.slices):
            return groups
        return sorted(groups, key=lambda group: int(self.numbers[group].min()))

    def name_of(self, group: list[int]) -> str:
        """Name what tells a volume from the others."""
        names = []
        for keyword in (*OF_A_VOLUME, *OF_AN_IMAGE):
            own = {self.traits[number].get(keyword) for number in group}
            if len(own) == 1 and len({traits.get(keyword) for traits in self.traits}) > 1:
                value = own.pop()
                shown = "none" if value is None else f"{value:g}" if isinstance(value, float) else value
                names.append(f"{keyword} {shown}")
        return ", ".join(names[:_MOST_NAMED])

    def _by_value(self, group: list[int], keyword: str) -> list[list[int]]:
        parts: dict[Trait | None, list[int]] = {}
        for number in group:
            parts.setdefault(self.traits[number].get(keyword), []).append(number)
        return [parts[value] for value in sorted(parts, key=_as_key)]

    def _divided_alike(self, group: list[int], keyword: str) -> list[list[int]]:
        """Divide a group with several images at a place by a trait, if all places have the same values."""
        fewest, most = self.crowd(group)
        parts = self._by_value(group, keyword)
        if most == 1 or len(parts) == 1:
            return [group]
        if len(parts) == most and all(self.crowd(part)[1] == 1 for part in parts):
            return parts
        spread = [Counter(self.places[part].tolist()) for part in parts]
        is_alike = all(
            len(set(count.values())) == 1 and len(count) == len(set(self.places[group].tolist()))
            for count in spread
        )
        return parts if is_alike and fewest == most else [group]

    def _ranked(self, group: list[int], path: Path) -> list[list[int]]:
        """Divide a group whose places hold several images by the order that these have at each place."""
        fewest, most = self.crowd(group)
        if most == 1:
            return [group]
        if fewest != most:
            raise GeometryError(
                f"{path}: {most} slices of the series lie at the same position, and {fewest} at another; "
                "a volume has one at each, a series of volumes equally many"
            )
        for keyword in TIMES:
            times = [self.traits[number].get(keyword) for number in group]
            if all(isinstance(time, float) for time in times):
                rows = self._sorted_at_places(group, lambda number, name=keyword: self.traits[number][name])  # type: ignore[misc]
                ordered = [[self.traits[number][keyword] for number in row] for row in rows]
                if all(len(set(row)) == most for row in ordered):
                    return _columns(rows)
        self._check_not_mixed(group, path)
        rows = self._sorted_at_places(group, lambda number: int(self.numbers[number]))
        if not _counts_evenly(self.numbers[np.array(rows)]):
            raise GeometryError(
                f"{path}: {most} images of the series lie at each position, and nothing says which of them "
                f"belong together: {element_name('InstanceNumber')} counts neither volume by volume nor "
                "position by position, and acquisition, time, echo and b-value are the same or missing; put "
                "the files of each volume into a folder of its own"
            )
        return _columns(rows)

    def _sorted_at_places(self, group: list[int], key: Callable[[int], object]) -> list[list[int]]:
        """Return the slices of each place, sorted."""
        at_place: dict[int, list[int]] = {}
        for number in group:
            at_place.setdefault(int(self.places[number]), []).append(number)
        return [sorted(at_place[place], key=key) for place in sorted(at_place)]  # type: ignore[arg-type]

    def _check_not_mixed(self, group: list[int], path: Path) -> None:
        """Refuse traits that differ between places: there is an image too many at some of them."""
        rows = self._sorted_at_places(group, int)
        for keyword in (*OF_A_VOLUME, *OF_AN_IMAGE):
            found = [[self.traits[number].get(keyword) for number in row] for row in rows]
            differs = any(len(set(row)) > 1 for row in found)
            counts = Counter(value for row in found for value in row)
            if differs and 2 * len(counts) <= len(group):
                there = ", ".join(
                    f"{value:g}" if isinstance(value, float) else str(value)
                    for value in list(counts)[:_MOST_NAMED]
                )
                raise GeometryError(
                    f"{path}: {len(rows[0])} images of the series lie at each position, and "
                    f"{element_name(keyword)}, which tells them apart, is {there} at some and not at others; "
                    "put the files of each volume into a folder of its own"
                )


def _as_key(value: Trait | None) -> tuple[int, float, str]:
    if value is None:
        return 0, 0.0, ""
    return (1, value, "") if isinstance(value, float) else (2, 0.0, value)


def _columns(rows: list[list[int]]) -> list[list[int]]:
    return [list(column) for column in zip(*rows, strict=True)]


def _counts_evenly(numbers: np.ndarray) -> bool:
    """Whether numbers (place, volume) go through one volume after another, or one place after another."""
    if not (np.diff(numbers, axis=1) > 0).all():
        return False
    is_by_volume = all(one.max() < other.min() for one, other in pairwise(numbers.T))
    by_place = numbers[np.argsort(numbers[:, 0])]
    is_by_place = all(one.max() < other.min() for one, other in pairwise(by_place))
    offsets = numbers - numbers[:, :1]
    return is_by_volume or is_by_place or bool((offsets == offsets[0]).all())
