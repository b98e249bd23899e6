"""A clip through the recurrence: what a network that carries masks is shown of the slice before."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor

from medsam2.model.network import ABSENT_LOGIT, Network
from medsam2.tracking.step import FrameResult, track_frame
from medsam2.training import learner as learner_module
from medsam2.training.chance import chance_of_step
from medsam2.training.config import LossConfig, PromptConfig
from medsam2.training.learner import ClipLearner

BATCH, LENGTH, SIZE = 6, 4, 64


@pytest.fixture
def clips() -> tuple[Tensor, Tensor]:
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 60, (BATCH, LENGTH, SIZE, SIZE), np.uint8))
    targets = torch.zeros(BATCH, LENGTH, SIZE, SIZE)
    targets[:, :, 20:40, 16:44] = 1
    images[targets > 0] += 150
    return images, targets


def _shown(
    network: Network, clips: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch, **shares: float
) -> tuple[list[Tensor], list[Tensor]]:
    """Mask logits that each tracked slice was given, and those found in the slice before it."""
    given: list[Tensor] = []
    found: list[Tensor] = []

    def noted(*args: object, **kwargs: object) -> FrameResult:
        result = track_frame(*args, **kwargs)
        if kwargs["prompt"] is None:
            given.append(kwargs["previous_logits"])
        found.append(result.low_res_logits.detach())
        return result

    monkeypatch.setattr(learner_module, "track_frame", noted)
    carrier = Network(dataclasses.replace(network.config, carries_mask=True)).eval()
    carrier.load_state_dict(network.state_dict())
    quiet = {"point_share": 0.0, "mask_share": 0.0, "correction_share": 0.0, "late_correction_share": 0.0}
    learner = ClipLearner(carrier, PromptConfig(**quiet, **shares), LossConfig())
    with torch.no_grad():
        learner(*clips, chance_of_step(1, 0, range(BATCH)))
    assert len(given) == LENGTH - 1
    return given, found[:-1]


def test_a_tracked_slice_is_given_the_mask_before_it(
    network: Network, clips: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    for given, found in zip(*_shown(network, clips, monkeypatch), strict=True):
        assert torch.equal(given, found)


def test_masks_are_withheld_object_by_object(
    network: Network, clips: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    num_lost = 0
    for given, found in zip(*_shown(network, clips, monkeypatch, lost_share=0.5), strict=True):
        is_lost = (given == ABSENT_LOGIT).flatten(1).all(dim=1)
        assert torch.equal(given[~is_lost], found[~is_lost])
        num_lost += int(is_lost.sum())
    assert 0 < num_lost < BATCH * (LENGTH - 1)


def test_a_disturbed_mask_moves_by_a_pixel_at_most(
    network: Network, clips: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    has_moved = False
    for given, found in zip(*_shown(network, clips, monkeypatch, disturbed_share=1.0), strict=True):
        has_moved |= not torch.equal(given, found)
        grown = torch.nn.functional.max_pool2d(found, 3, stride=1, padding=1)
        shrunk = -torch.nn.functional.max_pool2d(-found, 3, stride=1, padding=1)
        inner = (slice(None), slice(None), slice(1, -1), slice(1, -1))  # a shift comes in at the other edge
        assert (given <= grown)[inner].all()
        assert (given >= shrunk)[inner].all()
    assert has_moved


@pytest.mark.parametrize("carries_mask", [False, True])
@pytest.mark.parametrize("recompute", [False, True])
def test_a_later_slice_may_be_drawn_before_any_is_tracked(
    network: Network,
    clips: tuple[Tensor, Tensor],
    monkeypatch: pytest.MonkeyPatch,
    carries_mask: bool,
    recompute: bool,
) -> None:
    changed = Network(dataclasses.replace(network.config, carries_mask=carries_mask))
    changed.load_state_dict(network.state_dict())
    prompts = PromptConfig(mask_share=0.4, second_mask_share=1.0, correction_share=1.0, max_corrections=2)
    learner = ClipLearner(changed, prompts, LossConfig(), recompute=recompute)
    images, targets = clips
    targets = targets.clone()
    targets[0, 2:] = 0  # an object that has ended before the slice that is drawn
    order: list[bool] = []

    def noted(*args: object, **kwargs: object) -> FrameResult:
        prompt = kwargs["prompt"]
        order.append(prompt is not None and prompt.mask is not None)
        return track_frame(*args, **kwargs)

    monkeypatch.setattr(learner_module, "track_frame", noted)
    outcome = learner.unroll(images, targets, chance_of_step(3, 0, range(BATCH)))
    assert len(outcome.results) == LENGTH
    assert not order[0], "this seed begins with a box"
    num_prompts = order.index(True)  # the box and its corrections
    assert sum(order) == 1
    assert len(outcome.losses) >= num_prompts + LENGTH - 2, "nothing is learnt in the slice that is drawn"
    drawn = next(
        index
        for index, result in enumerate(outcome.results)
        if set(result.object_logits.abs().flatten().tolist()) == {10.0}
    )
    is_there = targets[:, drawn].flatten(1).any(dim=1)
    assert torch.equal(outcome.results[drawn].object_logits[:, 0] > 0, is_there)
    sum(loss.terms.sum() for loss in outcome.losses).backward()
    assert changed.image_encoder.trunk.patch_embed.proj.weight.grad is not None
