"""The memory policies that memory_policies.py compares: the two on offer, parts of one, and controls."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from medsam2.tracking.memory import MemoryBank
from medsam2.tracking.policies import NUM_RECENT, Place, Policy, Recent, Selection, SelfSorting, with_prompts


@dataclass(frozen=True, kw_only=True)
class PromptOnly:
    """A control that looks back at the prompted slices alone; pointers stay."""

    compares = False

    def choose(self, bank: MemoryBank, place: Place) -> Selection:
        return with_prompts(bank, place, [])

    def admit(self, bank: MemoryBank, slice_index: int) -> Collection[int]:
        return ()


@dataclass(frozen=True, kw_only=True)
class Strided:
    """The last slice and every n-th one before it, as SAM 2's own option takes them."""

    stride: int
    compares = False

    def choose(self, bank: MemoryBank, place: Place) -> Selection:
        last, step = place.slice_index - place.step, place.step
        newest = (last - step) * step // self.stride * self.stride * step
        chosen = [last, *(newest - step * self.stride * k for k in range(NUM_RECENT - 1))]
        return with_prompts(bank, place, [(z, code) for code, z in enumerate(chosen) if z in bank.tracked])

    def admit(self, bank: MemoryBank, slice_index: int) -> Collection[int]:
        return list(bank.tracked)


@dataclass(frozen=True, kw_only=True)
class RandomPast:
    """A control: the last slice and five drawn from those before it, by a seed and the slice's number."""

    seed: int = 0
    compares = False

    def choose(self, bank: MemoryBank, place: Place) -> Selection:
        passed = place.passed(bank)
        last, older = passed[:1], passed[1:]
        rng = np.random.default_rng((self.seed, place.slice_index, place.step + 1))
        drawn = rng.permutation(len(older))[: NUM_RECENT - 1]
        chosen = last + [older[i] for i in sorted(drawn.tolist())]
        return with_prompts(bank, place, [(z, rank) for rank, z in enumerate(chosen)])

    def admit(self, bank: MemoryBank, slice_index: int) -> Collection[int]:
        return list(bank.tracked)


ARMS: Mapping[str, Policy] = MappingProxyType(
    {
        "recent": Recent(),
        "self-sorting": SelfSorting(),
        "sorting, 2 recent": SelfSorting(num_recent=2),
        "sorting, 3 recent": SelfSorting(num_recent=3),
        "confidence alone": SelfSorting(likeness=0.0, dissimilarity=0.0),
        "dissimilarity alone": SelfSorting(likeness=0.0, confidence=0.0),
        "likeness alone": SelfSorting(dissimilarity=0.0, confidence=0.0),
        "every 2nd slice": Strided(stride=2),
        "every 3rd slice": Strided(stride=3),
        "random past": RandomPast(),
        "prompt only": PromptOnly(),
    }
)
"""The first is what the others are compared with."""
