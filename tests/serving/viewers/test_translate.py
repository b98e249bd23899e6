"""Clicks, boxes, strokes and outlines become prompts on slices of the object's axis."""

from __future__ import annotations

import numpy as np
import pytest

from medsam2.errors import PromptError
from medsam2.imaging.volume import Volume
from medsam2.serving.viewers.interactions import click_at, drawing_of, region_between
from medsam2.serving.viewers.translate import axis_of, centre_line, translate

SHAPE = (10, 20, 30)
EMPTY = np.zeros(SHAPE, bool)
EVEN = (1.0, 1.0, 1.0)


def image(shape=SHAPE, spacing_zyx=EVEN) -> Volume:
    return Volume.from_array(np.zeros(shape, np.int16), spacing_zyx[::-1])


def drawn(box, *, outline=False, positive=True):
    array = np.zeros(SHAPE, np.uint8)
    array[tuple(slice(*pair) for pair in box)] = 1
    return drawing_of(array, None, SHAPE, is_outline=outline, is_positive=positive)


def test_numbers_are_rounded_and_just_outside_is_the_edge() -> None:
    assert click_at([3.4, 12.6, 5.5], SHAPE, is_positive=True).at == (3, 13, 6)
    assert click_at([-1, 20, 30], SHAPE, is_positive=True).at == (0, 19, 29)
    assert click_at([-2, 5, 5], SHAPE, is_positive=True).at == (-2, 5, 5)
    far = translate(click_at([-2, 5, 5], SHAPE, is_positive=True), axis=0, mask=EMPTY, is_begun=False)
    assert far.is_empty
    with pytest.raises(PromptError, match="three finite numbers"):
        click_at([1, float("nan"), 2], SHAPE, is_positive=True)


def test_half_open_boxes_are_cut_to_the_image() -> None:
    region = region_between([4.2, -3, 25], [5.1, 8, 99], SHAPE, is_positive=True)
    assert (region.first, region.last) == ((4, 0, 25), (4, 7, 29))
    assert region_between([4, 5, 6], [4, 5, 6], SHAPE, is_positive=True).extents == (1, 1, 1)
    assert region_between([4, 30, 6], [5, 40, 9], SHAPE, is_positive=True) is None


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_flat_drawing_says_the_axis(axis: int) -> None:
    box = [[2, 8], [3, 9], [4, 10]]
    box[axis] = [5, 6]
    assert axis_of(drawn(box), image()) == axis
    region = region_between([low for low, _ in box], [end for _, end in box], SHAPE, is_positive=True)
    assert axis_of(region, image()) == axis


def test_without_a_flat_side_the_thickest_slices_say_it() -> None:
    click = click_at([1, 2, 3], SHAPE, is_positive=True)
    assert axis_of(click, image()) == 0
    assert axis_of(click, image(spacing_zyx=(1.0, 5.0, 1.0))) == 1
    assert axis_of(click, image(spacing_zyx=(1.0, 1.4, 1.0))) == 0
    assert axis_of(click, image((40, 50, 1))) == 2
    assert axis_of(drawn([[5, 6], [3, 4], [2, 9]]), image()) == 0


@pytest.mark.parametrize(("axis", "slice_index", "xy"), [(0, 3, (7, 5)), (1, 5, (7, 3)), (2, 7, (5, 3))])
def test_a_click_lies_on_a_slice_of_the_axis(axis: int, slice_index: int, xy) -> None:
    (prompt,) = translate(
        click_at([3, 5, 7], SHAPE, is_positive=True), axis=axis, mask=EMPTY, is_begun=False
    ).prompts
    assert prompt.slice_index == slice_index
    assert [(point.x, point.y, point.is_positive) for point in prompt.points] == [(*xy, True)]


def test_a_click_outside_waits_until_there_is_an_object() -> None:
    click = click_at([3, 5, 7], SHAPE, is_positive=False)
    assert translate(click, axis=0, mask=EMPTY, is_begun=False).waiting == ((3, 5, 7),)
    assert translate(click, axis=0, mask=EMPTY, is_begun=True).is_empty
    mask = EMPTY.copy()
    mask[3, 4:8, 4:8] = True
    (prompt,) = translate(click, axis=0, mask=mask, is_begun=True).prompts
    assert not prompt.points[0].is_positive


@pytest.mark.parametrize(
    ("corners", "xyxy"),
    [
        (([3, 5, 7], [4, 9, 12]), (7, 5, 11, 8)),
        (([3, 5, 7], [4, 6, 12]), (7, 5, 11, 6)),  # a line is widened
        (([3, 19, 7], [4, 20, 12]), (7, 18, 11, 19)),
    ],
)
def test_a_box_includes_its_last_pixel(corners, xyxy) -> None:
    region = region_between(*corners, SHAPE, is_positive=True)
    (prompt,) = translate(region, axis=0, mask=EMPTY, is_begun=False).prompts
    assert prompt.box.xyxy == xyxy
    assert prompt.checked(SHAPE) is prompt


def test_a_box_of_one_voxel_is_a_click() -> None:
    region = region_between([3, 5, 7], [4, 6, 8], SHAPE, is_positive=True)
    (prompt,) = translate(region, axis=0, mask=EMPTY, is_begun=False).prompts
    assert (prompt.box, prompt.points[0].x, prompt.points[0].y) == (None, 7, 5)


