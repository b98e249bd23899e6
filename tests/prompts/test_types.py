"""Every refusal of a prompt, in its own words: what is wrong, what was given, what is accepted."""

from __future__ import annotations

import math

import numpy as np
import pytest

from medsam2.errors import InputError, PromptError
from medsam2.prompts.types import Box, MaskPrompt, Point, Prompt, check_slice, prompt_from

SHAPE = (5, 20, 30)  # slices, rows, columns
BOX = Box(x_min=2, y_min=3, x_max=9, y_max=8)


@pytest.mark.parametrize("slice_index", [-1, 5, 99])
def test_slices_outside_the_stack(slice_index: int) -> None:
    with pytest.raises(PromptError) as refused:
        check_slice(slice_index, 5)
    assert str(refused.value) == f"slice {slice_index} is outside the stack: it has slices 0 to 4"
    with pytest.raises(PromptError, match="outside the stack"):
        Prompt(slice_index=slice_index, box=BOX).checked(SHAPE)


@pytest.mark.parametrize(
    ("prompt", "sentence"),
    [
        ({}, "a prompt needs a box, a point or a mask"),
        (
            {"mask": np.ones((20, 30)), "box": (2, 3, 9, 8)},
            "a mask replaces box and points: give it alone",
        ),
        (
            {"mask": np.ones((20, 30)), "points": [(2, 3)]},
            "a mask replaces box and points: give it alone",
        ),
        (
            {"box": (9, 3, 2, 8)},
            "box (9, 3, 2, 8) is reversed: give x_min y_min x_max y_max, smaller ends first",
        ),
        (
            {"box": (2, 8.5, 9, 3)},
            "box (2, 8.5, 9, 3) is reversed: give x_min y_min x_max y_max, smaller ends first",
        ),
        ({"box": (2, 3, 2, 8)}, "box (2, 3, 2, 8) has no area: its ends must differ in x and in y"),
        ({"box": (2, 3, 9, 3)}, "box (2, 3, 9, 3) has no area: its ends must differ in x and in y"),
        *(
            (
                {"box": box},
                f"box ({', '.join(f'{v:g}' for v in box)}) is outside the slice: "
                "x must lie in 0 to 29 and y in 0 to 19",
            )
            for box in ((-1, 3, 9, 8), (2, -0.5, 9, 8), (2, 3, 29.5, 8), (2, 3, 9, 20))
        ),
        *(
            (
                {"points": [(4, 4), point]},
                f"point ({point[0]:g}, {point[1]:g}) is outside the slice: "
                "x must lie in 0 to 29 and y in 0 to 19",
            )
            for point in ((30, 4), (-1, 4), (4, 19.5), (4, -2), (math.nan, 4), (4, math.inf))
        ),
        (
            {"mask": np.ones((30, 20))},
            "the mask prompt has shape (30, 20), the slice (y, x) = (20, 30)",
        ),
        ({"mask": np.zeros((20, 30))}, "the mask prompt is empty: at least one pixel must be inside"),
        ({"points": [(1, 2)], "labels": [1, 0]}, "every point needs one label: there are 1 and 2"),
        ({"labels": [1]}, "every point needs one label: there are 0 and 1"),
        ({"points": [(1, 2, 3)]}, "points are pairs of numbers (x, y), not ((1, 2, 3))"),
        ({"points": [(1, 2)], "labels": [2]}, "a label is 1 (inside) or 0 (outside), not (2)"),
        (
            {"box": (1, 2, 3)},
            "a box is four finite numbers x_min, y_min, x_max, y_max, not (1, 2, 3)",
        ),
        (
            {"box": (1, 2, math.nan, 4)},
            "a box is four finite numbers x_min, y_min, x_max, y_max, not (1, 2, nan, 4)",
        ),
        (
            {"box": (1, 2, math.inf, 4)},
            "a box is four finite numbers x_min, y_min, x_max, y_max, not (1, 2, inf, 4)",
        ),
    ],
)
def test_refusals(prompt: dict[str, object], sentence: str) -> None:
    with pytest.raises(PromptError) as refused:
        prompt_from(2, **prompt).checked(SHAPE)
    assert str(refused.value) == sentence
    assert isinstance(refused.value, InputError)


@pytest.mark.parametrize(
    "prompt",
    [
        {"box": (0, 0, 29, 19)},
        {"points": [(0, 0), (29, 19)], "labels": [1, 0]},
        {"box": (2, 3, 9, 8), "points": [(4, 4)]},
        {"mask": np.eye(20, 30)},
    ],
)
def test_prompts_up_to_the_edge_are_taken(prompt: dict[str, object]) -> None:
    made = prompt_from(4, **prompt)
    assert made.checked(SHAPE) is made


def test_plain_numbers_become_values() -> None:
    prompt = prompt_from(1, box=[2, 3, 9, 8], points=[[4, 5.5], [6, 7]], labels=[1, 0])
    assert prompt == Prompt(
        slice_index=1, box=BOX, points=(Point(x=4, y=5.5), Point(x=6, y=7, is_positive=False))
    )
    assert prompt_from(0, points=[(1, 2)]).points[0].is_positive
    mask = prompt_from(0, mask=[[0, 3], [-1, 0]]).mask
    assert isinstance(mask, MaskPrompt)
    assert mask.array.tolist() == [[False, True], [True, False]]


def test_a_box_includes_both_ends() -> None:
    assert BOX.xyxy == (2, 3, 9, 8)
    assert BOX.center_xy == (5.5, 5.5)
    assert BOX.longest_side == 8
