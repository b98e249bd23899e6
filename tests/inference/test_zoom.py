"""Views: known positions in the network's input, and squares that stay where there is something to see."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medsam2.inference import zoom
from medsam2.inference.zoom import (
    View,
    follow,
    grow,
    square_view,
    touches_border,
    view_of_mask,
    view_of_prompt,
    views_of_clicks,
    whole_slice,
    zoom_on,
)
from medsam2.prompts.types import Box, MaskPrompt, Point, Prompt


@pytest.fixture(autouse=True)
def _known_zoom(monkeypatch: pytest.MonkeyPatch) -> None:
    """Views of two and a half boxes, whatever suits the weights: their numbers are written out here."""
    monkeypatch.setattr(zoom, "CLOSE_ZOOM", 2.5)


ZOOMED = View(x=10, y=20, width=32, height=32, is_zoomed=True)


def test_a_whole_slice_is_only_scaled() -> None:
    view = whole_slice((100, 200))
    points = np.array([[0.0, 0.0], [50.0, 25.0], [199.0, 99.0]])
    mapped = view.points_to_network(points, 512)
    np.testing.assert_allclose(mapped, points * (512 / 200, 512 / 100))
    corners = view.box_to_network(Box(x_min=10, y_min=20, x_max=30, y_max=40), 512)
    np.testing.assert_allclose(corners, [[25.6, 102.4], [76.8, 204.8]])


def test_a_zoomed_view_maps_pixel_centres_to_pixel_centres() -> None:
    # The middle of the view stays the middle; its first pixel's centre lies 1.5 input pixels in, at scale 4.
    mapped = ZOOMED.points_to_network(np.array([[25.5, 35.5], [10.0, 20.0], [41.0, 51.0]]), 128)
    np.testing.assert_allclose(mapped, [[63.5, 63.5], [1.5, 1.5], [125.5, 125.5]])


def test_pixels_are_taken_from_a_mask_by_their_centres_in_any_view() -> None:
    points = np.array([[25.5, 35.5], [10.0, 20.0]])
    np.testing.assert_allclose(ZOOMED.points_to_mask(points, 128), ZOOMED.points_to_network(points, 128))
    corners = np.array([[-0.5, -0.5], [199.5, 99.5], [0.0, 0.0]])
    mapped = whole_slice((100, 200)).points_to_mask(corners, 50)
    np.testing.assert_allclose(mapped, [[-0.5, -0.5], [49.5, 49.5], [-0.375, -0.25]])


def test_a_zoomed_box_covers_its_first_and_last_pixel() -> None:
    everything = Box(x_min=10, y_min=20, x_max=41, y_max=51)
    np.testing.assert_allclose(ZOOMED.box_to_network(everything, 128), [[0, 0], [127, 127]])
    np.testing.assert_allclose(
        ZOOMED.box_to_network(Box(x_min=12, y_min=21, x_max=12, y_max=22), 128), [[8, 4], [11, 11]]
    )


def test_a_zoomed_box_is_the_tight_box_of_the_resampled_mask() -> None:
    """What the network is trained with: the box is drawn around the mask in the input."""
    mask = np.zeros((60, 60), bool)
    mask[25:31, 14:22] = True
    enlarged = mask[20:52, 10:42].repeat(4, axis=0).repeat(4, axis=1)
    rows, columns = np.flatnonzero(enlarged.any(axis=1)), np.flatnonzero(enlarged.any(axis=0))
    box = Box(x_min=14, y_min=25, x_max=21, y_max=30)
    expected = [[columns[0], rows[0]], [columns[-1], rows[-1]]]
    np.testing.assert_allclose(ZOOMED.box_to_network(box, 128), expected)


@given(
    center=st.tuples(st.floats(0, 300), st.floats(0, 300)),
    side=st.integers(1, 500),
    shape=st.tuples(st.integers(1, 300), st.integers(1, 300)),
)
def test_a_square_lies_in_the_slice_where_it_can(center, side: int, shape) -> None:
    height, width = shape
    view = square_view(center, side, shape)
    assert view.width == view.height == min(side, max(shape))
    assert view.is_zoomed
    for start, length, middle in ((view.x, width, center[0]), (view.y, height, center[1])):
        if view.width <= length:
            assert 0 <= start <= length - view.width
            if view.width / 2 <= middle <= length - 1 - view.width / 2:
                assert abs(start + (view.width - 1) / 2 - middle) <= 0.5 + 1e-9
        else:  # wider than the slice: as much on either side
            assert abs((start + view.width - length) + start) <= 1


def test_views_follow_the_prompt() -> None:
    shape = (512, 512)
    box = Box(x_min=200, y_min=100, x_max=259, y_max=119)
    view = zoom_on(Prompt(slice_index=0, box=box), shape)
    assert (view.width, view.height) == (180, 180)
    assert (view.x, view.y) == (140, 20)
    small = Box(x_min=300, y_min=300, x_max=303, y_max=303)
    assert zoom_on(Prompt(slice_index=0, box=small), shape).width == 96
    click = Prompt(slice_index=0, points=(Point(x=5, y=400),))
    assert zoom_on(click, shape) == View(x=0, y=154, width=358, height=358, is_zoomed=True)
    assert zoom_on(click, (512, 100)).width == 358
    assert zoom_on(click, (200, 200)).width == 160
    mask = np.zeros(shape, bool)
    mask[100:120, 200:260] = True
    assert zoom_on(Prompt(slice_index=0, mask=MaskPrompt(array=mask)), shape) == view


def test_a_box_and_its_clicks_are_seen_together() -> None:
    box = Box(x_min=200, y_min=200, x_max=239, y_max=239)
    far = Prompt(slice_index=0, box=box, points=(Point(x=319, y=220),))
    assert zoom_on(far, (512, 512)).width == 360


def _mask(x: int, y: int, width: int, height: int, shape: tuple[int, int] = (400, 400)) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[y : y + height, x : x + width] = True
    return mask


def test_the_compact_network_looks_closer_at_boxes_and_masks() -> None:
    shape = (512, 512)
    box = Prompt(slice_index=0, box=Box(x_min=200, y_min=100, x_max=259, y_max=119))
    close = view_of_prompt(box, shape, zooms=True)
    assert close == View(x=155, y=35, width=150, height=150, is_zoomed=True)
    drawn = _mask(200, 100, 60, 20, shape)
    by_mask = view_of_prompt(Prompt(slice_index=0, mask=MaskPrompt(array=drawn)), shape, zooms=True)
    assert by_mask == view_of_mask(drawn, whole_slice(shape), shape) == close
    small = Prompt(slice_index=0, box=Box(x_min=300, y_min=300, x_max=303, y_max=303))
    assert view_of_prompt(small, shape, zooms=True).width == 48
    for prompt in (box, small):
        assert view_of_prompt(prompt, shape, zooms=False) == whole_slice(shape)
    assert view_of_mask(np.zeros(shape, bool), close, shape) == close


def test_the_compact_network_looks_at_clicks_from_near_to_far() -> None:
    click = Prompt(slice_index=0, points=(Point(x=5, y=150),))
    views = views_of_clicks(click, (300, 200))
    assert [view.width for view in views] == [48, 67, 94, 132, 184, 258, 300]
    assert views[0] == View(x=0, y=126, width=48, height=48, is_zoomed=True)
    assert (views[-1].y, views[-1].height) == (0, 300)
    apart = Prompt(slice_index=0, points=(Point(x=20, y=20), Point(x=119, y=20)))
    assert views_of_clicks(apart, (300, 200))[0].width == 125  # all clicks lie in the nearest look
    assert [view.width for view in views_of_clicks(click, (30, 40))] == [40]


CLOSE = View(x=100, y=120, width=100, height=100, is_zoomed=True)  # of a mask 40 pixels wide in its middle


def test_a_view_stays_while_the_object_stays_nearly_where_it_is() -> None:
    for x, y, side in ((130, 150, 40), (139, 141, 40), (130, 150, 34), (126, 146, 48)):
        assert follow(CLOSE, _mask(x, y, side, side), (400, 400)) == CLOSE


def test_a_view_moves_with_the_object_and_keeps_its_side() -> None:
    assert follow(CLOSE, _mask(142, 150, 40, 40), (400, 400)) == View(
        x=112, y=120, width=100, height=100, is_zoomed=True
    )
    assert follow(CLOSE, _mask(130, 20, 40, 40), (400, 400)) == View(
        x=100, y=0, width=100, height=100, is_zoomed=True
    )


def test_a_view_widens_and_narrows_with_the_object_but_not_at_once() -> None:
    assert follow(CLOSE, _mask(120, 140, 60, 60), (400, 400)) == View(
        x=75, y=95, width=150, height=150, is_zoomed=True
    )
    assert follow(CLOSE, _mask(100, 120, 100, 100), (400, 400)).width == 150, "no more than by half at a time"
    assert follow(CLOSE, _mask(149, 169, 2, 2), (400, 400)).width == 67
    assert follow(CLOSE, _mask(136, 156, 28, 28), (400, 400)).width == 70
    assert follow(CLOSE, np.ones((130, 140), bool), (130, 140)).width == 140, "never wider than the slice"


def test_nothing_to_follow_and_nothing_that_follows() -> None:
    assert follow(CLOSE, np.zeros((400, 400), bool), (400, 400)) == CLOSE
    whole = whole_slice((400, 400))
    assert follow(whole, _mask(10, 10, 4, 4), (400, 400)) == whole


def test_growing_keeps_the_middle_and_ends_at_the_slice() -> None:
    view = View(x=100, y=120, width=100, height=100, is_zoomed=True)
    assert grow(view, (400, 400)) == View(x=75, y=95, width=150, height=150, is_zoomed=True)
    while (larger := grow(view, (300, 400))) != view:
        assert larger.width > view.width
        view = larger
    assert view == View(x=0, y=-50, width=400, height=400, is_zoomed=True)


@pytest.mark.parametrize(
    ("pixel", "touches"),
    [
        ((25, 10), True),
        ((25, 41), True),
        ((20, 30), True),
        ((51, 30), True),
        ((30, 30), False),
        ((25, 11), False),
        ((25, 9), False),  # outside the view
        ((52, 30), False),
    ],
)
def test_the_border_of_a_view(pixel: tuple[int, int], touches: bool) -> None:
    mask = np.zeros((100, 100), bool)
    mask[pixel] = True
    assert touches_border(mask, ZOOMED, (100, 100)) is touches


def test_the_edge_of_the_slice_is_no_border() -> None:
    view = View(x=0, y=-10, width=120, height=120, is_zoomed=True)
    mask = np.ones((100, 120), bool)
    assert not touches_border(mask, view, (100, 120))
    assert touches_border(np.ones((100, 121), bool), view, (100, 121))
