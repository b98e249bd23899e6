"""Views that close in on objects: where the squares lie, what they show, and what memories become in them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor

from medsam2.model.compact.memory import HERE, Square
from medsam2.training.clip_workers import chance_of_step
from medsam2.training.closer import (
    LEAST_SIDE,
    MOST_SIDE,
    choose_squares,
    clips_closer,
    look_closer,
    seen_from,
)
from medsam2.training.compact_clips import CompactClips
from medsam2.training.compact_learner import Unroll
from medsam2.training.config import PromptConfig

SIZE = 64
# Drawn masks, so that the views of the clips close in on different places.
CLOSER = PromptConfig(
    point_share=0, mask_share=1.0, correction_share=0, late_correction_share=0, closer_share=1.0
)


def _sources(count: int) -> list[np.random.Generator]:
    return [np.random.default_rng((3, number)) for number in range(count)]


def _blocks(places: list[tuple[int, int, int, int]]) -> Tensor:
    """Masks `(B, S, S)` of blocks: left, top, right, bottom in pixels, the last ones excluded."""
    masks = torch.zeros(len(places), SIZE, SIZE, dtype=torch.bool)
    for mask, (left, top, right, bottom) in zip(masks, places, strict=True):
        mask[top:bottom, left:right] = True
    return masks


def _make_clips(length: int) -> CompactClips:
    """Bright blocks in noise, small ones in different corners, which move by a pixel a slice."""
    images = torch.rand(2, length + 2, SIZE, SIZE, generator=torch.Generator().manual_seed(0)) * 0.3
    targets = torch.zeros(2, length, SIZE, SIZE)
    for index in range(length):
        targets[0, index, 8:24, 4 + index : 20 + index] = 1
        targets[1, index, 36:56, 30 + index : 46 + index] = 1
    images[:, 1:-1] += 0.6 * targets
    return CompactClips(images=images, targets=targets, counts=torch.ones(2, length))


@pytest.mark.parametrize("block", [(30, 20, 34, 41), (0, 0, 6, 9), (55, 50, 64, 64), (5, 40, 33, 60)])
def test_a_square_lies_in_the_view_and_holds_the_mask(block: tuple[int, int, int, int]) -> None:
    squares = choose_squares(_blocks([block] * 20), _sources(20))
    for left, top, side in squares:
        assert LEAST_SIDE <= side <= MOST_SIDE
        assert 0 <= left <= 1 - side
        assert 0 <= top <= 1 - side
        assert left * SIZE <= block[0]
        assert block[2] <= (left + side) * SIZE + 1e-6
        assert top * SIZE <= block[1]
        assert block[3] <= (top + side) * SIZE + 1e-6


def test_squares_are_of_many_sizes() -> None:
    sides = [side for _, _, side in choose_squares(_blocks([(5, 40, 33, 60)] * 20), _sources(20))]
    assert min(sides) < 0.65
    assert max(sides) > 0.9


def test_around_nothing_the_square_lies_in_the_middle() -> None:
    (square,) = choose_squares(_blocks([(0, 0, 0, 0)]), _sources(1))
    assert square == pytest.approx(((1 - LEAST_SIDE) / 2, (1 - LEAST_SIDE) / 2, LEAST_SIDE))


def test_a_square_is_enlarged_to_the_whole_view() -> None:
    maps = _blocks([(16, 32, 32, 40)]).float()
    closer = look_closer(maps, [(0.25, 0.375, 0.5)])  # from pixel 16 across and 24 down, 32 pixels wide
    assert torch.equal(closer[0] > 0.5, _blocks([(0, 16, 32, 32)])[0])
    torch.testing.assert_close(look_closer(maps, [HERE]), maps, atol=1e-5, rtol=0)


def test_slices_and_masks_stay_together() -> None:
    clips = _make_clips(3)
    closer = clips_closer(clips, [(0.0, 0.0, 0.5), (0.375, 0.5, 0.5)])
    assert closer.images.shape == clips.images.shape
    assert set(closer.targets.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(closer.counts, clips.counts)
    assert torch.equal(closer.targets[0, 0].bool(), _blocks([(8, 16, 40, 48)])[0])
    assert torch.equal(closer.targets[1, 0].bool(), _blocks([(12, 8, 44, 48)])[0])
    # Brighter than the noise is what lies well inside of the masks.
    inside = -torch.nn.functional.max_pool2d(-closer.targets, 5, stride=1, padding=2) > 0
    assert bool((closer.images[:, 1:-1][inside] > 0.5).all())


def _follow(noted, clips: CompactClips, prompts: PromptConfig = CLOSER, step: int = 0) -> Unroll:
    unroll = Unroll(
        noted, clips, prompts, chance_of_step(7, step, range(2)), lambda terms: terms.sum().backward()
    )
    unroll.run()
    return unroll


def _view_of(key: Square) -> Square:
    """The square that has become the view, from where the old view lies in it."""
    left, top, side = key
    return -left / side, -top / side, 1 / side


def test_a_memory_that_is_mapped_back_lies_where_it_lay() -> None:
    memory, square = (0.1, -0.2, 0.8), (0.3, 0.25, 0.5)
    left, top, side = seen_from(memory, square)
    assert (square[0] + square[2] * left, square[1] + square[2] * top, square[2] * side) == pytest.approx(
        memory
    )
    assert seen_from(square, square) == HERE


def test_the_network_is_shown_the_object_closer(noted) -> None:
    length, seen = 4, set()
    clips = _make_clips(length)
    for step in range(8):
        noted.given.clear()
        _follow(noted, clips, step=step)
        since = next(
            call
            for call, (*_, recalled) in enumerate(noted.given)
            if recalled is not None and recalled.squares[0] != [HERE] * 2
        )
        seen.add(since)
        first = noted.given[since][3]
        assert first is not None
        squares = [_view_of(key) for key in first.squares[0]]
        for call, (_, target, _, recalled) in enumerate(noted.given):
            shown, masks = clips.images[:, call + 1], clips.targets[:, call]
            if call >= since:
                shown, masks = look_closer(shown, squares), (look_closer(masks, squares) > 0.5).float()
            torch.testing.assert_close(noted.planes(call, "slice"), shown, atol=1e-4, rtol=0)
            assert torch.equal(target, masks)
            if recalled is None:
                continue
            slices = [call - round(15 * distance) for distance in recalled.distances]
            for place, number in zip(recalled.squares, slices, strict=True):
                is_old = number < since <= call
                assert (place == [HERE] * 2) == (not is_old)
                if is_old:  # all of the old view, as seen from the new one
                    assert [_view_of(one) for one in place] == squares
    assert seen == {1, 2, 3}, "the view changes at any slice but the first"


def test_one_view_without_a_share_or_a_loss(noted) -> None:
    clips = _make_clips(3)
    for unroll in (
        _follow(noted, clips, dataclasses.replace(CLOSER, closer_share=0.0)),
        Unroll(noted, clips, CLOSER, chance_of_step(7, 0, range(2)), None),
    ):
        unroll.run()
        assert unroll.clips is clips


def test_a_batch_with_two_views_gives_the_mean_loss_of_its_clips(noted) -> None:
    _follow(noted, _make_clips(2))
    planes, target, counts, recalled = noted.given[1]
    assert recalled is not None
    assert recalled.parts() == [slice(0, 1), slice(1, 2)]
    terms, logits, *_ = noted.learner(planes, target, counts, recalled)
    alone = [
        noted.learner(
            planes[clip],
            target[clip],
            counts[clip],
            recalled._replace(
                seen=[tensor[clip] for tensor in recalled.seen],
                shares=[tensor[clip] for tensor in recalled.shares],
                pooled=[tensor[clip] for tensor in recalled.pooled],
                squares=[squares[clip] for squares in recalled.squares],
            ),
        )
        for clip in recalled.parts()
    ]
    torch.testing.assert_close(terms, torch.stack([one[0] for one in alone]).mean(dim=0))
    torch.testing.assert_close(logits, torch.cat([one[1] for one in alone]), atol=1e-4, rtol=1e-4)
