"""Clips through the compact network slice by slice, with its own masks, to a loss for each slice.

Each slice is learnt from by itself. Masks and what memories are made of come from the slices before and are
detached, so a long clip takes no more memory than a short one. Memories are encoded anew at each look back,
so that the weights that encode them are trained all the same.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from medsam2.model.compact.memory import HERE, CompactMemories, Square, cell_shares
from medsam2.model.compact.network import CompactNetwork
from medsam2.tracking.planes import Known, PromptPlanes, Sight, as_planes
from medsam2.tracking.policies import CONDITIONING_CODE, NUM_RECENT
from medsam2.training.augment import disturb_masks
from medsam2.training.clip_workers import Chance
from medsam2.training.closer import choose_squares, clips_closer, look_closer, seen_from
from medsam2.training.compact_clips import CompactClips
from medsam2.training.config import LossConfig, PromptConfig
from medsam2.training.optimisation import frame_loss
from medsam2.training.user import correct, prompt_clips

SPREAD_SHARE = 0.3  # of looks back that take memories from anywhere, as a self-sorting bank does
KEY_TRUTH_SHARE = 0.15  # of clips whose prompted slice is remembered with its true mask, as if corrected
DISTANCE_UNIT = 15.0  # slices

Backward = Callable[[Tensor], None]


class Recalled(NamedTuple):
    """The memories that a slice looks back at; each list has one value a memory.

    No dataclass: Lightning Fabric looks through those for tensors to convert, and refuses frozen ones.
    """

    seen: Sequence[Tensor]
    shares: Sequence[Tensor]
    codes: Sequence[int]
    pooled: Sequence[Tensor]
    distances: Sequence[float]
    squares: Sequence[list[Square]]
    """For each memory, where it lies in the view of each clip."""

    def parts(self) -> list[slice]:
        """Clips that see all memories in the same places: all of them, or each by itself."""
        batch = len(self.squares[0])
        if all(squares.count(squares[0]) == batch for squares in self.squares):
            return [slice(0, batch)]
        return [slice(clip, clip + 1) for clip in range(batch)]


class CompactLearner(nn.Module):
    """The compact network as training calls it: one slice of each clip to a loss."""

    def __init__(self, network: CompactNetwork, losses: LossConfig) -> None:
        super().__init__()
        self.network = network
        self.losses = losses

    def forward(
        self, planes: Tensor, target: Tensor, counts: Tensor, recalled: Recalled | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Answer a slice.

        Args:
            planes: The input, `(B, 16, S, S)`.
            target: `(B, S, S)` of 0 and 1.
            counts: `(B,)` how much each clip counts.
            recalled: What the slice looks back at; None for a first prompt.

        Returns:
            Loss terms `(4,)`; mask logits `(B, 1, S, S)`, object logits, what the pointer is made of, and
            what the memory is made of.
        """
        memories = None if recalled is None else self._memories(recalled)
        answer = self.network.answer(self.network.encode_image(planes), memories)
        loss = frame_loss(
            answer.mask_logits, answer.overlap, answer.object_logits, target, self.losses, counts
        )
        return loss.terms, answer.mask_logits, answer.object_logits, answer.pooled, answer.seen

    def _memories(self, recalled: Recalled) -> CompactMemories | list[CompactMemories]:
        """Encode what is looked back at; for each clip by itself where their views have moved apart."""
        count = len(recalled.seen)
        spatial = self.network.encode_memory(
            torch.cat(tuple(recalled.seen)), torch.cat(tuple(recalled.shares))
        )
        pointers = self.network.point_at(torch.cat(tuple(recalled.pooled)))
        memories = [
            CompactMemories(
                spatial=[memory[own] for memory in spatial.chunk(count)],
                codes=recalled.codes,
                squares=[squares[own.start] for squares in recalled.squares],
                pointers=[pointer[own] for pointer in pointers.chunk(count)],
                distances=recalled.distances,
            )
            for own in recalled.parts()
        ]
        return memories[0] if len(memories) == 1 else memories


@dataclass
class _Bank:
    """What is kept of the slices of a clip that are done, the prompted one first."""

    seen: list[Tensor] = field(default_factory=list)
    shares: list[Tensor] = field(default_factory=list)
    pooled: list[Tensor] = field(default_factory=list)
    squares: list[list[Square]] = field(default_factory=list)

    def recall(self, rng: np.random.Generator) -> Recalled:
        """Choose the prompted slice and some others: the nearest six or, now and then, any six."""
        last = len(self.seen) - 1
        others = list(range(last, 0, -1))
        if len(others) > 2 and rng.random() < SPREAD_SHARE:
            count = int(rng.integers(1, min(len(others), NUM_RECENT) + 1))
            others = sorted(rng.permutation(others)[:count].tolist(), reverse=True)
        others = others[:NUM_RECENT]
        chosen = [0, *others]
        return Recalled(
            seen=[self.seen[i] for i in chosen],
            shares=[self.shares[i] for i in chosen],
            codes=[CONDITIONING_CODE, *range(len(others))],
            pooled=[self.pooled[i] for i in chosen],
            distances=[(last + 1 - i) / DISTANCE_UNIT for i in chosen],
            squares=[self.squares[i] for i in chosen],
        )


@dataclass(frozen=True, kw_only=True)
class Unrolled:
    """What a batch of clips has given."""

    terms: Tensor
    """`(results, 4)` loss terms in the order of `optimisation.TERMS`."""
    logits: Tensor
    """`(B, T, S, S)` mask logits of each slice."""


