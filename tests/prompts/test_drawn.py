"""Prompts out of drawings: the largest slice of each label, its box, a line on it."""

from __future__ import annotations

import numpy as np
import pytest

from medsam2.errors import PromptError
from medsam2.prompts.statements import drawn_prompts, largest_slices


@pytest.fixture
def labels() -> np.ndarray:
    """Label 2 is largest on slice 4, label 7 on slices 1 to 3 alike."""
    stack = np.zeros((6, 20, 30), dtype=np.uint8)
    stack[2, 3:8, 4:9] = 2
    stack[4, 3:10, 4:12] = 2
    stack[1:4, 12:16, 20:26] = 7
    return stack


def test_the_largest_slice_is_taken_and_of_equals_the_middle_one(labels: np.ndarray) -> None:
    assert largest_slices(labels) == {2: 4, 7: 2}
    assert largest_slices(labels.astype(np.float32)) == {2: 4, 7: 2}


def test_a_label_gives_its_outline_or_its_box(labels: np.ndarray) -> None:
    outlines, boxes = drawn_prompts(labels), drawn_prompts(labels, drawn_as="box")
    assert [(n, p.slice_index) for n, p in outlines.items()] == [(2, 4), (7, 2)]
    assert outlines[2].mask is not None
    np.testing.assert_array_equal(outlines[2].mask.array, labels[4] == 2)
    assert boxes[2].box is not None
    assert boxes[2].box.xyxy == (4, 3, 11, 9)
    assert boxes[7].box is not None
    assert boxes[7].box.xyxy == (20, 12, 25, 15)


def test_lines_on_a_slice_each() -> None:
    lines = np.zeros((5, 20, 30), dtype=np.int16)
    lines[1, 5, 4:15] = 1
    lines[3, 2:13, 20] = 4
    prompts = drawn_prompts(lines, drawn_as="recist", pixel_mm=(0.5, 1.0))
    assert [(n, p.slice_index) for n, p in prompts.items()] == [(1, 1), (4, 3)]
    first, second = prompts[1].box, prompts[4].box
    assert first is not None
    assert second is not None
    # Ten pixels of 0.5 mm along x: 3.75 mm across, along y.
    assert first.xyxy == pytest.approx((4, 5 - 1.875, 14, 5 + 1.875))
    assert second.xyxy == pytest.approx((20 - 7.5, 2, 20 + 7.5, 12))


@pytest.mark.parametrize(
    ("change", "drawn_as", "sentence"),
    [
        (lambda a: a.fill(0), "mask", "the mask is empty"),
        (lambda a: a.__setitem__((0, 0, 0), 300), "mask", "value 300; labels are 1 to 255"),
        (lambda a: a.__setitem__((0, 0, 0), -1), "mask", "value -1; labels"),
        (lambda a: a.__setitem__((0, 0, 0), 0.5), "mask", "value 0.5; labels"),
        (
            lambda a: a.__setitem__((0, 0, slice(0, 3)), 9),
            "box",
            "label 9 is a single row of pixels",
        ),
        (lambda a: None, "recist", "label 2 is drawn on slices 2 to 4: a RECIST line lies on one slice"),
        (lambda a: None, "outline", "mask, box, recist, not as 'outline'"),
    ],
)
def test_what_is_no_drawing(labels: np.ndarray, change, drawn_as: str, sentence: str) -> None:
    stack = labels.astype(np.float32)
    change(stack)
    with pytest.raises(PromptError, match=sentence):
        drawn_prompts(stack, drawn_as=drawn_as)
