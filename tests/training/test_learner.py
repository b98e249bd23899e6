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