class Unroll:
    """A batch of clips, followed from the prompted slice to the last one."""

    def __init__(
        self,
        learner: nn.Module,
        clips: CompactClips,
        prompts: PromptConfig,
        chance: Chance,
        backward: Backward | None,
    ) -> None:
        """Begin with the prompted slice.

        Args:
            learner: A `CompactLearner`, wrapped or not.
            clips: The slices and their masks.
            prompts: What the simulated user does.
            chance: For the user, and for what disturbs the masks.
            backward: Takes each result's loss terms `(4,)`; None where nothing is to be learnt.
        """
        self.learner = learner
        self.clips = clips
        self.prompts = prompts
        self.chance = chance
        self.backward = backward
        self.bank = _Bank()
        self.terms: list[Tensor] = []

    def run(self) -> Unrolled:
        """Follow the clips to their end."""
        logits = [self._prompted()]
        prior = key = self._remembered_key(logits[0])
        closer_at = self._choose_closer()
        for index in range(1, self.clips.length):
            if index == closer_at:
                prior, key = self._look_closer(prior, key)
            found = self._tracked(index, prior, key)
            logits.append(found)
            prior = found.sigmoid()
        return Unrolled(terms=torch.stack(self.terms), logits=torch.stack(logits, dim=1))

    def _choose_closer(self) -> int | None:
        """Choose the slice from which on the view is closer; None for a clip with one view."""
        rng, length = self.chance.shared, self.clips.length
        if self.backward is None or length == 1 or rng.random() >= self.prompts.closer_share:
            return None
        return int(rng.integers(1, length))

    def _look_closer(self, prior: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        """Close in on the masks of the slice before; return them and the key slice's in the new view."""
        squares = choose_squares(prior > 0.5, self.chance.clips)
        self.clips = clips_closer(self.clips, squares)
        self.bank.squares = [
            [seen_from(*both) for both in zip(memories, squares, strict=True)]
            for memories in self.bank.squares
        ]
        return look_closer(prior, squares), look_closer(key, squares)

    def _prompted(self) -> Tensor:
        """Answer the first slice: a first prompt and sometimes corrections."""
        images, target = self.clips.images, self.clips.targets[:, 0]
        first = prompt_clips(target, self.prompts, self.chance.clips)
        rng = self.chance.shared
        before, beyond = (0, 2) if rng.random() < 0.5 else (2, 0)
        sight = Sight(
            grey=images[:, 1], before=images[:, before], beyond=images[:, beyond],
            prompt=first.planes, prior=first.drawn,
        )  # fmt: skip
        found = self._learn(0, sight, None)
        if rng.random() < self.prompts.correction_share:
            planes = first.planes
            for _ in range(int(rng.integers(1, self.prompts.max_corrections + 1))):
                planes = correct(planes, found > 0, target, self.chance.clips)
                corrected = dataclasses.replace(sight, prompt=planes, prior=found.sigmoid())
                found = self._learn(0, corrected, None, again=True)
        # A drawn mask is taken as it is.
        return torch.where(first.is_drawn[:, None, None], (2 * target - 1) * 10, found)

    def _remembered_key(self, found: Tensor) -> Tensor:
        """Return the mask of the prompted slice that is remembered, now and then the true one."""
        truth = [rng.random() < KEY_TRUTH_SHARE for rng in self.chance.clips]
        chosen = torch.tensor(truth, device=found.device)[:, None, None] & (self.backward is not None)
        inside = torch.where(chosen, self.clips.targets[:, 0], found.sigmoid())
        self.bank.shares[0] = cell_shares(inside[:, None], self.bank.seen[0].shape[-1])
        return inside

    def _tracked(self, index: int, prior: Tensor, key: Tensor) -> Tensor:
        """Answer a later slice, sometimes with a correction."""
        images, target = self.clips.images, self.clips.targets[:, index]
        if self.backward is not None:
            prior = disturb_masks(prior, self.clips.targets[:, index - 1], self.prompts, self.chance.clips)
        before = images[:, index]
        sight = Sight(
            grey=images[:, index + 1], before=before, beyond=images[:, index + 2], prior=prior,
            carried=Known(grey=before, inside=prior), key=Known(grey=images[:, 1], inside=key),
        )  # fmt: skip
        recalled = self.bank.recall(self.chance.shared)
        found = self._learn(index, sight, recalled)
        if self.chance.shared.random() < self.prompts.late_correction_share:
            nothing = torch.zeros_like(target)
            planes = PromptPlanes(box=nothing, inside=nothing, outside=nothing)
            planes = correct(planes, found > 0, target, self.chance.clips)
            corrected = dataclasses.replace(sight, prompt=planes, prior=found.sigmoid())
            found = self._learn(index, corrected, recalled, again=True)
        return found

    def _learn(self, index: int, sight: Sight, recalled: Recalled | None, *, again: bool = False) -> Tensor:
        """Answer a slice, learn from it, and keep what is to be remembered; mask logits `(B, S, S)`."""
        terms, logits, _, pooled, seen = self.learner(
            as_planes(sight), self.clips.targets[:, index], self.clips.counts[:, index], recalled
        )
        if self.backward is not None:
            self.backward(terms)
        self.terms.append(terms.detach())
        found: Tensor = logits.detach()[:, 0]
        kept = self.bank
        if again:
            del kept.seen[-1], kept.shares[-1], kept.pooled[-1], kept.squares[-1]
        kept.seen.append(seen.detach())
        kept.shares.append(cell_shares(found.sigmoid()[:, None], seen.shape[-1]))
        kept.pooled.append(pooled.detach())
        kept.squares.append([HERE] * len(found))
        return found
