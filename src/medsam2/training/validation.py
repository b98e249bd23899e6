"""Dice of clips from stacks that training never sees, and what some of them look like."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812
from PIL import Image
from scipy import ndimage
from torch import Tensor, nn

from medsam2.model.compact.network import CompactNetwork
from medsam2.model.network import Network
from medsam2.training.clip_workers import Chance
from medsam2.training.compact_clips import Mixture, draw_compact_clips
from medsam2.training.compact_learner import CompactLearner, Unroll
from medsam2.training.config import PromptConfig, TrainConfig
from medsam2.training.official_clips import draw_official_clips
from medsam2.training.official_learner import OfficialLearner
from medsam2.training.stack_files import list_entries

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
OFFICIAL_BATCH = 4
COMPACT_BATCH = 8
COMPACT_BOX_NOISE = 0.05


@dataclass(frozen=True, kw_only=True, eq=False)
class Validation:
    """What a validation has found."""

    dice: float
    """Mean over the clips."""
    picture: npt.NDArray[np.uint8]
    """The first clips with their masks, `(y, x, 3)`."""


@dataclass(frozen=True)
class _Answer:
    """What a network has found in a batch of clips; all of shape `(B, T, S, S)`."""

    images: Tensor  # uint8
    truth: Tensor  # bool
    found: Tensor  # bool
    counted: Tensor  # bool, False beyond a stack's end


def _boxes(noise: float) -> PromptConfig:
    return PromptConfig(
        point_share=0, mask_share=0, correction_share=0, late_correction_share=0, box_noise=noise
    )


def _measure(
    network: nn.Module, num_batches: int, answer: Callable[[np.random.Generator], _Answer]
) -> Validation:
    """Measure batches of clips; the network is left in the mode it was in."""
    was_training = network.training
    network.eval()
    scores: list[float] = []
    picture: npt.NDArray[np.uint8] | None = None
    for _ in range(max(1, num_batches)):
        found = answer(np.random.default_rng(VALIDATION_SEED))
        inside, truth = (mask & found.counted for mask in (found.found, found.truth))
        shared, first, second = (mask.flatten(1).sum(dim=1) for mask in (inside & truth, inside, truth))
        scores += (2 * shared / (first + second).clamp(min=1)).tolist()
        if picture is None:
            picture = draw_sheet(*(maps.cpu().numpy() for maps in (found.images, found.truth, found.found)))
    network.train(was_training)
    assert picture is not None
    return Validation(dice=float(np.mean(scores)), picture=picture)


@torch.no_grad()
def validate_official(
    network: Network, folder: Path, seeds: range, config: TrainConfig, *, clip_length: int
) -> Validation:
    """Measure the mean Dice over clips, each prompted by a noisy box on its first slice.

    The clips are the same every time.
    """
    device, size = network.no_mem_embed.device, network.config.image_size
    learner = OfficialLearner(network, _boxes(config.prompts.box_noise), config.losses)
    generator = np.random.default_rng(VALIDATION_SEED)

    def answer(prompted: np.random.Generator) -> _Answer:
        clips = draw_official_clips(
            folder, seeds, config.data, [generator] * OFFICIAL_BATCH,
            clip_length=clip_length, image_size=size, augment=False,
        )  # fmt: skip
        targets = clips.targets.to(device)
        chance = Chance(shared=prompted, clips=(prompted,) * OFFICIAL_BATCH)
        outcome = learner.unroll(clips.images.to(device), targets, chance)
        logits = torch.cat([result.low_res_logits for result in outcome.results], dim=1).float()
        logits = F.interpolate(logits, size=targets.shape[-2:], mode="bilinear", align_corners=False)
        truth = targets > 0.5
        return _Answer(clips.images, truth, logits > 0, torch.ones_like(truth))

    return _measure(network, config.validation_clips // OFFICIAL_BATCH, answer)


@torch.no_grad()
def validate_compact(
    network: CompactNetwork, folder: Path, seeds: range, config: TrainConfig, *, clip_length: int
) -> Validation:
    """Measure the mean Dice over clips, each prompted by a box on its first slice.

    The clips are the same every time. They are drawn evenly over data sets and structures, without the data
    sets that training leaves out: those must not choose the best step. Slices beyond a stack's end do not
    count.
    """
    data = config.data
    if data.leave_out:  # the validation stacks may lack some of these data sets
        known = {entry.dataset for entry in list_entries(folder, seeds)}
        data = dataclasses.replace(data, leave_out=tuple(name for name in data.leave_out if name in known))
    mixture = Mixture(folder, seeds, data)
    learner = CompactLearner(network, config.losses)
    device, size = next(network.parameters()).device, network.config.image_size
    generator = np.random.default_rng(VALIDATION_SEED)

    def answer(prompted: np.random.Generator) -> _Answer:
        clips = draw_compact_clips(
            folder, mixture, data, [generator] * COMPACT_BATCH,
            clip_length=clip_length, image_size=size, augment=False,
        ).to(device)  # fmt: skip
        chance = Chance(shared=prompted, clips=(prompted,) * COMPACT_BATCH)
        logits = Unroll(learner, clips, _boxes(COMPACT_BOX_NOISE), chance, None).run().logits
        greys = (clips.images[:, 1:-1] * 255).round().to(torch.uint8)
        truth = clips.targets > 0.5
        return _Answer(greys, truth, logits > 0, (clips.counts[:, :, None, None] > 0).expand_as(truth))

    return _measure(network, config.validation_clips // COMPACT_BATCH, answer)
