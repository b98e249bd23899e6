"""Dice of the compact network on clips of stacks that training never sees."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from medsam2.model.compact.network import CompactNetwork
from medsam2.training.bank import list_entries
from medsam2.training.chance import Chance
from medsam2.training.clips import draw_clips
from medsam2.training.config import PromptConfig, TrainConfig
from medsam2.training.follow import FollowLearner, Walk
from medsam2.training.mixture import Mixture
from medsam2.training.sheet import draw_clips as draw_sheet
from medsam2.training.validation import VALIDATION_SEED, Validation

BATCH = 8
BOXES_ONLY = PromptConfig(
    point_share=0, mask_share=0, correction_share=0, late_correction_share=0, box_noise=0.05
)


@torch.no_grad()
def validate_follow(
    network: CompactNetwork, folder: Path, seeds: range, config: TrainConfig, *, clip_length: int
) -> Validation:
    """Measure the mean Dice over clips, each prompted by a box on its first slice.

    The same clips every time, drawn evenly over data sets and structures, without those that training leaves
    out: the best step is not to be chosen by them. Slices beyond a stack's end do not count. The network is
    left in the mode it was in.
    """
    data = config.data
    if data.leave_out:  # of the data sets that are validated on, there may be fewer
        known = {entry.dataset for entry in list_entries(folder, seeds)}
        data = dataclasses.replace(data, leave_out=tuple(name for name in data.leave_out if name in known))
    mixture = Mixture(folder, seeds, data)
    was_training = network.training
    learner = FollowLearner(network.eval(), config.losses)
    device = next(network.parameters()).device
    drawn = np.random.default_rng(VALIDATION_SEED)
    scores: list[float] = []
    picture: npt.NDArray[np.uint8] | None = None
    for _ in range(max(1, config.validation_clips // BATCH)):
        clips = draw_clips(
            folder, mixture, data, [drawn] * BATCH,
            clip_length=clip_length, image_size=network.config.image_size, augment=False,
        ).to(device)  # fmt: skip
        prompted = np.random.default_rng(VALIDATION_SEED)
        chance = Chance(shared=prompted, clips=(prompted,) * BATCH)
        logits = Walk(learner, clips, BOXES_ONLY, chance, None).run().logits
        counted = clips.counts[:, :, None, None] > 0
        inside, truth = (logits > 0) & counted, (clips.targets > 0.5) & counted
        shared = (inside & truth).flatten(1).sum(dim=1)
        scores += (2 * shared / (inside.flatten(1).sum(dim=1) + truth.flatten(1).sum(dim=1))).tolist()
        if picture is None:
            greys = (clips.images[:, 1:-1] * 255).round().to(torch.uint8)
            picture = draw_sheet(*(maps.cpu().numpy() for maps in (greys, clips.targets > 0.5, logits > 0)))
    network.train(was_training)
    assert picture is not None
    return Validation(dice=float(np.mean(scores)), picture=picture)
