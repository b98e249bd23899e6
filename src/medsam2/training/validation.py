"""Dice of clips from stacks that training never sees, and what some of them look like."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812
from PIL import Image
from scipy import ndimage

from medsam2.model.compact.network import CompactNetwork
from medsam2.model.network import Network
from medsam2.training.bank import list_entries
from medsam2.training.clips import Mixture, draw_clips
from medsam2.training.config import PromptConfig, TrainConfig
from medsam2.training.data import Chance, draw_batch
from medsam2.training.follow import FollowLearner, Walk
from medsam2.training.learner import ClipLearner

TILE_SIDE = 112
FOUND = (255, 72, 0)
TRUTH = (64, 220, 90)


def draw_sheet(
    images: npt.NDArray[np.uint8], truth: npt.NDArray[np.bool_], found: npt.NDArray[np.bool_]
) -> npt.NDArray[np.uint8]:
    """Outline what was found (orange) over the truth (green) in clips, all `(clip, slice, y, x)`.

    Returns:
        `(y, x, 3)`.
    """
    rows = [
        np.concatenate([_tile(*slices) for slices in zip(*clip, strict=True)], axis=1)
        for clip in zip(images, truth, found, strict=True)
    ]
    return np.concatenate(rows, axis=0)


def _tile(
    image: npt.NDArray[np.uint8], truth: npt.NDArray[np.bool_], found: npt.NDArray[np.bool_]
) -> npt.NDArray[np.uint8]:
    size = (TILE_SIDE, TILE_SIDE)
    colours = np.array(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR).convert("RGB"))
    for mask, colour in ((truth, TRUTH), (found, FOUND)):
        large = Image.fromarray(mask.astype(np.uint8) * 255).resize(size, Image.Resampling.BILINEAR)
        inside = np.asarray(large) > 127
        colours[inside & ~ndimage.binary_erosion(inside)] = colour
    return colours


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
            picture = draw_sheet(clips.images.numpy(), clips.targets.numpy() > 0.5, predicted.cpu().numpy())
    network.train(was_training)
    assert picture is not None
    return Validation(dice=float(np.mean(scores)), picture=picture)


FOLLOW_BATCH = 8
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
    for _ in range(max(1, config.validation_clips // FOLLOW_BATCH)):
        clips = draw_clips(
            folder, mixture, data, [drawn] * FOLLOW_BATCH,
            clip_length=clip_length, image_size=network.config.image_size, augment=False,
        ).to(device)  # fmt: skip
        prompted = np.random.default_rng(VALIDATION_SEED)
        chance = Chance(shared=prompted, clips=(prompted,) * FOLLOW_BATCH)
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
