"""A clip through the official network's recurrence: what each slice begins from, and what is drawn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from medsam2.model.network import Network
from medsam2.tracking.step import FrameResult, track_frame
from medsam2.training import official_learner as learner_module
from medsam2.training.clip_workers import chance_of_step
from medsam2.training.config import LossConfig, PromptConfig
from medsam2.training.official_learner import OfficialLearner

BATCH, LENGTH, SIZE = 6, 4, 64


@pytest.fixture
def clips() -> tuple[Tensor, Tensor]:
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 60, (BATCH, LENGTH, SIZE, SIZE), np.uint8))
    targets = torch.zeros(BATCH, LENGTH, SIZE, SIZE)
    targets[:, :, 20:40, 16:44] = 1
    images[targets > 0] += 150
    return images, targets


def test_a_tracked_slice_begins_from_memory_alone(
    network: Network, clips: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[dict[str, object]] = []

    def noted(*args: object, **kwargs: object) -> FrameResult:
        given.append(kwargs)
        return track_frame(*args, **kwargs)

    monkeypatch.setattr(learner_module, "track_frame", noted)
    quiet = PromptConfig(point_share=0, mask_share=0, correction_share=0, late_correction_share=0)
    learner = OfficialLearner(network, quiet, LossConfig())
    with torch.no_grad():
        terms = learner(*clips, chance_of_step(1, 0, range(BATCH)))
    assert terms.shape == (LENGTH, 4)
    assert [one["prompt"] is None for one in given] == [False, *[True] * (LENGTH - 1)]
    assert [one["memory"] is None for one in given] == [True, *[False] * (LENGTH - 1)]
    assert all(one["previous_logits"] is None for one in given)
    for index, one in enumerate(given[1:], start=1):
        assert len(one["memory"].spatial) == index


@pytest.mark.parametrize("recompute", [False, True])
def test_a_later_slice_may_be_drawn_before_any_is_tracked(
    network: Network,
    clips: tuple[Tensor, Tensor],
    monkeypatch: pytest.MonkeyPatch,
    recompute: bool,
) -> None:
    prompts = PromptConfig(mask_share=0.4, second_mask_share=1.0, correction_share=1.0, max_corrections=2)
    learner = OfficialLearner(network, prompts, LossConfig(), recompute=recompute)
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
    assert network.image_encoder.trunk.patch_embed.proj.weight.grad is not None
