"""The compact network learns to follow: a clip is walked slice by slice with the network's own masks.

Each slice is learnt from by itself. What comes from the slices before, masks and what memories are made of,
is detached: a long clip takes no more memory than a short one. Memories are made anew from it at each look
back, so that their weights are taught all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from medsam2.model.compact.memory import HERE, CompactMemories, cell_shares
from medsam2.model.compact.network import CompactNetwork
from medsam2.tracking.planes import Known, PromptPlanes, Sight, as_planes
from medsam2.tracking.policies import CONDITIONING_CODE, NUM_RECENT
from medsam2.training.augment import spoil
from medsam2.training.clips import FollowBatch
from medsam2.training.config import LossConfig, PromptConfig
from medsam2.training.data import Chance
from medsam2.training.optimisation import frame_loss
from medsam2.training.user import FirstPrompts, correct, prompt_clips

SPREAD_SHARE = 0.3  # of looks back: memories from anywhere, as a self-sorting bank chooses them
KEY_TRUTH_SHARE = 0.15  # of clips whose prompted slice is remembered with its true mask, as if corrected
DISTANCE_UNIT = 15.0  # slices

Backward = Callable[[Tensor], None]


class Recalled(NamedTuple):
    """What a slice looks back at, as the learner takes it; lists run over memories.

    No dataclass: Lightning Fabric looks through those for tensors to convert, and refuses frozen ones.
    """

    seen: Sequence[Tensor]
    shares: Sequence[Tensor]
    codes: Sequence[int]
    pooled: Sequence[Tensor]
    distances: Sequence[float]


class FollowLearner(nn.Module):
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
            Loss terms `(4,)`; and of the answer, mask logits `(B, 1, S, S)`, object logits, what the pointer
            is made of, and what the memory is made of.
        """
        memories = None if recalled is None else self._memories(recalled)
        answer = self.network.answer(self.network.encode_image(planes), memories)
        loss = frame_loss(
            answer.mask_logits, answer.overlap, answer.object_logits, target, self.losses, counts
        )
        return loss.terms, answer.mask_logits, answer.object_logits, answer.pooled, answer.seen

    def _memories(self, recalled: Recalled) -> CompactMemories:
        count = len(recalled.seen)
        spatial = self.network.encode_memory(
            torch.cat(tuple(recalled.seen)), torch.cat(tuple(recalled.shares))
        )
        pointers = self.network.point_at(torch.cat(tuple(recalled.pooled)))
        return CompactMemories(
            spatial=spatial.chunk(count),
            codes=recalled.codes,
            squares=[HERE] * count,
            pointers=pointers.chunk(count),
            distances=recalled.distances,
        )


@dataclass
class _Passed:
    """What is kept of the slices that a walk has passed, the prompted one first."""

    seen: list[Tensor] = field(default_factory=list)
    shares: list[Tensor] = field(default_factory=list)
    pooled: list[Tensor] = field(default_factory=list)

    def recall(self, rng: np.random.Generator) -> Recalled:
        """The prompted slice and some of the others, the nearest six or, now and then, any six."""
        last = len(self.seen) - 1
        behind = list(range(last, 0, -1))
        if len(behind) > 2 and rng.random() < SPREAD_SHARE:
            count = int(rng.integers(1, min(len(behind), NUM_RECENT) + 1))
            behind = sorted(rng.permutation(behind)[:count].tolist(), reverse=True)
        behind = behind[:NUM_RECENT]
        chosen = [0, *behind]
        return Recalled(
            seen=[self.seen[i] for i in chosen],
            shares=[self.shares[i] for i in chosen],
            codes=[CONDITIONING_CODE, *range(len(behind))],
            pooled=[self.pooled[i] for i in chosen],
            distances=[(last + 1 - i) / DISTANCE_UNIT for i in chosen],
        )


@dataclass(frozen=True, kw_only=True)
class Walked:
    """What a walk has given."""

    terms: Tensor
    """`(results, 4)` loss terms in the order of `losses.TERMS`."""
    logits: Tensor
    """`(B, T, S, S)` mask logits of each slice."""


