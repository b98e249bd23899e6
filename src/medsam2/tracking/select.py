"""Which memories a slice looks back at: the choice of SAM 2, and what every policy has to do."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from medsam2.model.config import NUM_MEMORY_CODES
from medsam2.model.network import MemoryTokens
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


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where the walk through a volume stands."""

    slice_index: int
    """The slice to be segmented."""
    step: int
    """1 when propagating to higher indices, -1 to lower ones."""
    num_slices: int
    """Slices in the volume; few slices stretch the unit of pointer distances."""
    features: Tensor | None = None
    """Features of the slice before memory, `(1, C, S/16, S/16)`, for a policy that compares."""

    def passed(self, bank: MemoryBank) -> list[int]:
        """Tracked slices that lie behind, the nearest first."""
        behind = (z for z in bank.tracked if (self.slice_index - z) * self.step > 0)
        return sorted(behind, key=lambda z: abs(self.slice_index - z))


class Policy(Protocol):
    """Chooses what a slice looks back at."""

    @property
    def compares(self) -> bool:
        """Whether it needs `FrameMemory.traits`."""
        ...

    def choose(self, bank: MemoryBank, place: Place) -> Selection:
        """Choose among a bank's memories of this object and direction."""
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

    def choose(self, bank: MemoryBank, place: Place) -> Selection:
        near = (place.slice_index - place.step * distance for distance in range(1, NUM_RECENT + 1))
        return with_prompts(bank, place, [(z, code) for code, z in enumerate(near) if z in bank.tracked])

    def admit(self, bank: MemoryBank, slice_index: int) -> Collection[int]:
        return range(slice_index - NUM_RECENT + 1, slice_index + NUM_RECENT)


def with_prompts(bank: MemoryBank, place: Place, tracked: Sequence[tuple[int, int]]) -> Selection:
    """Complete tracked slices and their codes, nearest first, by prompted slices and SAM 2's pointers."""
    prompted = [(z, CONDITIONING_CODE) for z in bank.conditioning]
    return Selection(spatial=[*prompted, *reversed(tracked)], pointers=_pointers(bank, place))


def _pointers(bank: MemoryBank, place: Place) -> list[tuple[int, float]]:
    """Object pointers of prompted slices behind and of the fifteen slices just passed."""
    # A prompted slice that lies ahead gives its spatial memory but not its pointer.
    behind = [z for z in bank.conditioning if (place.slice_index - z) * place.step >= 0]
    pointers = [(z, abs(place.slice_index - z)) for z in behind]
    longest = min(place.num_slices, MAX_POINTERS) - 1
    for distance in range(1, longest + 1):
        z = place.slice_index - place.step * distance
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
    """Select and gather as SAM 2 does; see `Place` for the arguments."""
    place = Place(slice_index=slice_index, step=step, num_slices=num_slices)
    return gather(bank, Recent().choose(bank, place))
