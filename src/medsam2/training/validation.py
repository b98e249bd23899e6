"""Dice of clips from stacks that training never sees, and what some of them look like."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812

from medsam2.model.network import Network
from medsam2.training.chance import Chance
from medsam2.training.config import PromptConfig, TrainConfig
from medsam2.training.data import draw_batch
from medsam2.training.learner import ClipLearner
from medsam2.training.sheet import draw_clips

VALIDATION_SEED = 20_000
BATCH = 4


@dataclass(frozen=True, kw_only=True, eq=False)
class Validation:
    """What a validation has found."""

    dice: float
    """Mean over the clips."""
    picture: npt.NDArray[np.uint8]
    """The first clips with their masks, `(y, x, 3)`."""


@torch.no_grad()
def validate(
    network: Network, folder: Path, seeds: range, config: TrainConfig, *, clip_length: int
) -> Validation:
    """Measure the mean Dice over clips, each prompted by a noisy box on its first slice.

    The same clips every time; the network is left in the mode it was in.
    """
    drawn = np.random.default_rng(VALIDATION_SEED)
    boxes_only = PromptConfig(
        point_share=0,
        mask_share=0,
        correction_share=0,
        late_correction_share=0,
        box_noise=config.prompts.box_noise,
    )
    was_training = network.training
    device = network.no_mem_embed.device
    learner = ClipLearner(network.eval(), boxes_only, config.losses)
    scores: list[float] = []
    picture: npt.NDArray[np.uint8] | None = None
    for _ in range(max(1, config.validation_clips // BATCH)):
        clips = draw_batch(
            folder, seeds, config.data, [drawn] * BATCH, clip_length=clip_length,
            image_size=network.config.image_size, augment=False,
        )  # fmt: skip
        prompted = np.random.default_rng(VALIDATION_SEED)
        targets = clips.targets.to(device)
        outcome = learner.unroll(
            clips.images.to(device), targets, Chance(shared=prompted, clips=(prompted,) * BATCH)
        )
        logits = torch.cat([result.low_res_logits for result in outcome.results], dim=1).float()
        predicted = F.interpolate(logits, size=targets.shape[-2:], mode="bilinear", align_corners=False) > 0
        inside, truth = predicted.flatten(1), targets.flatten(1) > 0.5
        shared = (inside & truth).sum(dim=1)
        scores += (2 * shared / (inside.sum(dim=1) + truth.sum(dim=1)).clamp(min=1)).tolist()
        if picture is None:
            picture = draw_clips(clips.images.numpy(), clips.targets.numpy() > 0.5, predicted.cpu().numpy())
    network.train(was_training)
    assert picture is not None
    return Validation(dice=float(np.mean(scores)), picture=picture)
