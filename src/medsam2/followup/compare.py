"""Decide about each object: whose mask is kept, whether it vanished, and what is new."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medsam2.errors import InputError
from medsam2.followup.evidence import Evidence
from medsam2.followup.findings import (
    FOLLOWED,
    NEW,
    OUTSIDE,
    VANISHED,
    FollowedObject,
    Sizes,
    measure,
    shared_notes,
)
from medsam2.followup.registration import Alignment
from medsam2.imaging.drawings import DrawnLabel
from medsam2.imaging.intensity import Window
from medsam2.inference.grid import SliceGrid
from medsam2.prompts.types import MAX_OBJECTS

Masks = Mapping[int, npt.NDArray[np.bool_]]

STANDS_OUT = 1.0
"""Contrast of an object, in standard deviations, from which on its loss can be seen."""
VANISHED_SHARE = 0.3
"""Of its contrast then. What keeps less has vanished."""
LEAST_MET = 0.1
"""Dice of the network's mask with the carried one; below, the network may have found something else."""

CARRIED_NOTE = "the network's mask fits worse than the first one carried over, which is kept"
FAINT_NOTE = "hardly stands out from its surroundings, so that a loss would not be seen"
CUT_NOTE = "reaches beyond the second scan"


@dataclass(frozen=True, kw_only=True, eq=False)
class Pair:
    """Both scans, the objects of the first one, and where they are expected in the second one."""

    grids: tuple[SliceGrid, SliceGrid]
    windows: tuple[Window, Window]
    alignment: Alignment
    masks: Masks
    """On the first scan's grid."""
    carried: Masks
    """On the second scan's grid; empty for an object outside."""
    names: Mapping[int, str | None]

    def compare(
        self, found: Masks, labels: npt.NDArray[np.uint8]
    ) -> tuple[list[FollowedObject], dict[int, npt.NDArray[np.bool_]]]:
        """Compare the objects.

        Args:
            found: Masks of the network, each whole, on the second scan's grid.
            labels: The same without overlaps.

        Returns:
            The objects in the order of their numbers, and the masks that are kept, without overlaps.
        """
        merged = shared_notes(sorted(found), dict(found))
        objects, kept = [], {}
        for number, mask in sorted(self.masks.items()):
            then = measure(mask, self.grids[0].volume, self.grids[0].axis)
            if number not in found:
                objects.append(self._object(number, OUTSIDE, then, None))
                continue
            status, source, notes, now = self._judge(number, found[number])
            if source == "network":
                now = labels == number
                notes += [merged[number]] if number in merged else []
            if status == FOLLOWED:
                kept[number] = now
            sizes = measure(now, self.grids[1].volume, self.grids[1].axis)
            objects.append(self._object(number, status, then, sizes, source, notes))
        return objects, kept

    def _judge(
        self, number: int, found: npt.NDArray[np.bool_]
    ) -> tuple[str, str | None, list[str], npt.NDArray[np.bool_]]:
        """Return an object's status, whose mask is kept, notes and that mask."""
        first, second = (grid.volume for grid in self.grids)
        carried = self.carried[number]
        then = Evidence(first, self.windows[0], self.masks[number]).contrast()
        expected = Evidence(second, self.windows[1], carried)
        sign = 1.0 if then >= 0 else -1.0
        nothing = np.zeros_like(carried)
        notes = [CUT_NOTE] if _touches_end(carried, self.grids[1].axis) else []
        if abs(then) < STANDS_OUT:
            notes.append(FAINT_NOTE)
        elif sign * expected.contrast() < VANISHED_SHARE * abs(then):
            return (
                VANISHED,
                None,
                [*notes, f"its contrast fell from {then:.1f} to {expected.contrast():.1f}"],
                nothing,
            )
        if not found.any():
            return FOLLOWED, "carried", [*notes, CARRIED_NOTE], carried
        by_network = Evidence(second, self.windows[1], found)
        if sign * by_network.edge() < sign * expected.edge():
            return FOLLOWED, "carried", [*notes, CARRIED_NOTE], carried
        return FOLLOWED, "network", notes, found

    def _object(
        self, number: int, status: str, then: Sizes, now: Sizes | None, source: str | None = None,
        notes: Sequence[str] = (),
    ) -> FollowedObject:  # fmt: skip
        return FollowedObject(
            number=number, name=self.names.get(number), status=status, then=then, now=now, source=source,
            notes=tuple(notes),
        )  # fmt: skip


def new_objects(
    drawn: Mapping[DrawnLabel, npt.NDArray[np.bool_]],
    known: Sequence[npt.NDArray[np.bool_]],
    taken: set[int],
    grid: SliceGrid,
) -> list[tuple[FollowedObject, npt.NDArray[np.bool_]]]:
    """Find what a reader drew where no known object is.

    Args:
        drawn: The reader's objects on the second scan's grid.
        known: Masks of known objects, kept or carried over.
        taken: Their numbers.
        grid: The second scan.

    Raises:
        InputError: There are more objects than a mask can hold.
    """
    met = np.zeros(grid.volume.shape, bool)
    for mask in known:
        met |= mask
    found = []
    free = (number for number in range(1, MAX_OBJECTS + 1) if number not in taken)
    for label, mask in drawn.items():
        if (mask & met).any():
            continue
        number = next(free, None)
        if number is None:
            raise InputError(
                f"there are more than {MAX_OBJECTS} objects with the new ones; a mask has no more"
            )
        one = FollowedObject(
            number=number, name=label.name, status=NEW, then=None, source="reader",
            now=measure(mask, grid.volume, grid.axis), notes=(f"label {label.number} of the reader's mask",),
        )  # fmt: skip
        found.append((one, mask))
    return found


def _touches_end(mask: npt.NDArray[np.bool_], axis: int) -> bool:
    """Whether a mask reaches the first or the last slice, or the edge of one."""
    ends = (mask[0], mask[-1], mask[:, 0], mask[:, -1], mask[:, :, 0], mask[:, :, -1])
    return any(bool(end.any()) for end in ends)
