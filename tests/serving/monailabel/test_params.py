"""What viewers' parameters mean: words and numbers in the forms that viewers have for them."""

from __future__ import annotations

import pytest

from medsam2.prompts.types import Box
from medsam2.serving.http_errors import Fault
from medsam2.serving.monailabel.requests import flag, read_asked

SHAPE = (12, 56, 64)


def test_nothing_asked_is_nothing_said() -> None:
    asked = read_asked({})
    assert not asked.says_something
    assert asked.window is None
    assert asked.memory == "recent"
    assert asked.keeps_component is None
    assert asked.label == "object"
    assert asked.saved_tag is None
    assert (asked.result.suffix, asked.result.dtype) == (None, "uint8")
    assert asked.result.is_compressed
    assert asked.result.is_wanted


def test_what_means_nothing_to_us_is_passed_over() -> None:
    params = {"client_id": "me", "device": "cuda:0", "pylab": "false", "location": [0, 0], "label_info": 3}
    assert read_asked(params) == read_asked({})


@pytest.mark.parametrize(
    ("roi", "box", "z"),
    [
        ([22, 41, 18, 37, 5, 5], (22, 18, 41, 37), 5),
        ([41, 22, 37, 18, 7, 3], (22, 18, 41, 37), 5),
        ([22, 41, 18, 37, 2, 5], (22, 18, 41, 37), 3),
        ([-4, 90, -1, 80, -9, 90], (0, 0, 63, 55), 5),
        ([22, 41, 18, 37, 11, 90], (22, 18, 41, 37), 11),
    ],
)
def test_a_region_is_a_box_on_its_middle_slice(roi: list[float], box: tuple[float, ...], z: int) -> None:
    (prompt,) = read_asked({"roi": roi}).prompts(SHAPE)
    assert prompt.slice_index == z
    assert prompt.box == Box.from_xyxy(box)


def test_a_box_of_four_numbers_needs_its_slice() -> None:
    with pytest.raises(Fault, match="names no slice"):
        read_asked({"roi": [22, 18, 41, 37]}).prompts(SHAPE)
    (prompt,) = read_asked({"roi": [22, 18, 41, 37], "slice": "4"}).prompts(SHAPE)
    assert prompt.slice_index == 4
    (prompt,) = read_asked({"roi": [22, 18, 41, 37]}).prompts((1, 56, 64))
    assert prompt.slice_index == 0


def test_clicks_are_gathered_by_slice_and_those_on_the_object_come_first() -> None:
    params = {"foreground": [[3, 4, 9], [5, 6, 2], [7, 8, 9.0]], "background": [[1, 1, 9], [2, 2, 0]]}
    said = read_asked(params).prompts(SHAPE)
    assert [prompt.slice_index for prompt in said] == [2, 9, 0]
    assert [(point.x, point.y, point.is_positive) for point in said[1].points] == [
        (3, 4, True),
        (7, 8, True),
        (1, 1, False),
    ]


def test_a_picture_has_one_slice() -> None:
    (prompt,) = read_asked({"foreground": [[3, 4]]}).prompts((1, 56, 64))
    assert prompt.slice_index == 0
    with pytest.raises(Fault, match="names no slice"):
        read_asked({"foreground": [[3, 4]]}).prompts(SHAPE)


@pytest.mark.parametrize(
    ("value", "window"),
    [
        (None, None),
        ("", None),
        ("auto", None),
        ("lung", "lung"),
        ([-160, 240], (-160, 240)),
        ("-160, 240", (-160, 240)),
        ("-160 240", (-160, 240)),
    ],
)
def test_a_window_comes_in_many_forms(value: object, window: object) -> None:
    assert read_asked({"window": value}).window == window


@pytest.mark.parametrize(
    ("word", "meant"),
    [(True, True), ("True", True), ("1", True), (1, True), (False, False), ("false", False), ("", False)],
)
def test_yes_and_no_come_in_many_words(word: object, meant: bool) -> None:
    assert flag(word, "x", default=not meant) is meant


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"foreground": "here"}, ("foreground", "'here'", "[i, j, k]")),
        ({"foreground": [[1, 2, 3, 4]]}, ("foreground", "[1, 2, 3, 4]")),
        ({"foreground": [[1, 2, 2.5]]}, ("foreground", "2.5", "whole number")),
        ({"foreground": [[1, 2, True]]}, ("foreground", "True")),
        ({"background": [[1, None, 2]]}, ("background", "None")),
        ({"foreground": [[1, 2, 3]] * 1001}, ("1001", "1000")),
        ({"roi": "all"}, ("roi", "'all'", "six numbers")),
        ({"roi": [1, 2, 3, 4, 5]}, ("roi", "six numbers")),
        ({"slice": "first"}, ("slice", "'first'")),
        ({"slice": float("inf")}, ("slice", "inf")),
        ({"window": [1, 2, 3]}, ("window", "[1, 2, 3]")),
        ({"window": [5, 5]}, ("window", "lower < upper")),
        ({"window": 7}, ("window", "7")),
        ({"memory": "none"}, ("memory", "'none'", "recent")),
        ({"largest_cc": "perhaps"}, ("largest_cc", "'perhaps'")),
        ({"result_dtype": "complex"}, ("result_dtype", "uint8")),
        ({"result_extension": "nrrd"}, ("result_extension", ".nrrd")),
        ({"save_label": True, "label_tag": "../x"}, ("tag", "'../x'")),
    ],
)
def test_a_value_that_cannot_be_is_named(params: dict[str, object], words: tuple[str, ...]) -> None:
    with pytest.raises(Fault) as refused:
        read_asked(params)
    assert refused.value.status == 422
    for word in words:
        assert word in str(refused.value)
