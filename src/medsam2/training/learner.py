"""A clip through the real recurrence, with a simulated user, to a loss."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from medsam2.inference.preprocess import normalise
from medsam2.model.network import ImageFeatures, MemoryTokens, Network
from medsam2.model.prompt_encoder import LABEL_BOX_MAX, LABEL_BOX_MIN
from medsam2.prompts.simulate import correction, jitter_box, random_point, tight_box
from medsam2.tracking.memory import MemoryBank
from medsam2.tracking.select import recent
from medsam2.tracking.step import FrameResult, PromptTensors, remember, track_frame
from medsam2.training.config import LossConfig, PromptConfig
from medsam2.training.losses import FrameLoss, frame_loss

NUM_SLICES = 16  # pointer distances as in a stack of 16 slices or more


@dataclass(frozen=True, kw_only=True)
class ClipOutcome:
    """What a clip taught and gave."""

    losses: list[FrameLoss]
    results: list[FrameResult]
    """The last result of every slice, in the clip's order."""


class ClipLearner(nn.Module):
    """The network as training calls it: clips in, losses out."""

    def __init__(self, network: Network, prompts: PromptConfig, losses: LossConfig) -> None:
        super().__init__()
        self.network = network
        self.prompts = prompts
        self.losses = losses

    def forward(self, images: Tensor, targets: Tensor, rng: np.random.Generator) -> Tensor:
        """Loss terms of a batch of clips, `(results, 4)`; see `unroll` and `losses.TERMS`."""
        losses = self.unroll(images, targets, rng).losses
        return torch.stack([loss.terms for loss in losses]) if losses else images.new_zeros(0, 4).float()

    def unroll(self, images: Tensor, targets: Tensor, rng: np.random.Generator) -> ClipOutcome:
        """Run a batch of clips through the recurrence.

        Args:
            images: uint8 `(B, T, S, S)`, the prompted slice first.
            targets: `(B, T, S, S)` of 0 and 1.
            rng: Source of chance for the simulated user.
        """
        batch, length = images.shape[:2]
        targets = targets.float()  # Fabric hands floating-point inputs over in the run's precision
        encoded = self.network.encode_image(normalise(images.flatten(0, 1)))
        levels = [
            level.unflatten(0, (batch, length)) for level in (encoded.level0, encoded.level1, encoded.level2)
        ]
        bank = MemoryBank()
        losses: list[FrameLoss] = []
        results: list[FrameResult] = []
        for index in range(length):
            level0, level1, level2 = (level[:, index] for level in levels)
            features = ImageFeatures(level0=level0, level1=level1, level2=level2)
            target = targets[:, index]
            if index == 0:
                result = self._prompted(features, target, rng, losses)
            else:
                memory = recent(bank, index, step=1, num_slices=NUM_SLICES)
                result = self._tracked(features, target, memory, results[-1], rng, losses)
            results.append(result)
            if index + 1 < length:
                slot = bank.tracked if index else bank.conditioning
                slot[index] = remember(self.network, features, result, slice_index=index, binarise=False)
        return ClipOutcome(losses=losses, results=results)

    def _prompted(
        self, features: ImageFeatures, target: Tensor, rng: np.random.Generator, losses: list[FrameLoss]
    ) -> FrameResult:
        """The first slice of a clip: a first prompt and sometimes corrections."""
        kind = rng.random()
        if kind < self.prompts.mask_share:
            # A drawn mask is its own result: there is nothing to learn in this slice.
            return track_frame(self.network, features, prompt=PromptTensors(mask=target[:, None]))
        if kind < self.prompts.mask_share + self.prompts.point_share:
            prompt = _click_inside(target, rng)
        else:
            prompt = _draw_box(target, rng, self.prompts.box_noise)
        result = self._learn(features, target, prompt, None, None, losses)
        if rng.random() < self.prompts.correction_share:
            for _ in range(int(rng.integers(1, self.prompts.max_corrections + 1))):
                prompt = _click_correction(prompt, result, target, rng)
                result = self._learn(features, target, prompt, None, result.low_res_logits, losses)
        return result

    def _tracked(
        self,
        features: ImageFeatures,
        target: Tensor,
        memory: MemoryTokens,
        before: FrameResult,
        rng: np.random.Generator,
        losses: list[FrameLoss],
    ) -> FrameResult:
        """A later slice: what is remembered, and sometimes a correction."""
        carried = before.low_res_logits if self.network.config.carries_mask else None
        result = self._learn(features, target, None, memory, carried, losses)
        if rng.random() < self.prompts.late_correction_share:
            prompt = _click_correction(None, result, target, rng)
            result = self._learn(features, target, prompt, memory, result.low_res_logits, losses)
        return result

    def _learn(
        self,
        features: ImageFeatures,
        target: Tensor,
        prompt: PromptTensors | None,
        memory: MemoryTokens | None,
        previous_logits: Tensor | None,
        losses: list[FrameLoss],
    ) -> FrameResult:
        result = track_frame(
            self.network,
            features,
            prompt=prompt,
            memory=memory,
            previous_logits=None if previous_logits is None else previous_logits.detach(),
            stability_fallback=False,
        )
        losses.append(
            frame_loss(
                result.candidate_logits, result.candidate_iou, result.object_logits, target, self.losses
            )
        )
        return result


def _draw_box(target: Tensor, rng: np.random.Generator, noise: float) -> PromptTensors:
    size = target.shape[-1]
    boxes = [
        jitter_box(tight_box(mask), rng, fraction=noise, shape_yx=(size, size)).xyxy
        for mask in target.bool().cpu().numpy()
    ]
    points = torch.tensor(boxes, dtype=torch.float32, device=target.device).unflatten(1, (2, 2))
    labels = torch.tensor([[LABEL_BOX_MIN, LABEL_BOX_MAX]], device=target.device).expand(len(boxes), -1)
    return PromptTensors(points=points, labels=labels)


def _click_inside(target: Tensor, rng: np.random.Generator) -> PromptTensors:
    clicks = [random_point(mask, rng, is_positive=True) for mask in target.bool().cpu().numpy()]
    points = torch.tensor([[[c.x, c.y]] for c in clicks], dtype=torch.float32, device=target.device)
    return PromptTensors(
        points=points, labels=torch.ones(len(clicks), 1, dtype=torch.long, device=target.device)
    )


def _click_correction(
    prompt: PromptTensors | None, result: FrameResult, target: Tensor, rng: np.random.Generator
) -> PromptTensors:
    """Add a click on a wrong pixel to the prompts so far."""
    predicted = F.interpolate(
        result.low_res_logits.detach().float(), size=target.shape[-2:], mode="bilinear", align_corners=False
    )
    clicks = [
        correction(p, t, rng)
        for p, t in zip((predicted[:, 0] > 0).cpu().numpy(), target.bool().cpu().numpy(), strict=True)
    ]
    device = target.device
    points = torch.tensor([[[c.x, c.y]] for c in clicks], dtype=torch.float32, device=device)
    labels = torch.tensor([[int(c.is_positive)] for c in clicks], device=device)
    if prompt is not None and prompt.points is not None and prompt.labels is not None:
        points = torch.cat((prompt.points, points), dim=1)
        labels = torch.cat((prompt.labels, labels), dim=1)
    return PromptTensors(points=points, labels=labels)
