"""Outlines, filled again by three rules: each gives back the mask."""

import time

import numpy as np
import pytest
from skimage.draw import polygon

from medsam2.imaging.outputs.rtstruct import outlines


def winding_numbers(outline, shape):
    """How often a closed line goes around the middle of each pixel: by its angles, in no one's library."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    rays = outline[:, None, None, :] - np.stack((x, y), axis=-1)
    angles = np.arctan2(rays[..., 1], rays[..., 0])
    steps = np.diff(angles, axis=0, append=angles[:1])
    return np.rint(((steps + np.pi) % (2 * np.pi) - np.pi).sum(axis=0) / (2 * np.pi)).astype(int)


def crossings(outline, shape):
    """How many edges lie to the right of each pixel's middle, which is what even-odd filling counts."""
    count = np.zeros(shape, int)
    for (x0, y0), (x1, y1) in zip(outline, np.roll(outline, -1, axis=0), strict=True):
        y, x = np.mgrid[: shape[0], : shape[1]]
        if y0 != y1:
            spans = (y0 > y) != (y1 > y)
            count += spans & (x < x0 + (y - y0) / (y1 - y0) * (x1 - x0))
    return count


def filled(mask):
    """The mask by winding numbers, by even and odd, and by scikit-image."""
    by_winding, by_parity, by_skimage = (np.zeros(mask.shape, bool) for _ in range(3))
    for outline in outlines(mask):
        by_winding |= winding_numbers(outline, mask.shape) != 0
        by_parity |= crossings(outline, mask.shape) % 2 == 1
        by_skimage[polygon(outline[:, 1], outline[:, 0], mask.shape)] = True
    return by_winding, by_parity, by_skimage


def ring(radii, size=24):
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    return (np.hypot(x, y) < radii[1]) & (np.hypot(x, y) >= radii[0])


def swiss_cheese():
    mask = np.ones((20, 26), bool)
    mask[3:7, 4:9] = mask[10, 10] = mask[12:17, 14:20] = mask[5, 18:22] = False
    mask[14, 16] = True  # an island in a hole
    return mask


@pytest.mark.parametrize(
    "mask",
    [ring((4, 10)), ring((0, 9)), swiss_cheese(), np.ones((1, 1), bool), np.eye(5, dtype=bool)],
    ids=["ring", "disc", "holes", "pixel", "diagonal"],
)
def test_outlines_fill_to_the_mask_by_every_rule(mask):
    for again in filled(mask):
        assert np.array_equal(again, mask)


def test_noise_fills_to_the_mask():
    for seed in range(4):
        mask = np.random.default_rng(seed).random((14, 17)) > 0.45
        by_winding, by_parity, _ = filled(mask)
        assert np.array_equal(by_winding, mask)
        assert np.array_equal(by_parity, mask)


def test_each_part_is_one_outline_and_corners_are_few():
    mask = np.zeros((30, 40), bool)
    mask[2:20, 3:30] = True
    mask[25:28, 5:9] = True
    large, small = outlines(mask)
    assert len(large) == len(small) == 8  # a rectangle's corners are cut off
    assert large.min(axis=0).tolist() == [2.5, 1.5]
    assert large.max(axis=0).tolist() == [29.5, 19.5]
    assert list(outlines(np.zeros((4, 4), bool))) == []


def lung(num_holes):
    """An ellipse of 300 x 400 pixels without so many vessels."""
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:512, :512]
    mask = ((x - 256) / 150) ** 2 + ((y - 256) / 200) ** 2 < 1
    for _ in range(num_holes):
        angle, radius = rng.uniform(0, 6.28), rng.uniform(0, 0.9)
        middle = 256 + 150 * radius * np.cos(angle), 256 + 200 * radius * np.sin(angle)
        mask &= (x - middle[0]) ** 2 + (y - middle[1]) ** 2 >= 2.2**2
    return mask


@pytest.mark.parametrize(
    "mask", [lung(400), np.random.default_rng(2).random((64, 72)) > 0.4], ids=["lung", "noise"]
)
def test_hundreds_of_holes_take_no_minutes(mask):
    started = time.process_time()
    again = np.zeros(mask.shape, bool)
    for outline in outlines(mask):
        again[polygon(outline[:, 1], outline[:, 0], mask.shape)] = True
    assert time.process_time() - started < 10
    assert np.array_equal(again, mask)
