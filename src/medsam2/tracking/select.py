"""Which memories a slice looks back at: the choice of SAM 2, and what every policy has to do."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from medsam2.model.config import NUM_MEMORY_CODES
from medsam2.model.network import ImageFeatures, MemoryTokens
from medsam2.tracking.memory import MemoryBank

CONDITIONING_CODE = NUM_MEMORY_CODES - 1
NUM_RECENT = NUM_MEMORY_CODES - 1
MAX_POINTERS = 16


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What a slice looks back at, in the order the network gets it."""

    spatial: Sequence[tuple[int, int]]
    """Slice and temporal code of each spatial memory: 0 the nearest ... 5, and 6 for a prompted slice."""
    pointers: Sequence[tuple[int, float]]
    """Slice of each object pointer and its distance in units of the longest one remembered."""


class Policy(Protocol):
    """Chooses what a slice looks back at."""

    @property
    def compares(self) -> bool:
        """Whether it needs `FrameMemory.traits`."""
        ...

    def choose(
        self,
        bank: MemoryBank,
        slice_index: int,
        *,
        step: int,
        num_slices: int,
        features: ImageFeatures | None = None,
    ) -> Selection:
        """Choose among the memories of a bank.

        Args:
            bank: Memories of this object and direction.
            slice_index: The slice to be segmented.
            step: 1 when propagating to higher indices, -1 to lower ones.
            num_slices: Slices in the volume; few slices stretch the unit of pointer distances.
            features: Of the slice, for a policy that compares it with what is remembered.
        """
        ...

    def admit(self, bank: MemoryBank, slice_index: int) -> Collection[int]:
        """Take note of a tracked slice that was just added.

        Returns:
            The tracked slices whose spatial memory a later slice may look back at.
        """
        ...


class Recent:
    """SAM 2's choice: every prompted slice and the six slices just passed."""

    compares = False

    def choose(
        self,
        bank: MemoryBank,
        slice_index: int,
        *,
        step: int,
        num_slices: int,
        features: ImageFeatures | None = None,
    ) -> Selection:
        spatial = [(z, CONDITIONING_CODE) for z in bank.conditioning]
        for distance in range(NUM_RECENT, 0, -1):
            z = slice_index - step * distance
            if z in bank.tracked:
                spatial.append((z, distance - 1))
        return Selection(
            spatial=spatial, pointers=official_pointers(bank, slice_index, step=step, num_slices=num_slices)
        )

    def admit(self, bank: MemoryBank, slice_index: int) -> Collection[int]:
        return range(slice_index - NUM_RECENT + 1, slice_index + NUM_RECENT)


def official_pointers(
    bank: MemoryBank, slice_index: int, *, step: int, num_slices: int
) -> list[tuple[int, float]]:
    """Object pointers as SAM 2 chooses them: prompted slices behind, and the fifteen slices just passed."""
    # A prompted slice that lies ahead gives its spatial memory but not its pointer.
    behind = [z for z in bank.conditioning if (slice_index - z) * step >= 0]
    pointers = [(z, abs(slice_index - z)) for z in behind]
    longest = min(num_slices, MAX_POINTERS) - 1
    for distance in range(1, longest + 1):
        z = slice_index - step * distance
        if z in bank.tracked:
            pointers.append((z, distance))
    return [(z, distance / longest) for z, distance in pointers]


def gather(bank: MemoryBank, selection: Selection) -> MemoryTokens:
    """Take what was selected out of a bank."""
    spatial = []
    for z, _ in selection.spatial:
        memory = bank.find(z)
        assert memory is not None
        assert memory.spatial is not None, f"the memory of slice {z} was let go and not made again"
        spatial.append(memory.spatial)
    pointers = [memory.pointer for z, _ in selection.pointers if (memory := bank.find(z)) is not None]
    return MemoryTokens(
        spatial=spatial,
        codes=[code for _, code in selection.spatial],
        pointers=pointers,
        distances=[distance for _, distance in selection.pointers],
    )


def recent(bank: MemoryBank, slice_index: int, *, step: int, num_slices: int) -> MemoryTokens:
    """Select and gather as SAM 2 does; see `Policy.choose` for the arguments."""
    return gather(bank, Recent().choose(bank, slice_index, step=step, num_slices=num_slices))
