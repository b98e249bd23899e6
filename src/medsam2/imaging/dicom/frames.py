"""Separate the volumes of a DICOM series: phases, echoes, b-values and acquisitions at the same places."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from medsam2.errors import GeometryError
from medsam2.imaging.dicom.elements import OF_A_VOLUME, OF_AN_IMAGE, TIMES, Trait, element_name
from medsam2.imaging.dicom.facts import Slice

_MOST_NAMED = 3

_Group = list[int]
"""Numbers of slices."""


@dataclass(frozen=True, eq=False)
class Frame:
    """The slices of one volume of a series."""

    numbers: tuple[int, ...]
    """Of the slices, from the lowest place up."""
    name: str = ""
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
    series = _Series(slices, places)
    groups = [list(range(len(slices)))]
    for keyword in OF_A_VOLUME:
        groups = [part for group in groups for part in series.split_by_volume(group, keyword)]
    for keyword in OF_AN_IMAGE:
        groups = [part for group in groups for part in series.split_by_image(group, keyword)]
    groups = series.in_order(part for group in groups for part in series.split_by_order(group, path))
    return [
        Frame(
            tuple(sorted(group, key=lambda number: places[number])),
            series.name_of(group) if len(groups) > 1 else "",
        )
        for group in groups
    ]


class _Series:
    """Slices with their places and traits."""

    def __init__(self, slices: Sequence[Slice], places: Sequence[int]) -> None:
        self.places = np.asarray(places)
        self.traits = [dict(one.plane.traits) for one in slices]
        keys = [(one.file.instance_number, one.frame) for one in slices]
        ranks = {key: rank for rank, key in enumerate(sorted(set(keys)))}
        self.ranks = np.array([ranks[key] for key in keys])
        """Of each slice in the order of InstanceNumber and frame; the same where these are the same."""

    def images_at_places(self, group: _Group) -> tuple[int, int]:
        """Return the fewest and the most images that a place of the group holds."""
        counts = Counter(self.places[group].tolist()).values()
        return min(counts), max(counts)

    def split_by_volume(self, group: _Group, keyword: str) -> list[_Group]:
        """Divide by a trait that differs between volumes, unless it numbers single slices."""
        parts = self._by_value(group, keyword)
        numbers_slices = self.images_at_places(group)[1] == 1 and min(map(len, parts)) < 2
        return [group] if numbers_slices else parts

    def split_by_image(self, group: _Group, keyword: str) -> list[_Group]:
        """Divide a group with several images at a place by a trait, if all places have the same values."""
        fewest, most = self.images_at_places(group)
        parts = self._by_value(group, keyword)
        if most == 1 or len(parts) == 1:
            return [group]
        if len(parts) == most and all(self.images_at_places(part)[1] == 1 for part in parts):
            return parts
        num_places = len(set(self.places[group].tolist()))
        counts = [Counter(self.places[part].tolist()) for part in parts]
        is_alike = all(len(set(count.values())) == 1 and len(count) == num_places for count in counts)
        return parts if is_alike and fewest == most else [group]

    def split_by_order(self, group: _Group, path: Path) -> list[_Group]:
        """Divide a group whose places hold several images by the order of the images at each place."""
        fewest, most = self.images_at_places(group)
        if most == 1:
            return [group]
        if fewest != most:
            raise GeometryError(
                f"{path}: {most} slices of the series lie at the same position, and {fewest} at another; "
                "a volume has one at each, a series of volumes equally many"
            )
        for keyword in TIMES:
            times: dict[int, Any] = {number: self.traits[number].get(keyword) for number in group}
            if all(isinstance(time, float) for time in times.values()):
                rows = self._at_places(group, times.__getitem__)
                if all(len({times[number] for number in row}) == most for row in rows):
                    return _columns(rows)
        self._refuse_mixed(group, path)
        rows = self._at_places(group, lambda number: int(self.ranks[number]))
        if not _counts_evenly(self.ranks[np.array(rows)]):
            raise GeometryError(
                f"{path}: {most} images of the series lie at each position, and nothing says which of them "
                f"belong together: {element_name('InstanceNumber')} counts neither volume by volume nor "
                "position by position, and acquisition, time, echo and b-value are the same or missing; put "
                "the files of each volume into a folder of its own"
            )
        return _columns(rows)

    def in_order(self, groups: Iterable[_Group]) -> list[_Group]:
        """Sort volumes by their InstanceNumbers, where each image has its own."""
        if len(set(self.ranks.tolist())) < len(self.ranks):
            return list(groups)
        return sorted(groups, key=lambda group: int(self.ranks[group].min()))

    def name_of(self, group: _Group) -> str:
        """Name what tells a volume from the others."""
        names = []
        for keyword in (*OF_A_VOLUME, *OF_AN_IMAGE):
            own = {self.traits[number].get(keyword) for number in group}
            if len(own) == 1 and len({traits.get(keyword) for traits in self.traits}) > 1:
                names.append(f"{keyword} {_shown(own.pop(), 'none')}")
        return ", ".join(names[:_MOST_NAMED])

    def _by_value(self, group: _Group, keyword: str) -> list[_Group]:
        parts: dict[Trait | None, _Group] = {}
        for number in group:
            parts.setdefault(self.traits[number].get(keyword), []).append(number)
        return [parts[value] for value in sorted(parts, key=_as_key)]

    def _at_places(self, group: _Group, key: Callable[[int], Any]) -> list[_Group]:
        """Return the slices of each place, sorted."""
        at_place: dict[int, _Group] = {}
        for number in group:
            at_place.setdefault(int(self.places[number]), []).append(number)
        return [sorted(at_place[place], key=key) for place in sorted(at_place)]

    def _refuse_mixed(self, group: _Group, path: Path) -> None:
        """Refuse traits that differ between places: there is an image too many at some of them."""
        rows = self._at_places(group, int)
        for keyword in (*OF_A_VOLUME, *OF_AN_IMAGE):
            found = [[self.traits[number].get(keyword) for number in row] for row in rows]
            differs = any(len(set(row)) > 1 for row in found)
            counts = Counter(value for row in found for value in row)
            if differs and 2 * len(counts) <= len(group):
                there = ", ".join(_shown(value, "None") for value in list(counts)[:_MOST_NAMED])
                raise GeometryError(
                    f"{path}: {len(rows[0])} images of the series lie at each position, and "
                    f"{element_name(keyword)}, which tells them apart, is {there} at some and not at others; "
                    "put the files of each volume into a folder of its own"
                )


def _as_key(value: Trait | None) -> tuple[int, float, str]:
    if value is None:
        return 0, 0.0, ""
    return (1, value, "") if isinstance(value, float) else (2, 0.0, value)


def _shown(value: Trait | None, missing: str) -> str:
    return missing if value is None else f"{value:g}" if isinstance(value, float) else value


def _columns(rows: list[_Group]) -> list[_Group]:
    return [list(column) for column in zip(*rows, strict=True)]


def _counts_evenly(ranks: np.ndarray) -> bool:
    """Whether ranks (place, volume) go through one volume after another, or one place after another."""
    if not (np.diff(ranks, axis=1) > 0).all():
        return False
    is_by_volume = all(one.max() < other.min() for one, other in pairwise(ranks.T))
    by_place = ranks[np.argsort(ranks[:, 0])]
    is_by_place = all(one.max() < other.min() for one, other in pairwise(by_place))
    offsets = ranks - ranks[:, :1]
    return is_by_volume or is_by_place or bool((offsets == offsets[0]).all())
