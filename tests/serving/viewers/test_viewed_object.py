"""An object of a viewer: the same masks as from Python, undo, given masks, and the next object."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from medsam2.serving.viewers.interactions import click_at, drawing_of, region_between

WINDOW = (0.0, 255.0)
CLICK, BOX = [5, 27, 31], ([5, 18, 22], [6, 38, 42])


def done(steps) -> int:
    return sum(1 for _ in steps)


def box(shape, corners=BOX, *, positive=True):
    return region_between(*corners, shape, is_positive=positive)


def test_a_box_gives_the_mask_of_the_python_api(view, image, predictor) -> None:
    viewed = view()
    steps = done(viewed.add(box(viewed.shape)))
    expected = predictor.segment(image, slice=5, box=(22, 18, 41, 37), window=WINDOW).array
    assert expected.any()
    assert steps > 2
    assert (viewed.mask == (expected != 0)).all()
    inside = np.zeros_like(viewed.mask)
    inside[viewed.changed] = True
    assert (viewed.mask <= inside).all()


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_axis_of_the_box_is_the_one_that_is_followed(view, image, predictor, axis: int) -> None:
    turned = replace(image, array=np.moveaxis(image.array, 0, axis))
    viewed = view(turned)
    corners = tuple(np.insert(np.delete(corner, 0), axis, corner[0]).tolist() for corner in BOX)
    done(viewed.add(box(viewed.shape, corners)))
    session = predictor.session(turned, window=WINDOW, axis=2 - axis)
    session.add(1, slice=5, box=(22, 18, 41, 37))
    session.finish()
    assert (viewed.mask == (session.result().array != 0)).all()


def test_clicks_of_a_slice_join_and_corrections_equal_a_session(view, image, predictor) -> None:
    viewed = view()
    session = predictor.session(image, window=WINDOW)
    for (z, y, x), positive in ((CLICK, True), ([7, 27, 31], True), ([7, 27, 38], False)):
        done(viewed.add(click_at([z, y, x], viewed.shape, is_positive=positive)))
        session.add(1, slice=z, points=[(x, y)], labels=[int(positive)])
        session.finish()
        assert (viewed.mask == (session.result().array != 0)).all()


def test_each_undo_takes_back_one_interaction(view) -> None:
    viewed = view()
    masks = [viewed.mask]
    for interaction in (
        box(viewed.shape),
        None,  # changes nothing, and yet it can be undone
        click_at([7, 27, 38], viewed.shape, is_positive=False),
        box(viewed.shape, ([8, 0, 0], [9, 56, 64]), positive=False),
    ):
        done(viewed.add(interaction))
        masks.append(viewed.mask)
    assert not masks[-1][8:].any()
    for before, after in zip(masks[-2::-1], masks[:0:-1], strict=True):
        assert viewed.undo()
        assert (viewed.mask == before).all()
        assert (viewed.changed is None) == (before == after).all()
    assert not viewed.undo()
    done(viewed.add(box(viewed.shape)))
    assert (viewed.mask == masks[1]).all()


def test_steps_that_are_left_leave_no_trace(view) -> None:
    viewed = view()
    steps = viewed.add(box(viewed.shape))
    next(steps)
    steps.close()
    assert not viewed.mask.any()
    assert not viewed.undo()
    done(viewed.add(box(viewed.shape)))
    kept = viewed.mask
    steps = viewed.add(click_at([7, 27, 38], viewed.shape, is_positive=False))
    next(steps)
    steps.close()
    assert (viewed.mask == kept).all()
    assert viewed.undo()
    assert not viewed.mask.any()


def test_what_waits_is_followed_later(view) -> None:
    at_once, later = view(), view()
    first, second = click_at(CLICK, later.shape, is_positive=True), box(later.shape)
    done(at_once.add(first))
    done(at_once.add(second))
    assert done(later.add(first, predicts=False)) == 0
    assert done(later.add(second, predicts=False)) == 0
    assert later.is_queued
    assert not later.mask.any()
    done(later.predict())
    assert not later.is_queued
    assert (later.mask == at_once.mask).all()
    assert done(later.predict()) == 0
    assert later.changed is None


def test_a_place_outside_is_remembered_until_the_object_is_shown(view, image, predictor) -> None:
    viewed = view()
    done(viewed.add(click_at([5, 20, 50], viewed.shape, is_positive=False)))
    assert not viewed.mask.any()
    done(viewed.add(click_at(CLICK, viewed.shape, is_positive=True)))
    session = predictor.session(image, window=WINDOW)
    session.add(1, slice=5, points=[(31, 27), (50, 20)], labels=[1, 0])
    session.finish()
    assert (viewed.mask == (session.result().array != 0)).all()


def test_a_given_mask_costs_nothing_and_is_corrected_around_the_prompt(view, image) -> None:
    tall = replace(image, array=np.repeat(image.array, 4, axis=0))
    ground = np.zeros(tall.shape, bool)
    ground[8:40, 18:37, 22:41] = True
    ground[24, 18:37, 32:] = False  # half of one slice is missing
    viewed = view(tall)
    viewed.give(ground)
    assert (viewed.mask == ground).all()
    assert not viewed.undo()  # the ground that its user stands on
    steps = done(viewed.add(click_at([24, 27, 36], viewed.shape, is_positive=True)))
    assert 0 < steps < 24
    assert viewed.mask[24, 27, 36]
    changed = np.flatnonzero((viewed.mask ^ ground).any(axis=(1, 2)))
    assert set(changed.tolist()) <= set(range(20, 29))
    assert viewed.undo()
    assert (viewed.mask == ground).all()


def test_a_mask_given_later_can_be_undone(view) -> None:
    viewed = view()
    done(viewed.add(box(viewed.shape)))
    found = viewed.mask
    viewed.give(np.roll(found, 3, axis=2))
    done(viewed.add(click_at([5, 27, 44], viewed.shape, is_positive=True)))
    assert viewed.undo()
    assert viewed.undo()
    assert (viewed.mask == found).all()
    done(viewed.add(click_at([7, 27, 38], viewed.shape, is_positive=False)))
    assert viewed.undo()
    assert viewed.undo()
    assert not viewed.mask.any()


def test_the_next_object_knows_nothing_of_the_last(view) -> None:
    viewed, fresh = view(), view()
    done(viewed.add(box(viewed.shape, ([2, 20, 5], [7, 21, 60]))))
    viewed.reset()
    assert not viewed.mask.any()
    assert not viewed.undo()
    for one in (viewed, fresh):
        done(one.add(box(one.shape)))
    assert (viewed.mask == fresh.mask).all()


def test_a_box_in_three_dimensions_ends_where_it_ends(view) -> None:
    viewed = view()
    steps = list(viewed.add(box(viewed.shape, ([4, 18, 22], [7, 38, 42]))))
    assert set(steps) == {4, 5, 6}, "no slice beyond the box is computed"
    assert viewed.mask[5].any()
    assert not viewed.mask[:4].any()
    assert not viewed.mask[7:].any()
    assert 7 in set(viewed.add(click_at([7, 27, 31], viewed.shape, is_positive=True)))
    assert not viewed.mask[8:].any()


def test_a_stroke_and_an_outline_find_the_ball(view, image) -> None:
    z, y, x = np.mgrid[:12, :56, :64]
    ball = ((x - 31.5) / 10) ** 2 + ((y - 27.5) / 10) ** 2 + ((z - 5.5) / 4) ** 2 < 1
    stroke = np.zeros(image.shape, np.uint8)
    stroke[5, 27, 24:40] = 1
    outline = np.where(np.arange(12)[:, None, None] == 5, ball, 0)
    for array, is_outline in ((stroke, False), (outline, True)):
        viewed = view()
        done(viewed.add(drawing_of(array, None, viewed.shape, is_outline=is_outline, is_positive=True)))
        overlap = 2 * (viewed.mask & ball).sum() / (viewed.mask.sum() + ball.sum())
        assert overlap > 0.8
        assert viewed.num_bytes > 0


def test_an_emptied_slice_ends_a_given_mask_along_its_own_axis(view) -> None:
    viewed = view()
    ground = np.zeros(viewed.shape, bool)
    ground[3:9, 20:30, 20:50] = True
    viewed.give(ground)
    whole = region_between([0, 0, 40], [12, 56, 41], viewed.shape, is_positive=False)  # a sagittal slice
    done(viewed.add(whole))
    assert (viewed.mask == ground & (np.arange(64) < 40)).all()
    assert viewed.undo()
    assert (viewed.mask == ground).all()
