"""Simulated prompts: they lie where they claim to lie, whatever the mask and the chance."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medsam2.errors import PromptError
from medsam2.prompts.simulate import (
    LEAST_SIDE_OF_LINE,
    box_of_line,
    center_point,
    correction,
    jitter_box,
    largest_error_click,
    longest_line,
    random_point,
    tight_box,
)
from medsam2.prompts.types import Box, Point, Prompt


def _mask(*pixels: tuple[int, int], shape: tuple[int, int] = (12, 16)) -> np.ndarray:
    mask = np.zeros(shape, bool)
    for y, x in pixels:
        mask[y, x] = True
    return mask


def test_tight_box_touches_the_outermost_pixels() -> None:
    assert tight_box(_mask((2, 5), (7, 3), (4, 11))) == Box(x_min=3, y_min=2, x_max=11, y_max=7)
    assert tight_box(_mask((0, 15))) == Box(x_min=15, y_min=0, x_max=15, y_max=0)


def test_an_empty_mask_has_no_box() -> None:
    with pytest.raises(PromptError, match="an empty mask has no box"):
        tight_box(_mask())


@st.composite
def _boxes(draw):
    height, width = draw(st.integers(2, 300)), draw(st.integers(2, 300))
    xs = sorted(draw(st.tuples(st.integers(0, width - 1), st.integers(0, width - 1))))
    ys = sorted(draw(st.tuples(st.integers(0, height - 1), st.integers(0, height - 1))))
    return Box(x_min=xs[0], y_min=ys[0], x_max=xs[1], y_max=ys[1]), (height, width)


@given(case=_boxes(), fraction=st.floats(0, 0.5), seed=st.integers(0, 2**16))
def test_a_jittered_box_is_a_valid_prompt_near_the_box(case, fraction: float, seed: int) -> None:
    box, shape = case
    moved = jitter_box(box, np.random.default_rng(seed), fraction=fraction, shape_yx=shape)
    Prompt(slice_index=0, box=moved).checked((1, *shape))
    assert moved.x_max - moved.x_min >= 1 - 1e-9
    assert moved.y_max - moved.y_min >= 1 - 1e-9
    # A box that would have less than a pixel is widened: by a pixel more than the noise at most.
    for axis, ends in enumerate((("x_min", "x_max"), ("y_min", "y_max"))):
        low, high = (getattr(box, name) for name in ends)
        limit = min(fraction * (high - low + 1), 20.0) + (1 if high - low < 3 else 0) + 1e-9
        for name in ends:
            assert abs(getattr(moved, name) - getattr(box, name)) <= limit, (axis, name)


def test_jitter_uses_its_range_and_its_limit() -> None:
    box, rng = Box(x_min=100, y_min=100, x_max=399, y_max=119), np.random.default_rng(0)
    moved = np.array(
        [jitter_box(box, rng, fraction=0.1, shape_yx=(512, 512)).xyxy for _ in range(400)]
    ) - np.array(box.xyxy)
    largest = np.abs(moved).max(axis=0)
    assert np.all(largest <= [20, 2, 20, 2])  # a tenth of 300 is more than 20 pixels
    assert np.all(largest >= [19, 1.9, 19, 1.9])
    assert np.all(np.abs(moved.mean(axis=0)) < [2, 0.2, 2, 0.2])


def test_no_noise_moves_nothing() -> None:
    box = Box(x_min=4, y_min=5, x_max=9, y_max=8)
    assert jitter_box(box, np.random.default_rng(0), fraction=0, shape_yx=(20, 20)) == box


@given(seed=st.integers(0, 2**16))
def test_a_correction_clicks_on_a_wrong_pixel_with_the_right_label(seed: int) -> None:
    rng = np.random.default_rng(seed)
    predicted, truth = rng.random((2, 9, 7)) < rng.random()
    point = correction(predicted, truth, rng)
    y, x = int(point.y), int(point.x)
    assert point.is_positive == truth[y, x]
    if (predicted != truth).any():
        assert predicted[y, x] != truth[y, x]


def test_corrections_reach_misses_and_excess_alike() -> None:
    truth, predicted = _mask((2, 3), (2, 4)), _mask((2, 4), (9, 9))
    rng = np.random.default_rng(0)
    clicks = {(p.x, p.y, p.is_positive) for p in (correction(predicted, truth, rng) for _ in range(40))}
    assert clicks == {(3.0, 2.0, True), (9.0, 9.0, False)}


def test_a_right_mask_is_confirmed_from_inside_and_absence_from_outside() -> None:
    rng, truth = np.random.default_rng(0), _mask((2, 3))
    point = correction(truth, truth, rng)
    assert (point.x, point.y, point.is_positive) == (3.0, 2.0, True)
    assert not correction(_mask(), _mask(), rng).is_positive


@given(seed=st.integers(0, 2**16))
def test_a_random_point_lies_in_its_region(seed: int) -> None:
    rng = np.random.default_rng(seed)
    region = rng.random((8, 5)) < 0.2
    region[rng.integers(8), rng.integers(5)] = True
    point = random_point(region, rng, is_positive=True)
    assert region[int(point.y), int(point.x)]


def test_the_center_is_where_the_region_is_thickest() -> None:
    region = np.zeros((20, 30), bool)
    region[10, 2:28] = True
    region[6:13, 20:27] = True
    point = center_point(region, is_positive=True)
    assert (point.x, point.y) == (23.0, 9.0)
    edge = np.zeros((9, 9), bool)
    edge[:, :5] = True  # the slice's edge ends the region as well
    assert center_point(edge, is_positive=False).x == 2.0


def test_the_click_lies_deepest_in_the_largest_error_of_the_volume() -> None:
    truth = np.zeros((9, 20, 20), bool)
    truth[1:8, 4:15, 4:15] = True
    predicted = truth.copy()
    predicted[1:6, 4:15, 4:9] = False  # missed: 5 x 11 x 5 voxels
    predicted[8, 0:3, 0:20] = True  # too much: 60 voxels
    click = largest_error_click(predicted, truth)
    (point,) = click.points
    assert (click.slice_index, point.x, point.is_positive) == (3, 6.0, True)
    assert 6 <= point.y <= 12
    (point,) = largest_error_click(predicted | truth, truth).points
    assert (point.y, point.is_positive) == (1.0, False)
    assert largest_error_click(truth, truth) is None


def test_parts_that_touch_at_a_corner_are_one_error() -> None:
    truth = np.zeros((4, 12, 12), bool)
    predicted = truth.copy()
    predicted[0, 0:3, 0:3] = predicted[1, 3:6, 3:6] = True  # 18 voxels, joined by a corner
    predicted[3, 8:12, 8:12] = True  # 16 voxels
    assert largest_error_click(predicted, truth).slice_index in (0, 1)


@given(seed=st.integers(0, 2**16))
def test_a_click_is_on_an_error_with_the_right_label(seed: int) -> None:
    predicted, truth = np.random.default_rng(seed).random((2, 4, 6, 5)) < 0.5
    click = largest_error_click(predicted, truth)
    (point,) = click.points
    place = click.slice_index, int(point.y), int(point.x)
    assert predicted[place] != truth[place]
    assert point.is_positive == truth[place]


@given(seed=st.integers(0, 2**16))
def test_no_two_pixels_are_further_apart_than_the_longest_line(seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.random((9, 12)) < rng.uniform(0.02, 0.9)
    mask[rng.integers(9), rng.integers(12)] = True
    spacing = tuple(rng.uniform(0.3, 3, 2))
    places = np.argwhere(mask)[:, ::-1] * spacing
    longest = np.sqrt(((places[:, None] - places[None]) ** 2).sum(axis=2)).max()
    start, end = longest_line(mask, spacing)
    assert mask[int(start.y), int(start.x)]
    assert mask[int(end.y), int(end.x)]
    assert np.hypot((end.x - start.x) * spacing[0], (end.y - start.y) * spacing[1]) == pytest.approx(longest)


def test_an_empty_mask_has_no_diameter() -> None:
    with pytest.raises(PromptError, match="no diameter"):
        longest_line(_mask())


def test_the_box_of_a_line_is_never_thin() -> None:
    along_x = (Point(x=10, y=30), Point(x=50, y=30))
    side = LEAST_SIDE_OF_LINE * 40
    assert box_of_line(along_x, (100, 100)) == Box(
        x_min=10, y_min=30 - side / 2, x_max=50, y_max=30 + side / 2
    )
    # With rows 2 mm apart the same length is half as many of them.
    assert box_of_line(along_x, (100, 100), (1.0, 2.0)).y_max == 30 + side / 4
    diagonal = (Point(x=10, y=10), Point(x=40, y=40))
    assert box_of_line(diagonal, (100, 100)) == Box(x_min=10, y_min=10, x_max=40, y_max=40)
    assert box_of_line(along_x, (40, 100)).y_max == 39  # cut off at the slice's edge


def test_the_diameter_of_a_disc_gives_nearly_its_box() -> None:
    y, x = np.ogrid[:81, :81]
    disc = (x - 40) ** 2 + (y - 40) ** 2 <= 30**2
    box = box_of_line(longest_line(disc), disc.shape)
    assert max(box.x_max - box.x_min, box.y_max - box.y_min) >= LEAST_SIDE_OF_LINE * 60
    assert (box.center_xy) == (40.0, 40.0)
    one = _mask((3, 4))
    assert box_of_line(longest_line(one), one.shape).longest_side >= 2
