"""What became of each object between two scans: its sizes then and now, and what a reader should look at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medsam2.followup.registration import Alignment
from medsam2.imaging.geometry import Cut, in_plane_mm, slices_along
from medsam2.imaging.intensity import Window
from medsam2.imaging.volume import Volume
from medsam2.measure.sizes import Diameters, diameters, volume_ml

FOLLOWED, VANISHED, OUTSIDE, NEW = "followed", "vanished", "outside", "new"
COLUMNS = (
    *("object", "name", "status", "volume_then_ml", "volume_now_ml", "volume_change_percent"),
    *("long_then_mm", "long_now_mm", "long_change_percent", "short_then_mm", "short_now_mm", "note"),
)


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Sizes of an object in one scan."""

    volume_ml: float
    diameters: Diameters | None
    """In the plane of the slices; None for an object without voxels."""

    @property
    def long_mm(self) -> float:
        """The longest diameter."""
        return 0.0 if self.diameters is None else self.diameters.long.length_mm

    @property
    def short_mm(self) -> float:
        """The longest diameter at right angles to it."""
        return 0.0 if self.diameters is None else self.diameters.short.length_mm


@dataclass(frozen=True, kw_only=True)
class FollowedObject:
    """One object in both scans."""

    number: int
    """Its label in the mask of the first scan and in that of the second."""
    name: str | None
    status: str
    """`followed`; `vanished`: it does not stand out any more where it was; `outside`: most of it
    lies where the second scan does not reach; `new`: a reader drew it on the second scan alone."""
    then: Sizes | None
    """None for a new object."""
    now: Sizes | None
    """None for an object outside; 0 for one that vanished."""
    source: str | None = None
    """`network` or `carried`: whose mask it is. `reader` for a new object."""
    notes: tuple[str, ...] = ()
    """What a reader should look at."""

    @property
    def title(self) -> str:
        """Number and name."""
        return f"{self.number}" if self.name is None else f"{self.number} {self.name}"

    @property
    def volume_change_percent(self) -> float | None:
        """Of the volume then; None where one of both is not known."""
        return _change(self.then, self.now, "volume_ml")

    @property
    def long_change_percent(self) -> float | None:
        """Of the longest diameter then; None where one of both is not known."""
        return _change(self.then, self.now, "long_mm")

    def values(self) -> tuple[object, ...]:
        """One row of the table, in the order of `COLUMNS`; None where nothing is known."""
        then, now = (
            (None, None, None) if one is None else (one.volume_ml, one.long_mm, one.short_mm)
            for one in (self.then, self.now)
        )
        return (
            self.number, self.name, self.status, then[0], now[0], self.volume_change_percent, then[1], now[1],
            self.long_change_percent, then[2], now[2], "; ".join(self.notes),
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True, eq=False)
class FollowUp:
    """Both scans, how they were registered, and all objects."""

    first: Volume
    second: Volume
    windows: tuple[Window, Window]
    alignment: Alignment
    cuts: tuple[Cut, Cut]
    """How each scan is cut into slices of one plane, in which diameters lie, and how these are shown."""
    objects: tuple[FollowedObject, ...]
    labels: Volume
    """uint8, on the second scan's grid, with the numbers of the first scan's objects."""
    masks_then: dict[int, npt.NDArray[np.bool_]]
    """Of each object, `(z, y, x)` on the first scan's grid."""
    carried: dict[int, npt.NDArray[np.bool_]]
    """Of each object, the first mask carried over, `(z, y, x)` on the second scan's grid."""
    notes: tuple[str, ...] = ()
    """What a reader should know about both scans."""

    def totals(self) -> dict[str, float]:
        """Sums over the objects that both scans show or showed; new ones and those outside do not count."""
        counted = [one for one in self.objects if one.status in (FOLLOWED, VANISHED)]
        sums = {
            name: sum(getattr(sizes, what) for one in counted if (sizes := getattr(one, when)) is not None)
            for name, what, when in (
                ("volume_then_ml", "volume_ml", "then"), ("volume_now_ml", "volume_ml", "now"),
                ("long_then_mm", "long_mm", "then"), ("long_now_mm", "long_mm", "now"),
            )
        }  # fmt: skip
        return {"num_objects": len(counted), **sums}

    def rows(self) -> Iterator[tuple[object, ...]]:
        """A row for each object, in the order of `COLUMNS`."""
        return (one.values() for one in self.objects)


def measure(mask: npt.NDArray[np.bool_], volume: Volume, axis: int) -> Sizes:
    """Measure a mask.

    Args:
        mask: Boolean `(z, y, x)`.
        volume: The scan with its grid.
        axis: File axis along which it is cut into slices.
    """
    return Sizes(
        volume_ml=volume_ml(int(np.count_nonzero(mask)), volume.affine),
        diameters=diameters(slices_along(mask, axis), in_plane_mm(volume.affine, axis)),
    )


def percent_change(then: float, now: float) -> float | None:
    """Return a change in per cent of what was; None if nothing was."""
    return 100 * (now - then) / then if then else None


def shared_notes(numbers: Sequence[int], masks: dict[int, npt.NDArray[np.bool_]]) -> dict[int, str]:
    """Say which objects may have merged: most voxels of the smaller one are in the other one too."""
    notes = {}
    for place, one in enumerate(numbers):
        for other in numbers[place + 1 :]:
            smaller = min(int(np.count_nonzero(masks[number])) for number in (one, other))
            if smaller and np.count_nonzero(masks[one] & masks[other]) > smaller / 2:
                notes[one] = f"covers the same voxels as object {other}; they may have merged"
                notes[other] = f"covers the same voxels as object {one}; they may have merged"
    return notes


def _change(then: Sizes | None, now: Sizes | None, what: str) -> float | None:
    return None if then is None or now is None else percent_change(getattr(then, what), getattr(now, what))
