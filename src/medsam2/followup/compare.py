"""Decide about each object: whose mask is kept, whether it vanished, and what is new."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from medsam2.errors import InputError
from medsam2.followup.contrast import contrast
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
from medsam2.imaging.labels import bounding_box
from medsam2.inference.grid import SliceGrid
from medsam2.measure.overlap import dice
from medsam2.measure.sizes import volume_ml
from medsam2.prompts.types import MAX_OBJECTS

Masks = Mapping[int, npt.NDArray[np.bool_]]

STANDS_OUT = 1.0
"""Contrast of an object, in standard deviations, from which on its loss can be seen."""
VANISHED_SHARE = 0.3
"""Of its contrast then. What keeps less has vanished."""
LEAST_AGREEMENT = 0.8
"""Dice of the network's mask with the drawn one in the first scan, where the answer is known. Below, the
network does not know this object, and its mask of the second scan is not better than the carried one."""
TIMES_ERROR = 2.0
"""The network's mask is kept where 1 - Dice with the carried mask is more than so many times its error in the
first scan, and more than one layer of voxels around the object makes. Less may be its own error in both
scans."""
LEAST_INSIDE = 0.5
"""Share of an object that the second scan must reach, so that it is compared at all."""

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
        self, found: Masks, agreement: Mapping[int, float]
    ) -> tuple[list[FollowedObject], dict[int, npt.NDArray[np.bool_]]]:
        """Compare the objects.

        Args:
            found: Masks of the network, each whole, on the second scan's grid.
            agreement: Dice of the network's mask with the one that was drawn, of each object in the first
                scan.

        Returns:
            The objects in the order of their numbers, and the masks that are kept.
        """
        merged = shared_notes(sorted(found), dict(found))
        objects, kept = [], {}
        for number, mask in sorted(self.masks.items()):
            then = measure(mask, self.grids[0].volume, self.grids[0].axis)
            notes = [CUT_NOTE] if _touches_end(self.carried[number]) else []
            if number not in found or (notes and self._share_inside(number, then) < LEAST_INSIDE):
                objects.append(self._object(number, OUTSIDE, then, None))
                continue
            loss = self._loss(number, found[number], agreement[number])
            if loss is not None:
                nothing = Sizes(volume_ml=0.0, diameters=None)
                objects.append(self._object(number, VANISHED, then, nothing, None, [*notes, loss]))
                continue
            now, source, reason = self._choose(number, found[number], agreement[number])
            notes += reason
            if source == "network" and number in merged:
                notes.append(merged[number])
            kept[number] = now
            sizes = measure(now, self.grids[1].volume, self.grids[1].axis)
            objects.append(self._object(number, FOLLOWED, then, sizes, source, notes))
        return objects, kept

    def _share_inside(self, number: int, then: Sizes) -> float:
        """How much of an object the second scan reaches, if it did not change."""
        voxels = int(np.count_nonzero(self.carried[number]))
        return volume_ml(voxels, self.grids[1].volume.affine) / then.volume_ml

    def _loss(self, number: int, found: npt.NDArray[np.bool_], agreement: float) -> str | None:
        """Say that an object stood out and does not any more; None if it does, or if it never did."""
        first, second = (grid.volume for grid in self.grids)
        then = contrast(first, self.windows[0], self.masks[number])
        if abs(then) < STANDS_OUT:
            return None
        sign = 1.0 if then > 0 else -1.0
        # A shrunken object fills only a part of the carried mask. A good network shows it better.
        places = [self.carried[number]]
        if agreement >= LEAST_AGREEMENT and found.any():
            places.append(found)
        now = max(sign * contrast(second, self.windows[1], mask) for mask in places) * sign
        if sign * now >= VANISHED_SHARE * abs(then):
            return None
        return f"it stood out by {then:.1f} standard deviations from its surroundings, and now by {now:.1f}"

    def _choose(
        self, number: int, found: npt.NDArray[np.bool_], agreement: float
    ) -> tuple[npt.NDArray[np.bool_], str, list[str]]:
        """Choose between the network's mask and the carried one, and say why if the reader should know."""
        carried = self.carried[number]
        if agreement < LEAST_AGREEMENT or not found.any():
            return carried, "carried", [
                f"the network does not find it well in the baseline either (Dice {agreement:.2f}), so its "
                "mask is the first one carried over: look at it"
            ]  # fmt: skip
        if 1 - dice(found, carried) <= max(TIMES_ERROR * (1 - agreement), _one_layer(carried)):
            return carried, "carried", []
        return found, "network", []

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


def _one_layer(mask: npt.NDArray[np.bool_]) -> float:
    """1 - Dice of a mask with itself and as many voxels more as its outline has."""
    box = bounding_box(mask)
    assert box is not None
    part = np.pad(mask[box], 1)
    outline = int(np.count_nonzero(part & ~ndimage.binary_erosion(part)))
    return outline / (2 * int(np.count_nonzero(part)) + outline)


def _touches_end(mask: npt.NDArray[np.bool_]) -> bool:
    """Whether a mask reaches an end of its scan."""
    ends = (mask[0], mask[-1], mask[:, 0], mask[:, -1], mask[:, :, 0], mask[:, :, -1])
    return any(bool(end.any()) for end in ends)
