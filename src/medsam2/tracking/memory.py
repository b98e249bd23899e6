"""What is remembered of the slices already seen."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class FrameMemory:
    """One slice as the slices after it may look back at it."""

    slice_index: int
    spatial: Tensor
    """`(B, 64, S/16, S/16)`, bfloat16: the reference stores it so, and parity needs the rounding."""
    pointer: Tensor
    """`(B, C)` object pointer."""


@dataclass
class MemoryBank:
    """The memories of one object, or of a batch tracked together, in one direction."""

    conditioning: dict[int, FrameMemory] = field(default_factory=dict)
    """Slices that were prompted before they were tracked; never forgotten."""
    tracked: dict[int, FrameMemory] = field(default_factory=dict)
    """Slices that were reached by tracking, corrected or not."""