class Walk:
    """A batch of clips on its way from the prompted slice outwards."""

    def __init__(
        self,
        learner: nn.Module,
        clips: FollowBatch,
        prompts: PromptConfig,
        chance: Chance,
        backward: Backward | None,
    ) -> None:
        """Begin a walk.

        Args:
            learner: A `FollowLearner`, wrapped or not.
            clips: What to walk through.
            prompts: What the simulated user does.
            chance: Of the user, and of what goes wrong on the way.
            backward: Takes each result's loss terms `(4,)`; None where nothing is to be learnt.
        """
        self.learner = learner
        self.clips = clips
        self.prompts = prompts
        self.chance = chance
        self.backward = backward
        self.passed = _Passed()
        self.terms: list[Tensor] = []

    def run(self) -> Walked:
        """Walk to the end."""
        logits = [self._prompted()]
        prior = key = self._remembered_key(logits[0])
        for index in range(1, self.clips.targets.shape[1]):
            found = self._tracked(index, prior, key)
            logits.append(found)
            prior = found.sigmoid()
        return Walked(terms=torch.stack(self.terms), logits=torch.stack(logits, dim=1))

    def _prompted(self) -> Tensor:
        target = self.clips.targets[:, 0]
        first = prompt_clips(target, self.prompts, self.chance.clips)
        rng = self.chance.shared
        before, beyond = (0, 2) if rng.random() < 0.5 else (2, 0)
        images = self.clips.images
        sight = Sight(grey=images[:, 1], before=images[:, before], beyond=images[:, beyond],
                      prompt=first.planes, prior=first.drawn)  # fmt: skip
        found = self._learn(0, sight, None)
        if rng.random() < self.prompts.correction_share:
            planes = first.planes
            for _ in range(int(rng.integers(1, self.prompts.max_corrections + 1))):
                planes = correct(planes, found > 0, target, self.chance.clips)
                sight = Sight(grey=images[:, 1], before=images[:, before], beyond=images[:, beyond],
                              prompt=planes, prior=found.sigmoid())  # fmt: skip
                found = self._learn(0, sight, None, again=True)
        return self._as_drawn(found, first)

    def _as_drawn(self, found: Tensor, first: FirstPrompts) -> Tensor:
        """A drawn mask is taken as it is."""
        is_drawn = first.is_drawn[:, None, None]
        return torch.where(is_drawn, (2 * self.clips.targets[:, 0] - 1) * 10, found)

    def _remembered_key(self, found: Tensor) -> Tensor:
        truth = [rng.random() < KEY_TRUTH_SHARE for rng in self.chance.clips]
        chosen = torch.tensor(truth, device=found.device)[:, None, None] & (self.backward is not None)
        inside = torch.where(chosen, self.clips.targets[:, 0], found.sigmoid())
        self.passed.shares[0] = cell_shares(inside[:, None], self.passed.seen[0].shape[-1])
        return inside

    def _tracked(self, index: int, prior: Tensor, key: Tensor) -> Tensor:
        images, target = self.clips.images, self.clips.targets[:, index]
        if self.backward is not None:
            prior = spoil(prior, self.clips.targets[:, index - 1], self.prompts, self.chance.clips)
        before = images[:, index]
        sight = Sight(
            grey=images[:, index + 1],
            before=before,
            beyond=images[:, index + 2],
            prior=prior,
            carried=Known(grey=before, inside=prior),
            key=Known(grey=images[:, 1], inside=key),
        )
        recalled = self.passed.recall(self.chance.shared)
        found = self._learn(index, sight, recalled)
        if self.chance.shared.random() < self.prompts.late_correction_share:
            nothing = torch.zeros_like(target)
            planes = PromptPlanes(box=nothing, inside=nothing, outside=nothing)
            planes = correct(planes, found > 0, target, self.chance.clips)
            again = Sight(
                grey=sight.grey, before=sight.before, beyond=sight.beyond, prompt=planes,
                prior=found.sigmoid(), carried=sight.carried, key=sight.key,
            )  # fmt: skip
            found = self._learn(index, again, recalled, again=True)
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
        kept = self.passed
        if again:
            del kept.seen[-1], kept.shares[-1], kept.pooled[-1]
        kept.seen.append(seen.detach())
        kept.shares.append(cell_shares(found.sigmoid()[:, None], seen.shape[-1]))
        kept.pooled.append(pooled.detach())
        return found
