"""What is remembered of the slices already seen."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Traits:
    """What one object's memory is compared by; all float32, so that every device chooses alike."""

    confidence: float
    """Predicted overlap times the probability of presence, 0 where the object is absent."""
    descriptor: Tensor
    """`(64,)` spatial memory averaged over the object, of length 1."""
    appearance: Tensor
    """`(C,)` features of the slice averaged over the object, of length 1."""
    region: Tensor
    """`(S/16, S/16)` share of each cell that the object covers."""


@dataclass(frozen=True, kw_only=True)
class FrameMemory:
    """One slice as the slices after it may look back at it."""

    slice_index: int
    spatial: Tensor | None
    """`(B, 64, S/16, S/16)`, bfloat16: the reference stores it so, and parity needs the rounding. None
    where it was released because no slice is expected to look back so far."""
    pointer: Tensor
    """`(B, C)` object pointer."""
    traits: Traits | None = None
    """Made for policies that compare memories, of one object at a time."""


@dataclass
class MemoryBank:
    """The memories of one object, or of a batch tracked together, in one direction."""

    conditioning: dict[int, FrameMemory] = field(default_factory=dict)
    """Slices that were prompted before they were tracked; never forgotten."""
    tracked: dict[int, FrameMemory] = field(default_factory=dict)
    """Slices that were reached by tracking, corrected or not, in the order they were reached."""
    pool: list[int] = field(default_factory=list)
    """Tracked slices that a policy has picked to look back at however far they lie."""

    def find(self, slice_index: int) -> FrameMemory | None:
        """The memory of a slice, if there is one."""
        return self.conditioning.get(slice_index) or self.tracked.get(slice_index)

    def forget(self, slice_index: int) -> None:
        """Drop a tracked slice."""
        del self.tracked[slice_index]
        if slice_index in self.pool:
            self.pool.remove(slice_index)

    def release_others(self, keep: Collection[int]) -> None:
        """Free the spatial memories of tracked slices that are not among `keep`."""
        for z in [z for z in self._held() if z not in keep]:
            self.tracked[z] = dataclasses.replace(self.tracked[z], spatial=None)

    def _held(self) -> Iterator[int]:
        return (z for z, memory in self.tracked.items() if memory.spatial is not None)
