"""The clock against answers computed by hand."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from medsam2.annotation.journal import Event, Part, by_case, tally

Acts = Sequence[tuple[float, str, int]]  # second, kind, object


def events(acts: Acts, *, case: int = 1, user: str = "anna", baseline: bool = False) -> list[Event]:
    return [
        Event(case=case, user=user, kind=kind, at_ms=round(second * 1000), object=number, baseline=baseline)
        for second, kind, number in acts
    ]


def seconds(found: Sequence[Event]) -> dict[int, float]:
    """Object -> active seconds."""
    return {part.object: one.active_s for part, one in tally(found).items()}


@pytest.mark.parametrize(("gap", "counted"), [(0, 0), (3.5, 3.5), (30, 30), (30.001, 5), (86_400, 5)])
def test_a_long_gap_counts_five_seconds(gap: float, counted: float) -> None:
    assert seconds(events([(0, "box", 1), (gap, "click", 1)])) == {1: counted}


def test_one_event_takes_no_time() -> None:
    assert seconds(events([(7, "box", 1)])) == {1: 0}
    assert tally([]) == {}


def test_gaps_belong_to_the_object_that_the_next_act_is_about() -> None:
    acts = [(0, "box", 1), (4, "click", 1), (10, "box", 2), (50, "brush", 2), (52, "click", 1)]
    # 1: 4 (to the click) + 2 (from the brush to its click); 2: 6 (to its box) + 5 (40 s of idling)
    assert seconds(events(acts)) == {1: 6, 2: 11}


def test_time_of_looking_belongs_to_the_next_changed_object() -> None:
    acts = [
        (0, "open", 0),
        (2, "scroll", 0),
        (5, "scroll", 0),
        (9, "box", 3),
        (11, "scroll", 0),
        (14, "save", 0),
    ]
    # 3: 2 + 3 + 4; after it nothing is touched: 2 + 3
    assert seconds(events(acts)) == {3: 9, 0: 5}


def test_time_between_two_cases_does_not_count() -> None:
    first = events([(0, "box", 1), (10, "save", 1)], case=1)
    second = events([(25, "open", 1), (30, "box", 1)], case=2)
    back = events([(40, "click", 1), (43, "save", 1)], case=1)
    found = by_case(tally([*first, *second, *back]))
    assert {case: one.active_s for case, one in found.items()} == {1: 13, 2: 5}


def test_users_have_clocks_of_their_own() -> None:
    acts: Acts = [(0, "box", 1), (20, "save", 1)]
    found = tally([*events(acts), *events(acts, user="bob")])
    assert [one.active_s for one in found.values()] == [20, 20]
    assert by_case(found)[1].active_s == 40


def test_the_mode_without_the_model_is_counted_apart() -> None:
    drawn = events([(0, "brush", 1), (12, "brush", 1)], baseline=True)
    helped = events([(15, "box", 1), (18, "save", 1)])
    found = tally([*drawn, *helped])
    assert found[Part(1, "anna", True, 1, 1)].active_s == 12
    assert found[Part(1, "anna", False, 1, 1)].active_s == 3


def test_acts_and_voxels_are_counted_by_kind() -> None:
    acts = [("box", 900), ("brush", 40), ("brush", 2), ("erase", 7), ("undo", 0), ("scroll", 0), ("save", 0)]
    found = tally(
        [
            Event(case=1, user="anna", kind=kind, at_ms=1000 * second, object=1, voxels=voxels)
            for second, (kind, voxels) in enumerate(acts)
        ]
    )
    (one,) = found.values()
    assert one.acts == {"box": 1, "brush": 2, "erase": 1, "undo": 1, "scroll": 1, "save": 1}
    assert one.hand_voxels == 49  # the box's are the model's
    assert one.num_interactions == 5


def test_the_order_of_arrival_does_not_matter() -> None:
    made = [
        *events([(second, "click", second % 3) for second in range(0, 90, 7)]),
        *events([(second + 200, "brush", 1) for second in range(0, 60, 5)], case=2, user="bob"),
    ]
    shuffled = list(made)
    random.Random(0).shuffle(shuffled)
    assert tally(shuffled) == tally(made)
