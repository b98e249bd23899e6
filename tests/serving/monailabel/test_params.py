"""What viewers' parameters mean: words and numbers in the forms that viewers have for them."""

from __future__ import annotations

import pytest

from medsam2.errors import InputError
from medsam2.prompts.types import Box
from medsam2.serving.monailabel.params import flag, read_params

SHAPE = (12, 56, 64)


def test_without_parameters_there_is_no_prompt() -> None:
    params = read_params({})
    assert not params.has_prompt
    assert params.window is None
    assert params.memory == "recent"
    assert not params.largest_cc
    assert params.label == "object"
    assert not params.save_label
    assert (params.result_extension, params.result_dtype) == (None, "uint8")
    assert params.result_compress
    assert params.result_write_to_file


def test_what_is_empty_is_as_if_it_were_not_there() -> None:
    empty = {"roi": [], "slice": "", "window": "", "memory": "", "result_dtype": "", "label": None}
    assert read_params({**empty, "foreground": None, "result_extension": ""}) == read_params({})


def test_what_means_nothing_to_us_is_passed_over() -> None:
    params = {"client_id": "me", "device": "cuda:0", "pylab": "false", "location": [0, 0], "label_info": 3}
    assert read_params(params) == read_params({})


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
    (prompt,) = read_params({"roi": roi}).prompts(SHAPE)
    assert prompt.slice_index == z
    assert prompt.box == Box.from_xyxy(box)


def test_a_box_of_four_numbers_needs_its_slice() -> None:
    with pytest.raises(InputError, match="names no slice"):
        read_params({"roi": [22, 18, 41, 37]}).prompts(SHAPE)
    (prompt,) = read_params({"roi": [22, 18, 41, 37], "slice": "4"}).prompts(SHAPE)
    assert prompt.slice_index == 4
    (prompt,) = read_params({"roi": [22, 18, 41, 37]}).prompts((1, 56, 64))
    assert prompt.slice_index == 0


def test_clicks_are_gathered_by_slice_and_those_on_the_object_come_first() -> None:
    params = {"foreground": [[3, 4, 9], [5, 6, 2], [7, 8, 9.0]], "background": [[1, 1, 9], [2, 2, 0]]}
    prompts = read_params(params).prompts(SHAPE)
    assert [prompt.slice_index for prompt in prompts] == [2, 9, 0]
    assert [(point.x, point.y, point.is_positive) for point in prompts[1].points] == [
        (3, 4, True),
        (7, 8, True),
        (1, 1, False),
    ]


def test_a_picture_has_one_slice() -> None:
    (prompt,) = read_params({"foreground": [[3, 4]]}).prompts((1, 56, 64))
    assert prompt.slice_index == 0
    with pytest.raises(InputError, match="names no slice"):
        read_params({"foreground": [[3, 4]]}).prompts(SHAPE)


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
    assert read_params({"window": value}).window == window


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        (True, True),
        ("True", True),
        ("1", True),
        (1, True),
        (False, False),
        ("false", False),
        ("", False),
        ("None", False),
    ],
)
def test_yes_and_no_come_in_many_words(word: object, meant: bool) -> None:
    assert read_params({"largest_cc": word}).largest_cc is meant
    assert read_params({"result_compress": word}).result_compress is meant
    if isinstance(word, str):
        assert flag(word, "x") is meant


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
    with pytest.raises(InputError) as refused:
        read_params(params)
    for word in words:
        assert word in str(refused.value)
