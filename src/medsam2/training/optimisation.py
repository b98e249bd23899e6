"""Losses of SAM 2, parameter groups, learning-rate schedule and averaged weights."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from medsam2.model.image_encoder import Hiera
from medsam2.model.network import Network
from medsam2.training.config import LossConfig, PhaseConfig

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


BETA1, BETA2 = 0.9, 0.99

_ENCODER = "image_encoder."
_BLOCKS = "image_encoder.trunk.blocks."
_PATCHES = "image_encoder.trunk.patch_embed."


def build_optimizer(
    network: nn.Module,
    *,
    learning_rate: float,
    weight_decay: float,
    encoder_rate: float = 1.0,
    layer_decay: float = 1.0,
    beta2: float = BETA2,
) -> torch.optim.AdamW:
    """AdamW without decay on biases, norms, tokens and learned positions; frozen parameters are left out.

    Args:
        network: A network.
        learning_rate: Of all but the image encoder.
        weight_decay: Of what is decayed.
        encoder_rate: Rate of the image encoder, as a part of `learning_rate`.
        layer_decay: The trunk's last block has this part of the encoder's rate, the one before it this part
            of that, and so on to the patches; positions and pyramid have the encoder's own.
        beta2: AdamW's second decay.
    """
    learned_vectors = _learned_vectors(network)
    num_blocks = 1 + max((_block_of(name) for name, _ in network.named_parameters()), default=-1)
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            scale = _rate_of(name, num_blocks, encoder_rate, layer_decay)
            is_spared = parameter.ndim <= 1 or parameter in learned_vectors
            groups.setdefault((scale, is_spared), []).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": parameters, "scale": scale, "weight_decay": 0.0 if is_spared else weight_decay}
            for (scale, is_spared), parameters in sorted(groups.items(), key=lambda group: group[0])
        ],
        lr=learning_rate,
        betas=(BETA1, beta2),
    )


def freeze(network: nn.Module, parts: Sequence[str]) -> None:
    """Keep parts of a network, named as its attributes, as they are."""
    for part in parts:
        network.get_submodule(part).requires_grad_(False)


def _rate_of(name: str, num_blocks: int, encoder_rate: float, layer_decay: float) -> float:
    """Part of the learning rate that a parameter has."""
    if not name.startswith(_ENCODER):
        return 1.0
    block = _block_of(name)
    depth = num_blocks - block if block >= 0 else num_blocks + 1 if name.startswith(_PATCHES) else 0
    return encoder_rate * layer_decay**depth


def _block_of(name: str) -> int:
    """Number of the trunk's block that a parameter belongs to, -1 for none."""
    return int(name.removeprefix(_BLOCKS).split(".")[0]) if name.startswith(_BLOCKS) else -1


def _learned_vectors(network: nn.Module) -> set[Tensor]:
    """Tokens and positions: embedding tables, and what a network or a trunk holds itself."""
    tables = (module for module in network.modules() if isinstance(module, nn.Embedding))
    owners = (module for module in network.modules() if isinstance(module, (Network, Hiera)))
    own: set[Tensor] = {p for module in owners for p in module.parameters(recurse=False)}
    return own | {table.weight for table in tables}


def learning_rate_at(phase: PhaseConfig, step: int) -> float:
    """Linear warm-up, then a cosine down to the phase's final fraction."""
    if step < phase.warmup_steps:
        return phase.learning_rate * (step + 1) / phase.warmup_steps
    progress = (step - phase.warmup_steps) / max(1, phase.steps - phase.warmup_steps)
    cosine = (1 + math.cos(math.pi * min(1.0, progress))) / 2
    return phase.learning_rate * (phase.final_fraction + (1 - phase.final_fraction) * cosine)


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Give every group its part of a rate."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group.get("scale", 1.0)


class AveragedWeights:
    """Exponential moving average of a network's state."""

    def __init__(self, state: dict[str, Tensor], decay: float) -> None:
        self.decay = decay
        self.state = {name: value.detach().clone() for name, value in state.items()}

    @torch.no_grad()
    def update(self, state: dict[str, Tensor], step: int) -> None:
        """Move towards `state`; early steps move further, so that chance beginnings fade."""
        decay = min(self.decay, (1 + step) / (10 + step))
        averages, values = zip(*self._pairs(state), strict=True)
        torch._foreach_lerp_(list(averages), list(values), 1 - decay)

    def _pairs(self, state: dict[str, Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        for name, average in self.state.items():
            yield average, state[name].detach()
