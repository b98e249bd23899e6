"""Losses against values worked out by hand, and who is taught what."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from medsam2.training.config import LossConfig
from medsam2.training.optimisation import TERMS, FrameLoss, frame_loss, term_weights

PLAIN = LossConfig(focal_alpha=0.5, focal_gamma=0.0)
PRESENT = torch.tensor([[4.0]])


def _square(size: int = 8) -> torch.Tensor:
    """A quarter of a slice."""
    target = torch.zeros(1, size, size)
    target[:, : size // 2, : size // 2] = 1
    return target


def _loss(logits: torch.Tensor, target: torch.Tensor, config: LossConfig = PLAIN, iou=None) -> FrameLoss:
    iou = torch.full(logits.shape[:2], 1.0) if iou is None else iou
    return frame_loss(logits, iou, PRESENT.expand(len(logits), 1), target, config)


def test_a_perfect_mask_costs_nothing() -> None:
    target = _square()
    loss = _loss((target[:, None] * 2 - 1) * 100, target)
    assert loss.dice == pytest.approx(0.0, abs=1e-6)
    assert loss.focal == pytest.approx(0.0, abs=1e-6)
    assert loss.iou == pytest.approx(0.0, abs=1e-6)
    assert loss.presence == pytest.approx(math.log(1 + math.exp(-4)), rel=1e-5)


def test_dice_of_a_mask_of_halves() -> None:
    # p = 1/2 everywhere, 16 of 64 pixels inside: 1 - (2 * 8 + 1) / (32 + 16 + 1)
    assert _loss(torch.zeros(1, 1, 8, 8), _square()).dice == pytest.approx(1 - 17 / 49, rel=1e-6)


def test_focal_without_focus_is_half_the_cross_entropy() -> None:
    logits = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    truth = _square()[0].numpy()
    p = 1 / (1 + np.exp(-logits[0, 0].numpy().astype(float)))
    cross_entropy = -(truth * np.log(p) + (1 - truth) * np.log(1 - p)).mean()
    assert _loss(logits, _square()).focal == pytest.approx(cross_entropy / 2, rel=1e-5)


def test_focal_as_it_is_written() -> None:
    """Lin et al. 2017, eq. 5: -alpha_t (1 - p_t)^gamma log p_t."""
    logits = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    truth = _square()[0].numpy()
    p = 1 / (1 + np.exp(-logits[0, 0].numpy().astype(float)))
    p_true = np.where(truth, p, 1 - p)
    expected = (-np.where(truth, 0.25, 0.75) * (1 - p_true) ** 2 * np.log(p_true)).mean()
    loss = _loss(logits, _square(), LossConfig(focal_alpha=0.25, focal_gamma=2.0))
    assert loss.focal == pytest.approx(expected, rel=1e-5)


def test_predicted_overlap_is_compared_with_the_true_one() -> None:
    logits = torch.full((1, 2, 8, 8), -9.0)
    logits[0, 0, :4, :4] = 9.0  # right
    logits[0, 1, :, :4] = 9.0  # twice too large: IoU 1/2
    loss = _loss(logits, _square(), iou=torch.tensor([[0.9, 0.8]]))
    assert loss.iou == pytest.approx((0.1 + 0.3) / 2, rel=1e-5)


def test_logits_are_enlarged_to_the_target() -> None:
    small = torch.where(_square(4) > 0, 50.0, -50.0)[:, None]
    assert _loss(small, _square(16)).dice < 0.15


def test_only_the_best_candidate_is_taught_the_mask() -> None:
    target = _square()
    logits = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    logits[:, 1] += (target * 2 - 1) * 2  # the best
    iou = torch.rand(1, 3, generator=torch.Generator().manual_seed(3))
    for term in ("focal", "dice"):
        leaf = logits.clone().requires_grad_()
        getattr(_loss(leaf, target, iou=iou), term).backward()
        reached = [bool(leaf.grad[0, i].any()) for i in range(3)]
        assert reached == [False, True, False], term
    guesses = iou.clone().requires_grad_()
    _loss(logits, target, iou=guesses).iou.backward()
    assert guesses.grad.all(), "all candidates learn to judge themselves"


def test_an_empty_target_teaches_presence_alone() -> None:
    logits = torch.randn(2, 3, 8, 8, requires_grad=True)
    iou, objects = torch.rand(2, 3, requires_grad=True), torch.tensor([[2.0], [2.0]], requires_grad=True)
    targets = torch.cat((torch.zeros(1, 8, 8), _square()))
    loss = frame_loss(logits, iou, objects, targets, PLAIN)
    loss.terms.sum().backward()
    assert not logits.grad[0].any()
    assert not iou.grad[0].any()
    assert logits.grad[1].any()
    assert objects.grad[0] > 0 > objects.grad[1]
    expected = (math.log(1 + math.exp(2)) + math.log(1 + math.exp(-2))) / 2
    assert loss.presence.item() == pytest.approx(expected, rel=1e-5)


def test_terms_and_weights_keep_one_order() -> None:
    config = LossConfig(focal_weight=1, dice_weight=2, iou_weight=3, presence_weight=4)
    assert dict(zip(TERMS, term_weights(config), strict=True)) == {
        "focal": 1, "dice": 2, "iou": 3, "presence": 4,
    }  # fmt: skip
    loss = _loss(torch.zeros(1, 1, 8, 8), _square())
    assert loss.terms.tolist() == [float(getattr(loss, name)) for name in TERMS]


def test_masks_count_as_much_as_is_said() -> None:
    generator = torch.Generator().manual_seed(4)
    logits = torch.randn(3, 1, 8, 8, generator=generator)
    iou, objects = torch.rand(3, 1, generator=generator), torch.randn(3, 1, generator=generator)
    targets = torch.cat((_square(), torch.zeros(1, 8, 8), 1 - _square()))
    config = LossConfig(focal_alpha=0.5, focal_gamma=0.0, absent_mask_weight=0.5)
    alone = torch.stack(
        [
            frame_loss(
                logits[i : i + 1], iou[i : i + 1], objects[i : i + 1], targets[i : i + 1], config
            ).terms
            for i in range(3)
        ]
    )
    assert alone[1, :2].all(), "an empty mask is taught as far as the configuration says"
    for counts in ((1.0, 1.0, 1.0), (1.0, 0.0, 0.0), (0.0, 0.5, 2.0), (0.0, 0.0, 0.0)):
        weights = torch.tensor(counts)
        found = frame_loss(logits, iou, objects, targets, config, weights).terms
        torch.testing.assert_close(found, (alone * weights[:, None]).mean(dim=0))
    plain = frame_loss(logits, iou, objects, targets, config).terms
    torch.testing.assert_close(plain, alone.mean(dim=0))


def test_what_does_not_count_gets_no_gradient() -> None:
    logits = torch.randn(2, 1, 8, 8, requires_grad=True)
    iou, objects = torch.rand(2, 1, requires_grad=True), torch.randn(2, 1, requires_grad=True)
    targets = torch.cat((_square(), _square()))
    frame_loss(logits, iou, objects, targets, PLAIN, torch.tensor([0.0, 1.0])).terms.sum().backward()
    for leaf in (logits, iou, objects):
        assert not leaf.grad[0].any()
        assert leaf.grad[1].any()


def test_smoothing_lets_small_objects_count_less() -> None:
    target = torch.zeros(1, 8, 8)
    target[:, 0, 0] = 1
    wrong = torch.full((1, 1, 8, 8), -50.0)  # nothing found
    assert _loss(wrong, target).dice == pytest.approx(1 - 1 / 2)
    assert _loss(wrong, target, LossConfig(dice_smoothing=8.0)).dice == pytest.approx(1 - 8 / 9)
