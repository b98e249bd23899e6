"""Disturbed masks of the slice before: how many, how, and never so that an object seems to have ended."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from medsam2.training.augment import disturb_masks
from medsam2.training.config import PromptConfig

COUNT, SIZE = 200, 64


def _masks() -> tuple[Tensor, Tensor]:
    """Probabilities of a found square, and a true one beside it."""
    prior, truth = torch.full((COUNT, SIZE, SIZE), 0.01), torch.zeros(COUNT, SIZE, SIZE)
    prior[:, 20:40, 20:44] = 0.9
    truth[:, 22:42, 20:44] = 1
    return prior, truth


def _sources(seed: int = 0) -> list[np.random.Generator]:
    return [np.random.default_rng((seed, clip)) for clip in range(COUNT)]


def _pool(mask: Tensor, side: int) -> Tensor:
    return F.max_pool2d(mask[None, None], side, stride=1, padding=side // 2)[0, 0]


def _kind(disturbed: Tensor, prior: Tensor, truth: Tensor) -> str:
    """Which of the known changes was made, to the pixel."""
    if torch.equal(disturbed, prior):
        return "none"
    if torch.equal(disturbed, truth):
        return "truth"
    if not disturbed.any():
        return "lost"
    for side in (3, 5):
        if torch.equal(disturbed, _pool(prior, side)):
            return "grown"
        if torch.equal(disturbed, -_pool(-prior, side)):
            return "shrunk"
    shifts = [(down, right) for down in range(-2, 3) for right in range(-2, 3)]  # 0.03 of 64 pixels
    assert any(torch.equal(disturbed, prior.roll(shift, dims=(0, 1))) for shift in shifts)
    return "shifted"


def _kinds(**shares: float) -> dict[str, int]:
    prior, truth = _masks()
    disturbed = disturb_masks(prior, truth, PromptConfig(**shares), _sources())
    found = [_kind(*masks) for masks in zip(disturbed, prior, truth, strict=True)]
    return {kind: found.count(kind) for kind in sorted(set(found))}


def test_nothing_is_disturbed_by_default() -> None:
    assert _kinds() == {"none": COUNT}


def test_all_masks_may_be_lost() -> None:
    assert _kinds(lost_share=1.0) == {"lost": COUNT}


def test_masks_are_disturbed_in_four_ways() -> None:
    counts = _kinds(disturbed_share=1.0)
    assert counts.pop("none", 0) < 10, "shifts by nothing"
    assert set(counts) == {"truth", "grown", "shrunk", "shifted"}
    assert min(counts.values()) > COUNT / 8


def test_shares_are_shares_of_the_masks() -> None:
    counts = _kinds(disturbed_share=0.3, lost_share=0.2)
    assert abs(counts["lost"] / COUNT - 0.2) < 0.1
    changed = COUNT - counts["lost"] - counts["none"]
    assert abs(changed / COUNT - 0.3) < 0.12


def test_what_was_given_is_left_as_it_is() -> None:
    prior, truth = _masks()
    before = prior.clone()
    disturb_masks(prior, truth, PromptConfig(disturbed_share=0.5, lost_share=0.5), _sources())
    assert torch.equal(prior, before)


def test_a_speck_is_not_shrunk_away() -> None:
    prior = torch.full((COUNT, SIZE, SIZE), 0.01)
    prior[:, 30:32, 30:32] = 0.9
    disturbed = disturb_masks(prior, prior, PromptConfig(disturbed_share=1.0), _sources())
    assert bool((disturbed > 0.5).flatten(1).any(dim=1).all())


def test_chance_decides_for_each_clip() -> None:
    prior, truth = _masks()
    config = PromptConfig(disturbed_share=0.5, lost_share=0.2)
    first, again, other = (disturb_masks(prior, truth, config, _sources(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    part = disturb_masks(prior[50:], truth[50:], config, _sources()[50:])
    assert torch.equal(part, first[50:])
