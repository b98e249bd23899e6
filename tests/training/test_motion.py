"""Chance movements of clips: masks move with their images, and nothing moves where nothing is asked for."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medsam2.training.augment import move
from medsam2.training.config import AugmentConfig

SIDE, LENGTH = 64, 3


@pytest.fixture
def clip() -> tuple[np.ndarray, torch.Tensor]:
    """A bright block whose mask is exact."""
    image = np.full((LENGTH, SIDE, SIDE), 20, np.uint8)
    image[:, 20:44, 24:40] = 220
    return image, torch.from_numpy(image > 100).float()


@pytest.mark.parametrize(
    "settings",
    [
        {"rotation_degrees": 25.0},
        {"shear_degrees": 20.0},
        {"scale": (0.7, 1.4)},
        {"moving_share": 1.0, "moving_shift": 0.05, "moving_degrees": 5.0},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_masks_move_with_their_images(clip: tuple[np.ndarray, torch.Tensor], settings: dict) -> None:
    moved = [move(*clip, AugmentConfig(**settings), np.random.default_rng(seed)) for seed in range(5)]
    assert any(not np.array_equal(image, clip[0]) for image, _ in moved)
    for image, targets in moved:
        assert image.dtype == np.uint8
        assert set(targets.unique().tolist()) == {0.0, 1.0}
        bright = image > 120
        shared = (bright & (targets.numpy() > 0.5)).sum()
        assert 2 * shared / (bright.sum() + targets.sum()) > 0.97


def test_slices_move_together_unless_they_are_asked_not_to(clip: tuple[np.ndarray, torch.Tensor]) -> None:
    whole, _ = move(*clip, AugmentConfig(rotation_degrees=25.0), np.random.default_rng(1))
    assert all(np.array_equal(whole[0], plane) for plane in whole)
    single, _ = move(*clip, AugmentConfig(moving_share=1.0), np.random.default_rng(1))
    assert not np.array_equal(single[0], single[1])


def test_a_magnified_block_is_larger(clip: tuple[np.ndarray, torch.Tensor]) -> None:
    _, targets = move(*clip, AugmentConfig(scale=(1.5, 1.5)), np.random.default_rng(0))
    assert float(targets.sum() / clip[1].sum()) == pytest.approx(1.5**2, rel=0.03)


def test_nothing_is_drawn_where_nothing_moves(clip: tuple[np.ndarray, torch.Tensor]) -> None:
    rng = np.random.default_rng(4)
    image, targets = move(*clip, AugmentConfig(), rng)
    assert image is clip[0]
    assert targets is clip[1]
    assert rng.random() == np.random.default_rng(4).random()


def test_an_object_that_would_leave_the_first_slice_stays(clip: tuple[np.ndarray, torch.Tensor]) -> None:
    image, targets = clip
    targets = torch.zeros_like(targets)
    targets[:, 32, 32] = 1  # a single pixel is lost to half the size
    kept, same = move(image, targets, AugmentConfig(scale=(0.4, 0.4)), np.random.default_rng(0))
    assert kept is image
    assert same is targets
