"""Classical cues against a second implementation in plain NumPy, and what they say of known pictures."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage

from medsam2.tracking.cues import context_likeness, grey_likeness, match_patches

Array = NDArray[np.float64]
SIZE = 48
LEVELS = 255  # greys are whole numbers of it, so that no mean lies between two bins


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(4)


def _slices(rng: np.random.Generator) -> tuple[Array, Array, Array]:
    """A slice with a brighter, coarser disc in it, the disc's soft mask, and the next slice."""
    y, x = np.mgrid[:SIZE, :SIZE]
    greys = []
    for shift in (0, 2):
        distance = np.hypot(y - 22, x - 26 - shift)
        noise = rng.normal(0, 25, (SIZE, SIZE)) + ndimage.gaussian_filter(rng.normal(0, 90, (SIZE, SIZE)), 2)
        greys.append(np.clip(np.round(90 + 60 * (distance < 12) + noise), 0, LEVELS) / LEVELS)
    inside = 1 / (1 + np.exp(np.hypot(y - 22, x - 26) - 12))
    return greys[0], inside, greys[1]


def _tensors(*arrays: Array) -> list[torch.Tensor]:
    return [torch.from_numpy(array.astype(np.float32))[None] for array in arrays]


def _mean(grey: Array, side: int) -> Array:
    return ndimage.uniform_filter(grey, side, mode="nearest")


def _likeness(
    reference: tuple[NDArray[np.int64], ...], inside: Array, current: tuple[NDArray[np.int64], ...],
    num_bins: int, kernel: Array,
) -> Array:  # fmt: skip
    """The log ratio of two smoothed histograms of one axis or two, looked up at each pixel."""
    shape = (num_bins,) * len(reference)
    shares = []
    for weight in (inside, 1 - inside):
        histogram = np.zeros(shape)
        np.add.at(histogram, reference, weight)
        smooth = ndimage.correlate(histogram, kernel / kernel.sum(), mode="nearest")
        shares.append(smooth / weight.sum() + 0.06 / np.prod(shape))
    return np.clip(np.log(shares[0] / shares[1]), -3, 3)[current] / 3


def _expected_grey_likeness(reference: Array, inside: Array, current: Array) -> Array:
    bins = [np.rint(_mean(grey, 3) * 31).astype(int) for grey in (reference, current)]
    kernel = np.array([1, 2, 3, 4, 3, 2, 1.0])
    return _likeness((bins[0],), inside, (bins[1],), 32, kernel)


def _expected_context_likeness(reference: Array, inside: Array, current: Array) -> Array:
    bins = [
        tuple(np.rint(_mean(grey, side) * 15).astype(int) for side in (3, 9)) for grey in (reference, current)
    ]
    kernel = np.outer([1, 2, 1.0], [1, 2, 1.0])
    return _likeness(bins[0], inside, bins[1], 16, kernel)


def _expected_match(reference: Array, inside: Array, current: Array, cell: int) -> tuple[Array, Array]:
    """Each cell of the current slice against 49 cells of the other one, patch by patch."""

    def reduced(array: Array) -> Array:
        side = len(array) // cell
        return array.reshape(side, cell, side, cell).mean(axis=(1, 3))

    here, there, mask = reduced(current), np.pad(reduced(reference), 3, mode="edge"), reduced(inside)
    masks, side = np.pad(mask, 3), len(mask)
    costs, carried = [], []
    for down in range(-3, 4):
        for right in range(-3, 4):
            part = np.s_[3 + down : 3 + down + side, 3 + right : 3 + right + side]
            costs.append(_mean((here - there[part]) ** 2, 5) + 0.0003 * (down**2 + right**2))
            carried.append(masks[part])
    best = np.min(costs, axis=0)
    weights = np.exp(np.maximum(-(np.array(costs) - best) / (0.002 + best / 2), -12))
    moved = (weights * carried).sum(axis=0) / weights.sum(axis=0)
    return _enlarged(moved, cell), _enlarged(np.exp(-best / 0.01), cell)


def _enlarged(cells: Array, cell: int) -> Array:
    """Linear between the middles of cells, constant beyond the outermost."""
    side = len(cells)
    places = (np.arange(side * cell) + 0.5) / cell - 0.5
    rows = np.array([np.interp(places, np.arange(side), row) for row in cells])
    return np.array([np.interp(places, np.arange(side), column) for column in rows.T]).T


