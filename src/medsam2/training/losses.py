"""Losses of SAM 2: focal and Dice on masks, predicted overlap, presence."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from medsam2.training.config import LossConfig

TERMS = ("focal", "dice", "iou", "presence")


@dataclass(frozen=True, kw_only=True)
class FrameLoss:
    """Loss of one result, each term a mean over the batch."""

    focal: Tensor
    dice: Tensor
    iou: Tensor
    presence: Tensor

    @property
    def terms(self) -> Tensor:
        """The four terms in the order of `TERMS`."""
        return torch.stack((self.focal, self.dice, self.iou, self.presence))


def term_weights(config: LossConfig) -> tuple[float, float, float, float]:
    """Weights in the order of `TERMS`."""
    return config.focal_weight, config.dice_weight, config.iou_weight, config.presence_weight


def frame_loss(
    candidate_logits: Tensor,
    candidate_iou: Tensor,
    object_logits: Tensor,
    target: Tensor,
    config: LossConfig,
    counts: Tensor | None = None,
) -> FrameLoss:
    """Compare candidates with the truth; only the best of them is taught the mask.

    Args:
        candidate_logits: `(B, M, S/4, S/4)`.
        candidate_iou: `(B, M)` predicted overlaps.
        object_logits: `(B, 1)`.
        target: `(B, S, S)` of 0 and 1; an empty one teaches presence, and the mask
            as much as the configuration says.
        config: What focal loss is and which candidate counts as the best.
        counts: `(B,)` how much each mask counts; all alike if not given.
    """
    logits = F.interpolate(
        candidate_logits.float(), size=target.shape[-2:], mode="bilinear", align_corners=False
    )
    truth = target[:, None].expand_as(logits)
    focal = _focal(logits, truth, config.focal_alpha, config.focal_gamma)  # (B, M)
    dice = _dice(logits, truth, config.dice_smoothing)
    best = (config.focal_weight * focal + config.dice_weight * dice).argmin(dim=1, keepdim=True)
    is_present = target.flatten(1).any(dim=1).float()
    overlap = (candidate_iou.float() - _iou(logits, truth)).abs().mean(dim=1)
    presence = F.binary_cross_entropy_with_logits(object_logits.float()[:, 0], is_present, reduction="none")
    every = torch.ones_like(is_present) if counts is None else counts
    taught = every * (is_present + config.absent_mask_weight * (1 - is_present))
    return FrameLoss(
        focal=(focal.gather(1, best)[:, 0] * taught).mean(),
        dice=(dice.gather(1, best)[:, 0] * taught).mean(),
        iou=(overlap * is_present * every).mean(),
        presence=(presence * every).mean(),
    )


def _focal(logits: Tensor, truth: Tensor, alpha: float, gamma: float) -> Tensor:
    """Focal loss per mask (Lin et al. 2017, eq. 5), averaged over its pixels."""
    cross_entropy = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    missing = 1 - torch.exp(-cross_entropy)  # 1 - p of the true class
    weight = alpha * truth + (1 - alpha) * (1 - truth)
    return (weight * missing**gamma * cross_entropy).flatten(2).mean(dim=2)


def _dice(logits: Tensor, truth: Tensor, smoothing: float) -> Tensor:
    """Soft Dice loss per mask (Milletari et al. 2016), smoothed by some pixels."""
    probability, truth = logits.sigmoid().flatten(2), truth.flatten(2)
    shared = (probability * truth).sum(dim=2)
    return 1 - (2 * shared + smoothing) / (probability.sum(dim=2) + truth.sum(dim=2) + smoothing)


@torch.no_grad()
def _iou(logits: Tensor, truth: Tensor) -> Tensor:
    """Overlap of each thresholded mask with the truth."""
    inside, truth = (logits > 0).flatten(2), (truth > 0.5).flatten(2)
    union = (inside | truth).sum(dim=2)
    return (inside & truth).sum(dim=2) / union.clamp(min=1)
