"""What is known of an object in its slices, and which memories of it a slice may look back at."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medsam2.inference.zoom import View
from medsam2.prompts.types import Prompt
from medsam2.tracking.memory import FrameMemory, MemoryBank
from medsam2.tracking.step import FrameResult


@dataclass(frozen=True, kw_only=True)
class SliceResult:
    """The object in one slice, with the view it was found in."""

    frame: FrameResult
    view: View
    runs: npt.NDArray[np.int32] | None = None
    """Run lengths of the mask on the slice, where the logits do not tell it exactly: once they have been
    rounded to save memory, and where the user drew it."""

    @property
    def score(self) -> float:
        """Predicted overlap with the truth, 0..1; 0 where the object is absent."""
        return float(self.frame.iou) if float(self.frame.object_logits) > 0 else 0.0


@dataclass(frozen=True, kw_only=True)
class TrackState:
    """An object's state at a moment, to come back to; nothing in it is ever changed."""

    prompts: Mapping[int, Prompt]
    results: Mapping[int, SliceResult]
    memory_views: Mapping[int, View]
    banks: Mapping[tuple[int, int], BankState]
    view: View | None = None
    """Today's view; None where each result has its own."""


UPWARDS, DOWNWARDS = DIRECTIONS = (1, -1)
_EVERYWHERE = -1  # the origin of slices that look back at all prompts

_BankKey = tuple[int, int]  # origin and direction


@dataclass(frozen=True, kw_only=True)
class BankState:
    """The memories at a moment; nothing in it is ever changed."""

    conditioning: Mapping[int, FrameMemory]
    tracked: Mapping[int, FrameMemory]
    pool: Sequence[int]


class Banks:
    """A bank for each direction, or for each direction from each prompted slice.

    With SAM 2, prompted slices serve both directions and tracked ones only their own, as if each direction
    were started afresh. A network that carries masks finds a slice from the nearest prompted one; it has
    learnt from clips with one prompt at their beginning, and each walk away from a prompt is such a clip.
    """

    def __init__(self, *, by_prompt: bool) -> None:
        self.by_prompt = by_prompt
        self._banks: dict[_BankKey, MemoryBank] = {}

    @property
    def conditioning(self) -> dict[int, FrameMemory]:
        """Slices that were prompted before they were tracked or, by prompt, all that were prompted."""
        return {z: memory for bank in self.going(UPWARDS) for z, memory in bank.conditioning.items()}

    def origin(self, z: int) -> int:
        """The prompted slice that a slice is found from; of two as near, the lower one."""
        if not self.by_prompt:
            return _EVERYWHERE
        return min(sorted({origin for origin, _ in self._banks}), key=lambda origin: abs(origin - z))

    def direction(self, z: int) -> int:
        """The direction in which a slice is reached."""
        start = self.origin(z) if self.by_prompt else min(self.conditioning)
        return UPWARDS if z >= start else DOWNWARDS

    def of(self, z: int, step: int) -> MemoryBank:
        """What a slice that is reached in a direction may look back at."""
        return self._banks[self.origin(z), step]

    def going(self, step: int) -> list[MemoryBank]:
        """All banks of a direction."""
        return [bank for (_, other), bank in self._banks.items() if other == step]

    def step_of(self, z: int) -> int | None:
        """The direction in which a slice was tracked; None if it was not."""
        return next((step for (_, step), bank in self._banks.items() if z in bank.tracked), None)

    def begin(self, z: int, memory: FrameMemory) -> None:
        """Look back at a prompted slice from now on."""
        origin = z if self.by_prompt else _EVERYWHERE
        if (origin, UPWARDS) not in self._banks:
            conditioning: dict[int, FrameMemory] = {}
            self._banks |= {(origin, step): MemoryBank(conditioning=conditioning) for step in DIRECTIONS}
        self._banks[origin, UPWARDS].conditioning[z] = memory

    def end(self, z: int) -> None:
        """Find no slice from a prompted one any more; only by prompt."""
        for step in DIRECTIONS:
            del self._banks[z, step]

    def forget(self, is_stale: Callable[[int], bool]) -> list[int]:
        """Drop tracked slices, and say which."""
        dropped = []
        for bank in self._banks.values():
            for z in [z for z in bank.tracked if is_stale(z)]:
                bank.forget(z)
                dropped.append(z)
        return dropped

    def state(self) -> dict[_BankKey, BankState]:
        """What there is now; memories are shared."""
        return {
            key: BankState(
                conditioning=dict(bank.conditioning), tracked=dict(bank.tracked), pool=tuple(bank.pool)
            )
            for key, bank in self._banks.items()
        }

    def restore(self, state: Mapping[_BankKey, BankState]) -> None:
        """Come back to a state."""
        self._banks = {}
        for (origin, step), was in state.items():
            other = self._banks.get((origin, -step))
            self._banks[origin, step] = MemoryBank(
                conditioning=dict(was.conditioning) if other is None else other.conditioning,
                tracked=dict(was.tracked),
                pool=list(was.pool),
            )