def test_a_box_in_three_dimensions_is_one_of_its_middle_slice_with_limits() -> None:
    region = region_between([2, 5, 7], [9, 9, 12], SHAPE, is_positive=True)
    asked = translate(region, axis=0, mask=EMPTY, is_begun=False)
    assert asked.limits == (2, 8)
    assert (asked.prompts[0].slice_index, asked.prompts[0].box.xyxy) == (5, (7, 5, 11, 8))


def test_a_box_across_an_object_is_a_click_with_limits() -> None:
    region = region_between([2, 5, 7], [9, 6, 12], SHAPE, is_positive=True)
    asked = translate(region, axis=0, mask=EMPTY, is_begun=True)
    assert asked.limits == (2, 8)
    assert (asked.prompts[0].points[0].x, asked.prompts[0].points[0].y) == (9, 5)


def test_a_negative_box_takes_away() -> None:
    mask = EMPTY.copy()
    mask[4:7, 5:15, 5:15] = True
    region = region_between([5, 5, 5], [6, 15, 10], SHAPE, is_positive=False)
    (prompt,) = translate(region, axis=0, mask=mask, is_begun=True).prompts
    assert (prompt.mask.array == mask[5] & (np.arange(30) >= 10)).all()
    whole = region_between([6, 0, 0], [7, 20, 30], SHAPE, is_positive=False)
    asked = translate(whole, axis=0, mask=mask, is_begun=True)
    assert (asked.prompts, asked.emptied) == ((), (6,))
    assert translate(whole, axis=0, mask=EMPTY, is_begun=False).is_empty


def test_a_stroke_becomes_clicks_along_its_middle() -> None:
    asked = translate(drawn([[4, 5], [8, 11], [3, 28]]), axis=0, mask=EMPTY, is_begun=False)
    (prompt,) = asked.prompts
    xs = [point.x for point in prompt.points]
    assert xs == sorted(xs) or xs == sorted(xs, reverse=True)
    assert len(xs) == 3
    assert min(xs) > 4
    assert max(xs) < 26
    assert {point.y for point in prompt.points} == {9}
    assert len(np.unique(np.diff(xs))) <= 2


def test_a_short_stroke_is_one_click_and_a_bent_one_is_followed() -> None:
    assert centre_line(np.ones((1, 4), bool)) in ([(0, 0)], [(0, 1)], [(0, 2)], [(0, 3)])
    bent = np.zeros((40, 40), bool)
    bent[2, 2:38] = bent[2:38, 37] = True
    places = centre_line(bent)
    assert len(places) == 3
    assert all(bent[place] for place in places)
    assert {y for y, _ in places} > {2}
    two = np.zeros((10, 40), bool)
    two[1, 1:4] = two[8, 5:30] = True  # the largest part counts
    assert {y for y, _ in centre_line(two)} == {8}


def test_a_negative_stroke_counts_where_the_object_is() -> None:
    mask = EMPTY.copy()
    mask[4, 5:15, 3:12] = True
    stroke = drawn([[4, 5], [8, 11], [3, 28]], positive=False)
    (prompt,) = translate(stroke, axis=0, mask=mask, is_begun=True).prompts
    assert all(point.x < 12 and not point.is_positive for point in prompt.points)
    assert translate(stroke, axis=0, mask=EMPTY, is_begun=False).waiting


def test_a_stroke_across_is_a_click_on_some_slices() -> None:
    asked = translate(drawn([[1, 10], [8, 9], [4, 9]]), axis=0, mask=EMPTY, is_begun=True)
    assert [prompt.slice_index for prompt in asked.prompts] == [1, 3, 5, 7, 9]
    assert {(point.x, point.y) for prompt in asked.prompts for point in prompt.points} <= {
        (x, 8) for x in range(4, 9)
    }


def test_an_outline_is_filled_and_joined_to_the_mask() -> None:
    mask = EMPTY.copy()
    mask[4, 2:6, 2:6] = True
    ring = np.zeros(SHAPE, np.uint8)
    ring[4, 5:12, 5:12] = 1
    ring[4, 6:11, 6:11] = 0
    outline = drawing_of(ring, None, SHAPE, is_outline=True, is_positive=True)
    (prompt,) = translate(outline, axis=0, mask=mask, is_begun=True).prompts
    expected = mask[4].copy()
    expected[5:12, 5:12] = True
    assert (prompt.mask.array == expected).all()
    less = drawing_of(ring, None, SHAPE, is_outline=True, is_positive=False)
    (prompt,) = translate(less, axis=0, mask=mask, is_begun=True).prompts
    assert prompt.mask.array.sum() == 15


def test_a_drawing_comes_whole_or_with_its_box() -> None:
    part = drawing_of(
        np.ones((1, 2, 3)), [[4, 5], [6, 8], [7, 10]], SHAPE, is_outline=False, is_positive=True
    )
    assert (part.first, part.extents) == ((4, 6, 7), (1, 2, 3))
    assert drawing_of(np.zeros(SHAPE), None, SHAPE, is_outline=False, is_positive=True) is None
    with pytest.raises(PromptError, match="its box has"):
        drawing_of(np.ones((1, 2, 2)), [[4, 5], [6, 8], [7, 10]], SHAPE, is_outline=False, is_positive=True)
    with pytest.raises(PromptError, match="does not lie in the image"):
        drawing_of(np.ones((1, 2, 3)), [[4, 5], [19, 21], [7, 10]], SHAPE, is_outline=False, is_positive=True)
