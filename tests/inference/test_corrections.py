"""What a click changes, in its slice and in the slices around it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medsam2.imaging.volume import Volume
from medsam2.inference.carried_track import keep_reaching, merge_clicks
from medsam2.inference.predictor import Predictor
from medsam2.inference.runtime import InferenceOptions, start_runtime
from medsam2.inference.session import Session
from medsam2.inference.zoom import grow_to, square_view
from medsam2.model.compact.network import CompactNetwork
from medsam2.prompts.types import Point, Prompt

BOX = (18, 12, 37, 25)
NUM_SLICES = 24


def _logits(*rectangles: tuple[int, int, int, int]) -> torch.Tensor:
    """Mask logits of 16 x 16 cells, 5 in rectangles (top, bottom, left, right) and -5 elsewhere."""
    logits = torch.full((1, 1, 16, 16), -5.0)
    for top, bottom, left, right in rectangles:
        logits[..., top:bottom, left:right] = 5.0
    return logits


def test_a_click_inside_takes_the_addition_it_lies_in_and_no_other_change() -> None:
    before = _logits((4, 8, 4, 8))
    after = _logits((4, 8, 4, 6), (4, 8, 8, 11), (12, 15, 12, 15))  # less, more beside, more elsewhere
    merged = merge_clicks(before, after, [(4 * 9 + 2.0, 4 * 5 + 1.0, True)], stride=4)
    assert torch.equal(merged > 0, _logits((4, 8, 4, 11)) > 0)
    assert torch.equal(merged[..., 4:8, 8:11], after[..., 4:8, 8:11])


def test_a_click_outside_takes_the_removal_it_lies_in_and_no_other_change() -> None:
    before = _logits((4, 8, 4, 8), (10, 12, 10, 12))
    after = _logits((4, 8, 4, 6), (0, 2, 0, 2))
    merged = merge_clicks(before, after, [(4 * 7.0, 4 * 5.0, False)], stride=4)
    assert torch.equal(merged > 0, _logits((4, 8, 4, 6), (10, 12, 10, 12)) > 0)


def test_a_click_that_the_network_ignores_still_holds_where_it_is() -> None:
    before = _logits((4, 8, 4, 8))
    merged = merge_clicks(before, before, [(12.5, 2.0, True), (5.0, 5.0, False)], stride=1)
    expected = _logits((4, 8, 4, 8), (2, 3, 12, 14)) > 0  # between two cells: both
    expected[..., 5, 5] = False
    assert torch.equal(merged > 0, expected)
    assert torch.equal(before, _logits((4, 8, 4, 8))), "what was corrected stays as it was"


@pytest.mark.parametrize("zoom", [False, True])
@pytest.mark.parametrize("shape_yx", [(40, 56), (24, 30), (150, 150), (400, 300)])
def test_a_click_holds_in_the_slice_whatever_the_network_answers(
    compact_network: CompactNetwork, shape_yx: tuple[int, int], zoom: bool
) -> None:
    grey = np.random.default_rng(2).integers(0, 200, (2, *shape_yx)).astype(np.int16)
    options = InferenceOptions(zoom=zoom, keep_component=False)
    session = Predictor(start_runtime(compact_network, device="cpu", precision="float32")).session(
        Volume.from_array(grey), options=options
    )
    height, width = shape_yx
    session.add(1, slice=0, box=(width // 4, height // 4, 3 * width // 4, 3 * height // 4))
    for x, y in ((0, 0), (width - 1, height - 1), (width // 2, height // 2), (width // 3, height // 2 + 3)):
        for is_inside in (True, False, True):
            mask = session.add(1, slice=0, points=[(x, y)], labels=[int(is_inside)])
            assert mask[y, x] == is_inside, (x, y)


def test_a_click_beyond_the_edge_counts_at_the_edge() -> None:
    merged = merge_clicks(_logits(), _logits((14, 16, 14, 16)), [(64.0, 200.0, True)], stride=4)
    assert torch.equal(merged > 0, _logits((14, 16, 14, 16)) > 0)


def test_parts_that_do_not_touch_the_mask_before_are_dropped() -> None:
    logits = _logits((4, 8, 4, 8), (8, 10, 8, 10), (12, 14, 1, 3), (0, 2, 10, 16))
    before = _logits((7, 9, 0, 5))[:, 0] > 0  # touches the first part; the second hangs on at a corner
    kept = keep_reaching(logits, before)
    assert torch.equal(kept > 0, _logits((4, 8, 4, 8), (8, 10, 8, 10)) > 0)
    assert (kept[..., 12:14, 1:3] == -10).all()
    inside = kept > 0
    assert torch.equal(kept[inside], logits[inside])
    assert torch.equal(keep_reaching(logits, torch.zeros_like(before)), logits), "it may come back anywhere"
    nothing = _logits()
    assert torch.equal(keep_reaching(nothing, before), nothing)
    assert not (keep_reaching(logits, _logits((15, 16, 15, 16))[:, 0] > 0) > 0).any()


def test_a_view_grows_until_it_covers_a_click() -> None:
    view = square_view((50.0, 50.0), 40, (200, 200))
    assert grow_to(view, Prompt(slice_index=0, points=(Point(x=60, y=60),)), (200, 200)) == view
    wider = grow_to(view, Prompt(slice_index=0, points=(Point(x=120, y=50),)), (200, 200))
    assert wider.x <= 120 < wider.x + wider.width
    assert wider.width < 200
    everything = grow_to(view, Prompt(slice_index=0, points=(Point(x=199, y=0),)), (200, 200))
    assert everything.width == 200


@pytest.fixture
def session(compact_network: CompactNetwork) -> Session:
    """Of a compact network, told to follow everything everywhere."""
    rng = np.random.default_rng(1)
    grey = rng.integers(0, 60, (NUM_SLICES, 40, 56)).astype(np.int16)
    grey[:, 12:26, 18:38] += 150
    scan = Volume.from_array(grey, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), modality="MR")
    options = InferenceOptions(zoom=False, keep_component=False, stop_after=0)
    return Predictor(start_runtime(compact_network, device="cpu", precision="float32")).session(
        scan, options=options
    )


def _visited(session: Session) -> list[int]:
    return [z for z, _ in session.propagate()]


def test_between_two_prompts_the_ways_meet_in_the_middle(session: Session) -> None:
    session.add(1, slice=4, box=BOX)
    session.add(1, slice=17, box=BOX)
    upwards = [*range(4, 11), *range(17, NUM_SLICES)]
    downwards = [*range(16, 10, -1), *range(3, -1, -1)]
    assert _visited(session) == [*upwards, *downwards]
    assert sorted(session.scores(1)) == list(range(NUM_SLICES))


def test_a_correction_redoes_what_lies_nearest_to_it(session: Session) -> None:
    session.add(1, slice=4, box=BOX)
    _visited(session)
    first = {z: session.frame(1, z) for z in range(NUM_SLICES)}
    click = np.argwhere(session.mask(1)[12])[40]
    session.add(1, slice=12, points=[click[::-1]], labels=[0])
    assert sorted(session.scores(1)) == [*range(9), 12]
    _visited(session)
    again = {z: session.frame(1, z) for z in range(NUM_SLICES)}
    assert [z for z in first if first[z] is again[z]] == list(range(9))
    changed = [not torch.equal(first[z].low_res_logits, again[z].low_res_logits) for z in first]
    assert changed == [False] * 9 + [True] * (NUM_SLICES - 9)
    session.remove(1, slice=12)
    _visited(session)
    for z, frame in first.items():
        assert torch.equal(session.frame(1, z).low_res_logits, frame.low_res_logits), z
        assert torch.equal(session.frame(1, z).pointer, frame.pointer), z


def test_a_click_where_the_object_was_not_followed_to_starts_from_its_nearest_slice(session: Session) -> None:
    session.add(1, slice=4, box=BOX)
    key = session.frame(1, 4)
    mask = session.add(1, slice=9, points=[(30, 20)])
    assert mask[20, 30]
    assert session.frame(1, 4) is key
    alone = session.add(2, slice=9, points=[(30, 20)])
    assert not np.array_equal(mask, alone), "the object's mask in slice 4 was taken into account"


def test_a_box_that_is_drawn_again_begins_anew_whatever_clicks_come_with_it(session: Session) -> None:
    session.add(1, slice=4, box=BOX)
    _visited(session)
    prompt = {"slice": 9, "box": BOX, "points": [(20, 20), (30, 20)], "labels": [0, 1]}
    session.add(2, **prompt)
    session.add(1, slice=9, points=[(20, 20)], labels=[0])
    assert not torch.equal(session.frame(1, 9).low_res_logits, session.frame(2, 9).low_res_logits)
    session.add(1, **prompt)
    assert torch.equal(session.frame(1, 9).low_res_logits, session.frame(2, 9).low_res_logits)
