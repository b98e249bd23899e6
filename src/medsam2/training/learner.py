"""A clip through the real recurrence, with a simulated user, to a loss."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from medsam2.inference.preprocess import normalise
from medsam2.model.network import ABSENT_LOGIT, ImageFeatures, MemoryTokens, Network
from medsam2.model.prompt_encoder import LABEL_BOX_MAX, LABEL_BOX_MIN
from medsam2.prompts.simulate import correction, jitter_box, random_point, tight_box
from medsam2.tracking.memory import MemoryBank
from medsam2.tracking.prior import PromptTensors, with_prior
from medsam2.tracking.select import recent
from medsam2.tracking.step import FrameResult, remember, track_frame
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
        return torch.stack([loss.terms for loss in losses])

    def unroll(self, images: Tensor, targets: Tensor, rng: np.random.Generator) -> ClipOutcome:
        """Run a batch of clips through the recurrence.

        Args:
            images: uint8 `(B, T, S, S)`, the prompted slice first.
            targets: `(B, T, S, S)` of 0 and 1.
            rng: Source of chance for the simulated user.
        """
        batch, length = images.shape[:2]
        targets = targets.float()  # Fabric hands floating-point inputs over in the run's precision
        pictures = normalise(images.flatten(0, 1)).unflatten(0, (batch, length))
        encoded = None if self.network.config.carries_mask else self._encode_all(pictures)
        bank = MemoryBank()
        losses: list[FrameLoss] = []
        seen: list[_Seen] = []
        for index in range(length):
            picture = _Picture(
                pixels=pictures[:, index],
                before=pictures[:, max(index - 1, 0)],
                features=None if encoded is None else encoded[index],
                target=targets[:, index],
            )
            if index == 0:
                found = self._prompted(picture, rng, losses, may_draw=length > 1)
            else:
                memory = recent(bank, index, step=1, num_slices=NUM_SLICES)
                found = self._tracked(picture, memory, seen[-1].result, rng, losses)
            seen.append(found)
            if index + 1 < length:
                slot = bank.tracked if index else bank.conditioning
                slot[index] = remember(
                    self.network, found.features, found.result, slice_index=index, binarise=False
                )
        return ClipOutcome(losses=losses, results=[found.result for found in seen])

    def _encode_all(self, pictures: Tensor) -> list[ImageFeatures]:
        """Encode the slices of clips `(B, T, 3, S, S)` at once, where no slice waits for the one before."""
        encoded = self.network.encode_image(pictures.flatten(0, 1))
        levels = (encoded.level0, encoded.level1, encoded.level2)
        by_slice = zip(*(level.unflatten(0, pictures.shape[:2]).unbind(1) for level in levels), strict=True)
        return [ImageFeatures(level0=l0, level1=l1, level2=l2) for l0, l1, l2 in by_slice]

    def _prompted(
        self, picture: _Picture, rng: np.random.Generator, losses: list[FrameLoss], *, may_draw: bool
    ) -> _Seen:
        """The first slice of a clip: a first prompt and sometimes corrections."""
        target = picture.target
        kind = rng.random()
        if may_draw and kind < self.prompts.mask_share:
            # A drawn mask is its own result: there is nothing to learn in this slice.
            prompt = PromptTensors(mask=target[:, None])
            features = self._see(picture, prompt, None, is_same_slice=True)
            return _Seen(features=features, result=track_frame(self.network, features, prompt=prompt))
        if kind < self.prompts.mask_share + self.prompts.point_share:
            prompt = _click_inside(target, rng)
        else:
            prompt = _draw_box(target, rng, self.prompts.box_noise)
        found = self._learn(picture, losses, prompt=prompt)
        if rng.random() < self.prompts.correction_share:
            for _ in range(int(rng.integers(1, self.prompts.max_corrections + 1))):
                prompt = _click_correction(prompt, found.result, target, rng)
                found = self._learn(picture, losses, prompt=prompt, previous=found.result)
        return found

    def _tracked(
        self,
        picture: _Picture,
        memory: MemoryTokens,
        before: FrameResult,
        rng: np.random.Generator,
        losses: list[FrameLoss],
    ) -> _Seen:
        """A later slice: what is remembered, and sometimes a correction."""
        carried = before if self.network.config.carries_mask else None
        if carried is not None and rng.random() < self.prompts.disturbed_share:
            carried = _disturb(carried, rng)
        if carried is not None and self.prompts.lost_share > 0:
            carried = _lose(carried, rng, self.prompts.lost_share)
        found = self._learn(picture, losses, memory=memory, previous=carried)
        if rng.random() < self.prompts.late_correction_share:
            prompt = _click_correction(None, found.result, picture.target, rng)
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
        features = self._see(picture, prompt, logits, is_same_slice=prompt is not None)
        result = track_frame(
            self.network,
            features,
            prompt=prompt,
            memory=memory,
            previous_logits=logits,
            stability_fallback=False,
        )
        losses.append(
            frame_loss(
                result.candidate_logits,
                result.candidate_iou,
                result.object_logits,
                picture.target,
                self.losses,
            )
        )
        return _Seen(features=features, result=result)

    def _see(
        self,
        picture: _Picture,
        prompt: PromptTensors | None,
        previous_logits: Tensor | None,
        *,
        is_same_slice: bool,
    ) -> ImageFeatures:
        """Encode a slice with its prior, unless it is encoded already."""
        if picture.features is not None:
            return picture.features
        before = None if is_same_slice else picture.before
        return self.network.encode_image(
            with_prior(picture.pixels, before=before, prompt=prompt, previous_logits=previous_logits)
        )


@dataclass(frozen=True, kw_only=True)
class _Picture:
    """One slice of each clip of a batch."""

    pixels: Tensor
    """Normalised `(B, 3, S, S)`."""
    before: Tensor
    """The slice before it, or itself at the clip's beginning."""
    features: ImageFeatures | None
    """None where they depend on what was found in the slice before."""
    target: Tensor
    """`(B, S, S)` of 0 and 1."""


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """A slice as it was encoded and what was found in it."""

    features: ImageFeatures
    result: FrameResult


def _disturb(result: FrameResult, rng: np.random.Generator) -> FrameResult:
    """Grow, shrink or shift a mask that is carried on: the next outline is to be found in the image.

    A mask that would vanish is left as it is, since an empty one says that the object has ended.
    """
    logits = result.low_res_logits
    kind = rng.integers(3)
    if kind == 0:
        disturbed = F.max_pool2d(logits, kernel_size=3, stride=1, padding=1)
    elif kind == 1:
        disturbed = -F.max_pool2d(-logits, kernel_size=3, stride=1, padding=1)
    else:
        disturbed = logits.roll(tuple(rng.integers(-1, 2, 2).tolist()), dims=(2, 3))
    is_left = (disturbed > 0).flatten(1).any(dim=1)[:, None, None, None]
    return dataclasses.replace(result, low_res_logits=torch.where(is_left, disturbed, logits))


def _lose(result: FrameResult, rng: np.random.Generator, share: float) -> FrameResult:
    """Withhold the masks of some objects, as if they had not been found in the slice before.

    With a mask in sight the network has no need to remember: shown it in every slice, it learnt to ignore
    its memory altogether.
    """
    logits = result.low_res_logits
    is_lost = torch.from_numpy(rng.random(len(logits)) < share).to(logits.device)
    return dataclasses.replace(
        result, low_res_logits=torch.where(is_lost[:, None, None, None], ABSENT_LOGIT, logits)
    )


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