def test_likeness_of_greys_is_the_log_ratio_of_two_histograms(rng: np.random.Generator) -> None:
    reference, inside, current = _slices(rng)
    found = grey_likeness(*_tensors(reference, inside, current))
    expected = _expected_grey_likeness(reference, inside, current)
    np.testing.assert_allclose(found[0].numpy(), expected, atol=1e-4)
    assert expected.min() < -0.3
    assert expected.max() > 0.3


def test_likeness_of_contexts_is_the_log_ratio_of_two_histograms_of_pairs(rng: np.random.Generator) -> None:
    reference, inside, current = _slices(rng)
    found = context_likeness(*_tensors(reference, inside, current))
    expected = _expected_context_likeness(reference, inside, current)
    np.testing.assert_allclose(found[0].numpy(), expected, atol=1e-4)
    assert expected.min() < -0.3
    assert expected.max() > 0.3


def test_matched_patches_are_those_found_one_by_one(rng: np.random.Generator) -> None:
    reference, inside, current = _slices(rng)
    moved, quality = match_patches(*_tensors(reference, inside, current))
    expected_moved, expected_quality = _expected_match(reference, inside, current, cell=2)
    np.testing.assert_allclose(moved[0].numpy(), expected_moved, atol=1e-3)
    np.testing.assert_allclose(quality[0].numpy(), expected_quality, atol=1e-3)


@pytest.mark.parametrize("cue", [grey_likeness, context_likeness])
def test_an_object_of_its_own_grey_stands_out(rng: np.random.Generator, cue) -> None:
    reference, inside, current = _slices(rng)
    found = cue(*_tensors(reference, inside, current))[0].numpy()
    y, x = np.mgrid[:SIZE, :SIZE]
    distance = np.hypot(y - 22, x - 28)  # two pixels to the right of where it was
    assert found[distance < 10].mean() > 0.3
    assert found[distance > 16].mean() < -0.3
    assert np.abs(found).max() <= 1


@pytest.mark.parametrize("size", [128, 192])
@pytest.mark.parametrize(("down", "right"), [(0, 0), (6, -6), (-6, 0)])
def test_a_picture_that_has_moved_takes_its_mask_along(
    rng: np.random.Generator, size: int, down: int, right: int
) -> None:
    texture = ndimage.gaussian_filter(rng.normal(0.5, 1.2, (size, size)), 2).clip(0, 1)
    mask = np.zeros((size, size))
    mask[40:70, 50:90] = 1
    current, expected = (np.roll(array, (down, right), axis=(0, 1)) for array in (texture, mask))
    moved, quality = (maps[0].numpy() for maps in match_patches(*_tensors(texture, mask, current)))
    overlap = ((moved > 0.5) & (expected > 0.5)).sum() / ((moved > 0.5) | (expected > 0.5)).sum()
    assert overlap > 0.9
    inner = np.s_[12:-12, 12:-12]  # what has come in at the edge fits nowhere
    # It fits to the last digit; each squared cell of way costs 3 %, and a cell has two pixels at least.
    assert np.median(quality[inner]) > np.exp(-0.03 * (down**2 + right**2) / 4) - 1e-3
    stranger = ndimage.gaussian_filter(rng.normal(0.5, 1.2, (size, size)), 2).clip(0, 1)
    _, poor = match_patches(*_tensors(texture, mask, stranger))
    assert np.median(poor[0].numpy()) < 0.2


def test_an_empty_mask_says_nothing_whatever_else_is_in_the_batch(rng: np.random.Generator) -> None:
    reference, inside, current = (tensor.expand(2, -1, -1).clone() for tensor in _tensors(*_slices(rng)))
    inside[1] = 0
    for cue in (grey_likeness, context_likeness):
        found = cue(reference, inside, current)
        assert found[0].any()
        assert not found[1].any()
        torch.testing.assert_close(found[0], cue(reference[:1], inside[:1], current[:1])[0])
    moved, quality = match_patches(reference, inside, current)
    assert not moved[1].any()
    torch.testing.assert_close(quality[0], quality[1])


def test_two_pixels_are_no_histogram(rng: np.random.Generator) -> None:
    reference, inside, current = _tensors(*_slices(rng))
    inside = torch.zeros_like(inside)
    inside[0, 20, 20:22] = 1
    assert not grey_likeness(reference, inside, current).any()
    inside[0, 20, 20:24] = 1
    assert grey_likeness(reference, inside, current).any()


def test_cues_are_given_not_learnt(rng: np.random.Generator) -> None:
    greys = [tensor.requires_grad_() for tensor in _tensors(*_slices(rng))]
    found = (grey_likeness(*greys), context_likeness(*greys), *match_patches(*greys))
    assert not any(cue.requires_grad for cue in found)
