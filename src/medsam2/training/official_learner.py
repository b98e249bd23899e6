"""Clips through the official network's recurrence, with a simulated user, to their losses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from medsam2.inference.features import normalise
from medsam2.model.network import ImageFeatures, MemoryTokens, Network
from medsam2.tracking.memory import MemoryBank
from medsam2.tracking.policies import recent
from medsam2.tracking.step import FrameResult, PromptTensors, remember, track_frame
from medsam2.training.clip_workers import Chance
from medsam2.training.config import LossConfig, PromptConfig
from medsam2.training.optimisation import FrameLoss, frame_loss
from medsam2.training.user import click_correction, click_inside, draw_box

NUM_SLICES = 16  # pointer distances as in a stack of 16 slices or more

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class ClipOutcome:
    """Losses and results of a batch of clips."""

    losses: list[FrameLoss]
    results: list[FrameResult]
    """The last result of every slice, in the clip's order."""


class OfficialLearner(nn.Module):
    """The network as training calls it: clips in, losses out."""

    def __init__(
        self, network: Network, prompts: PromptConfig, losses: LossConfig, *, recompute: bool = False
    ) -> None:
        super().__init__()
        self.network = network
        self.prompts = prompts
        self.losses = losses
        self.recompute = recompute

    def forward(self, images: Tensor, targets: Tensor, chance: Chance) -> Tensor:
        """Loss terms of a batch of clips, `(results, 4)`; see `unroll` and `losses.TERMS`."""
        losses = self.unroll(images, targets, chance).losses
        return torch.stack([loss.terms for loss in losses])

    def unroll(self, images: Tensor, targets: Tensor, chance: Chance) -> ClipOutcome:
        """Run a batch of clips through the recurrence.

        Args:
            images: uint8 `(B, T, S, S)`, the prompted slice first.
            targets: `(B, T, S, S)` of 0 and 1.
            chance: For the simulated user.
        """
        batch, length = images.shape[:2]
        targets = targets.float()  # Fabric hands floating-point inputs over in the run's precision
        pictures = normalise(images.flatten(0, 1)).unflatten(0, (batch, length))
        encoded = self._encode_all(pictures)
        bank = MemoryBank()
        losses: list[FrameLoss] = []
        seen: dict[int, _Seen] = {}
        drawn = self._second(length, chance)
        for index in [0, *drawn, *(index for index in range(1, length) if index not in drawn)]:
            picture = _Picture(features=encoded[index], target=targets[:, index])
            is_prompted = index == 0 or index in drawn
            if index == 0:
                seen[0] = self._prompted(picture, chance, losses, may_draw=length > 1)
            elif is_prompted:
                seen[index] = self._drawn(picture)
            else:
                memory = recent(bank, index, step=1, num_slices=NUM_SLICES)
                seen[index] = self._tracked(picture, memory, chance, losses)
            if index + 1 < length or is_prompted:
                slot, found = bank.conditioning if is_prompted else bank.tracked, seen[index]
                slot[index] = remember(
                    self.network, found.features, found.result, slice_index=index, binarise=False
                )
        return ClipOutcome(losses=losses, results=[seen[index].result for index in range(length)])

    def _second(self, length: int, chance: Chance) -> list[int]:
        """Choose a later slice that gets a mask prompt before any is tracked, if there is one."""
        if not self.prompts.second_mask_share or length < 3:
            return []
        is_drawn = chance.shared.random() < self.prompts.second_mask_share
        return [int(chance.shared.integers(1, length))] if is_drawn else []

    def _encode_all(self, pictures: Tensor) -> list[ImageFeatures]:
        """Encode all slices of clips `(B, T, 3, S, S)`; none depends on another."""
        if self.recompute:  # one by one, so that one at a time is kept in the backward pass
            return [self._encode(picture) for picture in pictures.unbind(1)]
        encoded = self.network.encode_image(pictures.flatten(0, 1))
        levels = (encoded.level0, encoded.level1, encoded.level2)
        by_slice = zip(*(level.unflatten(0, pictures.shape[:2]).unbind(1) for level in levels), strict=True)
        return [ImageFeatures(level0=l0, level1=l1, level2=l2) for l0, l1, l2 in by_slice]

    def _encode(self, images: Tensor) -> ImageFeatures:
        return self._kept(partial(self.network.encode_image, images))

    def _kept(self, compute: Callable[[], T]) -> T:
        """Compute something, and again in the backward pass where memory is to be saved."""
        if not (self.recompute and torch.is_grad_enabled()):
            return compute()
        computed: T = checkpoint(compute, use_reentrant=False)
        return computed

    def _drawn(self, picture: _Picture) -> _Seen:
        """Take the true mask of a slice as its result; there is nothing to learn from it."""
        prompt = PromptTensors(mask=picture.target[:, None])
        result = track_frame(self.network, picture.features, prompt=prompt)
        return _Seen(features=picture.features, result=result)

    def _prompted(
        self, picture: _Picture, chance: Chance, losses: list[FrameLoss], *, may_draw: bool
    ) -> _Seen:
        """Answer the first slice of a clip: a first prompt and sometimes corrections."""
        target, rng = picture.target, chance.shared
        kind = rng.random()
        if may_draw and kind < self.prompts.mask_share:
            return self._drawn(picture)
        if kind < self.prompts.mask_share + self.prompts.point_share:
            prompt = click_inside(target, chance.clips)
        else:
            prompt = draw_box(target, chance.clips, self.prompts.box_noise)
        found = self._learn(picture, losses, prompt=prompt)
        if rng.random() < self.prompts.correction_share:
            for _ in range(int(rng.integers(1, self.prompts.max_corrections + 1))):
                prompt = click_correction(prompt, found.result, target, chance.clips)
                found = self._learn(picture, losses, prompt=prompt, previous=found.result)
        return found

    def _tracked(
        self, picture: _Picture, memory: MemoryTokens, chance: Chance, losses: list[FrameLoss]
    ) -> _Seen:
        """Answer a later slice from memory, sometimes with a correction."""
        rng = chance.shared
        found = self._learn(picture, losses, memory=memory)
        if rng.random() < self.prompts.late_correction_share:
            prompt = click_correction(None, found.result, picture.target, chance.clips)
            found = self._learn(picture, losses, prompt=prompt, memory=memory, previous=found.result)
        return found

    def _learn(
        self,
        picture: _Picture,
        losses: list[FrameLoss],
        *,
        prompt: PromptTensors | None = None,
        memory: MemoryTokens | None = None,
        previous: FrameResult | None = None,
    ) -> _Seen:
        logits = None if previous is None else previous.low_res_logits.detach()
        answer = partial(
            track_frame, self.network, picture.features, prompt=prompt, memory=memory,
            previous_logits=logits, stability_fallback=False,
        )  # fmt: skip
        result = self._kept(answer)
        candidates = result.candidate_logits, result.candidate_iou, result.object_logits
        losses.append(frame_loss(*candidates, picture.target, self.losses))
        return _Seen(features=picture.features, result=result)


@dataclass(frozen=True, kw_only=True)
class _Picture:
    """One slice of each clip of a batch."""

    features: ImageFeatures
    target: Tensor
    """`(B, S, S)` of 0 and 1."""


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """A slice as it was encoded and what was found in it."""

    features: ImageFeatures
    result: FrameResult
