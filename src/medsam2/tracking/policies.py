"""Which memories a slice looks back at: the recent ones of SAM 2, or a bank that sorts itself."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from medsam2.model.config import NUM_MEMORY_CODES
from medsam2.model.network import MemoryTokens
from medsam2.tracking.memory import FrameMemory, MemoryBank, Traits
from medsam2.tracking.step import FrameResult

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
        assert memory.spatial is not None, f"the memory of slice {z} was released and not made again"
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


def describe(memory: FrameMemory, level2: Tensor, result: FrameResult) -> Traits:
    """Make the traits of one object's memory.

    Args:
        memory: Of one slice, batch 1; compared as it is stored, rounded to bfloat16.
        level2: Features of the slice before memory, `(1, C, S/16, S/16)`.
        result: What was found in it.
    """
    assert memory.spatial is not None
    side = memory.spatial.shape[-1]
    inside = (result.low_res_logits > 0).float()
    region = F.adaptive_avg_pool2d(inside, side)[0, 0]
    present = float(result.object_logits.float())
    overlap = float(result.iou.float())
    return Traits(
        confidence=overlap * float(torch.sigmoid(torch.tensor(present))) if present > 0 else 0.0,
        descriptor=pool(memory.spatial, region),
        appearance=pool(level2, region),
        region=region,
    )


def pool(maps: Tensor, region: Tensor) -> Tensor:
    """Average maps `(1, C, H, W)` over a region `(H, W)`, or over all where it is empty; length 1, `(C,)`."""
    flat = maps[0].float().flatten(1)  # (C, HW)
    weight = region.to(flat.device).flatten()
    total = weight.sum()
    pooled = flat @ weight / total if float(total) > 0 else flat.mean(dim=1)
    return F.normalize(pooled, dim=0)


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
