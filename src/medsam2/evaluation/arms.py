"""The memory policies an ablation compares: the two on offer, parts of the self-sorting one, controls."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from medsam2.model.network import ImageFeatures
from medsam2.tracking.memory import MemoryBank
from medsam2.tracking.select import (
    CONDITIONING_CODE,
    NUM_RECENT,
    Policy,
    Recent,
    Selection,
    official_pointers,
)
from medsam2.tracking.self_sorting import SelfSorting


@dataclass(frozen=True, kw_only=True)
class PromptOnly:
    """A control that looks back at the prompted slices alone; pointers stay."""

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
        return Selection(
            spatial=[(z, CONDITIONING_CODE) for z in bank.conditioning],
            pointers=official_pointers(bank, slice_index, step=step, num_slices=num_slices),
        )

    def admit(self, bank: MemoryBank, slice_index: int) -> Collection[int]:
        return ()


@dataclass(frozen=True, kw_only=True)
class Strided:
    """The last slice and every so-maniest before it, as SAM 2's own option takes them."""

    stride: int
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
        chosen = [slice_index - step]
        newest = (slice_index - 2 * step) * step // self.stride * self.stride * step
        chosen += [newest - step * self.stride * k for k in range(NUM_RECENT - 1)]
        ranked = [(z, rank) for rank, z in enumerate(chosen) if z in bank.tracked]
        return Selection(
            spatial=[(z, CONDITIONING_CODE) for z in bank.conditioning] + ranked[::-1],
            pointers=official_pointers(bank, slice_index, step=step, num_slices=num_slices),
        )

    def admit(self, bank: MemoryBank, slice_index: int) -> Collection[int]:
        return list(bank.tracked)


@dataclass(frozen=True, kw_only=True)
class RandomPast:
    """A control: the last slice and five drawn from those before it, by a seed and the slice's number."""

    seed: int = 0
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
        passed = sorted(
            (z for z in bank.tracked if (slice_index - z) * step > 0), key=lambda z: abs(slice_index - z)
        )
        rng = np.random.default_rng((self.seed, slice_index, step + 1))
        older = passed[1:]
        drawn = rng.permutation(len(older))[: NUM_RECENT - 1]
        chosen = passed[:1] + [older[i] for i in sorted(drawn.tolist())]
        ranked = [(z, rank) for rank, z in enumerate(chosen)]
        return Selection(
            spatial=[(z, CONDITIONING_CODE) for z in bank.conditioning] + ranked[::-1],
            pointers=official_pointers(bank, slice_index, step=step, num_slices=num_slices),
        )

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
