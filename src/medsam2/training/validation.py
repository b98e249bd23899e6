"""Dice of clips from generated stacks that training never sees."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812

from medsam2.model.network import Network
from medsam2.training.config import PromptConfig, TrainConfig
from medsam2.training.data import draw_batch
from medsam2.training.learner import ClipLearner

VALIDATION_SEED = 20_000
BATCH = 4


@torch.no_grad()
def validate(network: Network, folder: Path, seeds: range, config: TrainConfig, *, clip_length: int) -> float:
    """Mean Dice over clips, each prompted by a noisy box on its first slice.

    The same clips every time; the network is left in the mode it was in.
    """
    rng = np.random.default_rng(VALIDATION_SEED)
    boxes_only = PromptConfig(
        point_share=0,
        mask_share=0,
        correction_share=0,
        late_correction_share=0,
        box_noise=config.prompts.box_noise,
    )
    was_training = network.training
    learner = ClipLearner(network.eval(), boxes_only, config.losses)
    scores: list[float] = []
    for _ in range(max(1, config.validation_clips // BATCH)):
        clips = draw_batch(
            folder, seeds, config.data, rng, batch=BATCH, clip_length=clip_length,
            image_size=network.config.image_size, augment=False,
        )  # fmt: skip
        outcome = learner.unroll(clips.images, clips.targets, np.random.default_rng(VALIDATION_SEED))
        logits = torch.cat([result.low_res_logits for result in outcome.results], dim=1).float()
        predicted = F.interpolate(logits, size=clips.targets.shape[-2:], mode="bilinear", align_corners=False)
        inside, truth = (predicted > 0).flatten(1), clips.targets.flatten(1) > 0.5
        shared = (inside & truth).sum(dim=1)
        scores += (2 * shared / (inside.sum(dim=1) + truth.sum(dim=1)).clamp(min=1)).tolist()
    network.train(was_training)
    return float(np.mean(scores))
