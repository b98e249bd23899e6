"""What a session tells of itself: what was said, what can be undone, whether it is up to date."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from medsam2.errors import SessionError
from medsam2.imaging.geometry import Cut
from medsam2.imaging.volume import Volume
from medsam2.inference.predictor import Predictor
from medsam2.inference.runtime import InferenceOptions, Runtime
from medsam2.inference.zoom import prompt_in_file, shown_prompt
from medsam2.prompts.types import prompt_from

BOX = (18.0, 12.0, 37.0, 25.0)
SHAPE = (9, 40, 56)


@pytest.mark.parametrize("plane", [None, "axial", "coronal", "sagittal"])
def test_prompts_are_told_as_they_were_given(runtime: Runtime, scan: Volume, plane: str | None) -> None:
    session = Predictor(runtime).session(scan, plane=plane)
    _, height, width = session.shape
    box = (1.0, 2.0, width - 3.0, height - 2.0)
    session.add(1, slice=4, box=box)
    session.add(1, slice=4, points=[(5.0, 3.0), (6.0, 4.0)], labels=[1, 0])
    mask = np.zeros((height, width), bool)
    mask[1:5, 2:9] = True
    session.add(1, slice=2, mask=mask)
    prompts = session.prompts(1)
    assert sorted(prompts) == [2, 4]
    drawn = prompts[4].box
    assert drawn is not None
    assert drawn.xyxy == box
    assert [(p.x, p.y, p.is_positive) for p in prompts[4].points] == [(5.0, 3.0, True), (6.0, 4.0, False)]
    assert prompts[2].mask is not None
    assert np.array_equal(prompts[2].mask.array, mask)
    with pytest.raises(SessionError, match="no object 2"):
        session.prompts(2)


@pytest.mark.parametrize("swaps_xy", [False, True])
@pytest.mark.parametrize("reverses", list(product((False, True), repeat=3)))
def test_a_prompt_that_is_shown_and_filed_is_the_prompt(
    swaps_xy: bool, reverses: tuple[bool, bool, bool]
) -> None:
    cut = Cut(axis=2, swaps_xy=swaps_xy, reverses=reverses)
    prompt = prompt_from(3, box=BOX, points=[(0.0, 39.0), (7.0, 9.0)], labels=[0, 1])
    assert prompt_in_file(shown_prompt(prompt, cut, SHAPE), cut, SHAPE) == prompt


def test_it_says_whether_it_is_up_to_date(runtime: Runtime, scan: Volume) -> None:
    session = Predictor(runtime).session(scan)
    assert [session.can_undo, session.can_redo, session.is_propagated] == [False] * 3
    session.add(1, slice=4, box=BOX)
    assert session.can_undo
    assert not session.is_propagated
    steps = session.propagate()
    next(steps)
    assert not session.is_propagated
    list(steps)
    assert session.is_propagated
    session.add(1, slice=6, points=[(20, 20)], labels=[0])
    assert not session.is_propagated
    session.undo()
    assert session.is_propagated, "all slices are back"
    assert session.can_redo
    session.redo()
    assert not session.is_propagated


def test_a_change_within_a_propagation_leaves_it_unfinished(runtime: Runtime, scan: Volume) -> None:
    session = Predictor(runtime).session(scan)
    session.add(1, slice=4, box=BOX)
    for z, _ in session.propagate():
        if z == 5:
            session.add(2, slice=3, box=BOX)
    assert not session.is_propagated


def test_it_says_whether_the_number_of_slices_is_known(runtime: Runtime, scan: Volume) -> None:
    session = Predictor(runtime).session(scan)
    assert not session.stops_early
    session.add(1, slice=4, box=BOX)
    assert session.stops_early
    session.add(1, slice=6, points=[(20, 20)])
    assert not session.stops_early
    chosen = Predictor(runtime).session(scan, options=InferenceOptions(stop_after=3))
    chosen.add(1, slice=4, points=[(20, 20)])
    assert chosen.stops_early
