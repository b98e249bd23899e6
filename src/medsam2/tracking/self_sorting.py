"""A memory bank that sorts itself: sure and unlike each other are kept, like the slice at hand are recalled.

The idea is that of Medical SAM 2 (Zhu et al., arXiv 2408.00874), whose published form draws at random
from unordered pictures. This is a deterministic form for slices that follow each other: as many memories
as SAM 2 looks back at, with the temporal codes it was trained with, so that no weights need to change.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from medsam2.tracking.memory import FrameMemory, MemoryBank, Traits
from medsam2.tracking.select import NUM_RECENT, Place, Selection, with_prompts
from medsam2.tracking.traits import pool


@dataclass(frozen=True, kw_only=True)
class SelfSorting:
    """The policy and its weights; `num_recent=6` without a limit and a threshold is SAM 2's own choice."""

    capacity: int | None = 16
    """Tracked slices that compete to be recalled; None for all."""
    least_confidence: float = 0.5
    """Slices of less do not compete; absent objects have 0."""
    num_recent: int = 1
    """Slices just passed that are always looked back at: they know that an object shrinks or is gone."""
    likeness: float = 1.0
    """Weight of the likeness of a memory's slice to the slice at hand."""
    dissimilarity: float = 0.5
    """Weight of the distance of a memory to the nearest one chosen already."""
    confidence: float = 0.5
    """Weight of a memory's confidence."""

    compares = True

    def choose(self, bank: MemoryBank, place: Place) -> Selection:
        passed = place.passed(bank)
        chosen = passed[: self.num_recent]
        candidates = [z for z in passed[self.num_recent :] if z in bank.pool]
        if place.features is not None:
            here = _appearance_here(bank, place.slice_index - place.step, place.features)
            chosen += self._recall(bank, chosen, candidates, here)
        ranks = {z: rank for rank, z in enumerate(z for z in passed if z in chosen)}
        return with_prompts(bank, place, list(ranks.items()))

    def admit(self, bank: MemoryBank, slice_index: int) -> Collection[int]:
        if _traits(bank, slice_index).confidence >= self.least_confidence:
            bank.pool.append(slice_index)
        while self.capacity is not None and len(bank.pool) > self.capacity:
            bank.pool.remove(self._weakest(bank, slice_index))
        # After a correction the walk goes on from an earlier slice: its neighbours are kept as well.
        near = range(slice_index - NUM_RECENT + 1, slice_index + NUM_RECENT)
        return {*bank.pool, *near}

    def _weakest(self, bank: MemoryBank, newest: int) -> int:
        """The slice of the pool that is least sure and most like another one; of equals the farthest."""
        worth = {}
        for z in bank.pool:
            others = [*bank.conditioning, *(other for other in bank.pool if other != z)]
            worth[z] = _traits(bank, z).confidence + self.dissimilarity * _distance(bank, z, others)
        return min(bank.pool, key=lambda z: (worth[z], -abs(newest - z)))

    def _recall(self, bank: MemoryBank, chosen: list[int], candidates: list[int], here: Tensor) -> list[int]:
        """Fill the free places one by one; `candidates` come nearest first, which settles ties."""
        recalled: list[int] = []
        while candidates and len(chosen) + len(recalled) < NUM_RECENT:
            beside = [*bank.conditioning, *chosen, *recalled]
            scores = [self._score(bank, z, beside, here) for z in candidates]
            recalled.append(candidates.pop(scores.index(max(scores))))
        return recalled

    def _score(self, bank: MemoryBank, z: int, beside: list[int], here: Tensor) -> float:
        traits = _traits(bank, z)
        return (
            self.likeness * float(here @ traits.appearance)
            + self.dissimilarity * _distance(bank, z, beside)
            + self.confidence * traits.confidence
        )


def _appearance_here(bank: MemoryBank, before: int, features: Tensor) -> Tensor:
    """What the slice at hand shows where the object was in the slice before."""
    memory = bank.find(before)
    side = features.shape[-1]
    region = torch.zeros(side, side) if memory is None else _traits_of(memory).region
    return pool(features, region)


def _distance(bank: MemoryBank, z: int, others: list[int]) -> float:
    """Cosine distance of a memory to the nearest of others."""
    own = _traits(bank, z).descriptor
    return min((1 - float(own @ _traits(bank, other).descriptor) for other in others), default=math.inf)


def _traits(bank: MemoryBank, z: int) -> Traits:
    memory = bank.find(z)
    assert memory is not None
    return _traits_of(memory)


def _traits_of(memory: FrameMemory) -> Traits:
    assert memory.traits is not None, "made without traits"
    return memory.traits
