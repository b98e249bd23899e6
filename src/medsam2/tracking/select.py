"""Which memories a slice looks back at: policies over a memory bank."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Protocol

from medsam2.model.config import NUM_MEMORY_CODES
from medsam2.model.network import MemoryTokens
from medsam2.tracking.memory import MemoryBank

CONDITIONING_CODE = NUM_MEMORY_CODES - 1
NUM_RECENT = NUM_MEMORY_CODES - 1
MAX_POINTERS = 16


class Policy(Protocol):
    """Chooses what a slice looks back at; see `recent` for the arguments."""

    def __call__(self, bank: MemoryBank, slice_index: int, *, step: int, num_slices: int) -> MemoryTokens: ...


def recent(bank: MemoryBank, slice_index: int, *, step: int, num_slices: int) -> MemoryTokens:
    """Select as SAM 2 does: every prompted slice and the six slices just passed.

    Args:
        bank: Memories of this object and direction.
        slice_index: The slice to be segmented.
        step: 1 when propagating to higher indices, -1 to lower ones.
        num_slices: Slices in the volume; few slices stretch the unit of pointer distances.
    """
    spatial = [memory.spatial for memory in bank.conditioning.values()]
    codes = [CONDITIONING_CODE] * len(spatial)
    for distance in range(NUM_RECENT, 0, -1):
        memory = bank.tracked.get(slice_index - step * distance)
        if memory is not None:
            spatial.append(memory.spatial)
            codes.append(distance - 1)

    # A prompted slice that lies ahead gives its spatial memory but not its pointer.
    behind = [m for m in bank.conditioning.values() if (slice_index - m.slice_index) * step >= 0]
    pointers = [(memory, abs(slice_index - memory.slice_index)) for memory in behind]
    longest = min(num_slices, MAX_POINTERS) - 1
    for distance in range(1, longest + 1):
        memory = bank.tracked.get(slice_index - step * distance)
        if memory is not None:
            pointers.append((memory, distance))
    return MemoryTokens(
        spatial=spatial,
        codes=codes,
        pointers=[memory.pointer for memory, _ in pointers],
        distances=[distance / longest for _, distance in pointers],
    )


POLICIES: Mapping[str, Policy] = MappingProxyType({"recent": recent})
"""The memory policies by the names a caller gives."""
