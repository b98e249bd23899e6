"""Prompt files as users write them, and one sentence for each thing that is wrong in them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medsam2.errors import InputError, PromptError, UnsupportedFormat
from medsam2.prompts.files import MAX_BYTES, read_prompts
from medsam2.prompts.statements import MaskFile, Prompts
from medsam2.prompts.types import Box, Point

BOX = Box(x_min=10, y_min=20, x_max=30, y_max=40)
CORNERS = [10, 20, 30, 40]


def said(folder: Path, content: object, suffix: str = ".json") -> Prompts:
    path = folder / f"prompts{suffix}"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return read_prompts(path, image=Path("scan.nii.gz"), num_slices=20)


def refusal(folder: Path, content: object, suffix: str = ".json") -> str:
    with pytest.raises(InputError) as refused:
        said(folder, content, suffix)
    assert "\n" not in str(refused.value)
    return str(refused.value).replace(f"{folder}/", "")


def test_objects_with_names_and_several_prompts(tmp_path: Path) -> None:
    prompts = said(
        tmp_path,
        {
            "slice_offset": 100,
            "window": [-160, 240],
            "objects": [
                {"object": 3, "name": "liver", "slice": 105, "box": CORNERS},
                {
                    "name": "spleen",
                    "prompts": [
                        {"slice": 107, "points": [[1, 2, 1], [3, 4, 0]]},
                        {"slice": 8, "slice_offset": 0, "points": [[5, 6]], "labels": [0]},
                        {"slice": 109, "mask": "drawn.nii.gz", "mask_label": 2},
                        {"mask": "rough.nii.gz"},
                    ],
                },
                {"object": 3, "slice": 106, "points": [{"x": 1, "y": 2}, {"x": 3, "y": 4, "label": 0}]},
                {"slice": 104, "recist": [1, 2, 30, 40], "recist_points": 2},
            ],
        },
    )
    liver, spleen, lesion = prompts.objects
    assert [(item.number, item.name) for item in prompts.objects] == [(3, "liver"), (1, "spleen"), (2, None)]
    assert prompts.windows == ((-160, 240),)
    assert not prompts.is_shown
    assert [part.slice_index for part in liver.statements] == [5, 6]
    assert liver.statements[0].box == BOX
    assert liver.statements[1].points == (Point(x=1, y=2), Point(x=3, y=4, is_positive=False))
    assert [part.slice_index for part in spleen.statements] == [7, 8, 9, None]
    assert spleen.statements[0].points == (Point(x=1, y=2), Point(x=3, y=4, is_positive=False))
    assert spleen.statements[1].points == (Point(x=5, y=6, is_positive=False),)
    assert spleen.statements[2].mask == MaskFile(path=tmp_path / "drawn.nii.gz", label=2)
    assert spleen.statements[3].mask == MaskFile(path=tmp_path / "rough.nii.gz")
    (line,) = lesion.statements
    assert line.line is not None
    assert (line.line.long_ends, line.line_points) == (((1, 2), (30, 40)), 2)
    assert spleen.statements[1].where == f"{tmp_path}/prompts.json: object 2, prompt 2"


@pytest.mark.parametrize(
    "content",
    [
        {"slice": 5, "box": CORNERS},
        [{"slice": 5.0, "box": CORNERS}],
        {"objects": [{"key_slice_idx": 8, "slice_offset": 3, "bbox": CORNERS}]},
        {"input_data": {"nii_image": ["AAAA"], "bbox": [CORNERS], "key_slice_idx": [5], "slice_offset": [0]}},
        {"input_data": {"columns": ["bbox", "key_slice_idx"], "data": [[CORNERS, 5]]}},
        {"dataframe_split": {"columns": ["bbox", "key_slice_idx"], "data": [[CORNERS, 5]]}},
        {"dataframe_records": [{"bbox": CORNERS, "key_slice_idx": 5, "memory": "recent"}]},
        {"inputs": {"bbox": [CORNERS], "key_slice_idx": [5], "mask_format": ["rle"]}},
    ],
)
def test_one_box_in_every_wrapping(tmp_path: Path, content: object) -> None:
    (item,) = said(tmp_path, content).objects
    (statement,) = item.statements
    assert (item.number, statement.slice_index, statement.box) == (1, 5, BOX)


def test_rows_of_the_contract_are_objects_of_their_own(tmp_path: Path) -> None:
    table = {"bbox": [CORNERS, CORNERS], "key_slice_idx": [5, 6], "dicom_window": [[0, 255], [0, 255]]}
    prompts = said(tmp_path, {"input_data": table})
    assert [item.number for item in prompts.objects] == [1, 2]
    assert prompts.windows == ((0, 255),)
    table["dicom_window"] = [[0, 255], [0, 100]]
    assert said(tmp_path, {"input_data": table}).windows == ((0, 255), (0, 100))


TABLE = """object,name,slice,x_min,y_min,x_max,y_max,point_x,point_y,point_label,mask,,
1,liver,5,10,20,30,40,,,,,,
1,,6,,,,,7,8,0,

2,left kidney,9,,,,,7.5,8,,
,tumour,9,,,,,,,,drawn.nii.gz
,tumour,4,,,,,1,2,1,
,,3,10,20,30,40,,,,
"""


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("start", ["", "\ufeff"])
def test_a_table_with_several_objects(tmp_path: Path, delimiter: str, start: str) -> None:
    prompts = said(tmp_path, start + TABLE.replace(",", delimiter).replace("\n", "\r\n"), ".csv")
    assert {item.number: item.name for item in prompts.objects} == {
        1: "liver", 2: "left kidney", 3: "tumour", 4: None,
    }  # fmt: skip
    liver, kidney, tumour, other = prompts.objects
    assert [part.box for part in liver.statements] == [BOX, None]
    assert liver.statements[1].points == (Point(x=7, y=8, is_positive=False),)
    assert kidney.statements[0].points == (Point(x=7.5, y=8),)
    assert [part.slice_index for part in tumour.statements] == [9, 4]
    assert tumour.statements[0].mask == MaskFile(path=tmp_path / "drawn.nii.gz")
    assert other.statements[0].box == BOX
    assert other.statements[0].where == f"{tmp_path}/prompts.csv: row 8"


def test_lists_in_cells(tmp_path: Path) -> None:
    text = (
        "key_slice_idx;slice_offset;bbox;points;recist;dicom_window\n"
        "105;100;[10, 20, 30, 40];;;-160 240\n"
        '6;;10 20 30 40;"1 2 1; 3,4,0";;abdomen\n'
        "6;;;[[1, 2], [3, 4]];;\n"
        "7;;;;1 2 30 40 5 6 7 8;\n"
    )
    prompts = said(tmp_path, text, ".csv")
    first, second, third, fourth = (item.statements[0] for item in prompts.objects)
    assert first.slice_index == 5
    assert first.box == second.box == BOX
    assert second.points == (Point(x=1, y=2), Point(x=3, y=4, is_positive=False))
    assert third.points == (Point(x=1, y=2), Point(x=3, y=4))
    assert fourth.line is not None
    assert fourth.line.short_ends == ((5, 6), (7, 8))
    assert prompts.windows == ((-160, 240), "abdomen")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", ("prompts.json", "is not JSON", "line 1")),
        ("[" * 100_000, ("nested too deeply",)),
        ([], ("names no object",)),
        ([3], ("object 1", "{...}")),
        ('{"slice": 1, "slice": 2}', ("'slice' stands twice",)),
        ({"slice": 5}, ("object 1", "says nothing", "box, points")),
        ({"box": CORNERS}, ("object 1", "names no slice")),
        ({"slice": 5, "boxx": CORNERS}, ("object 1", "'boxx'", "did you mean 'box'")),
        ({"slice": 5, "colour": 1}, ("'colour'", "keys are object, name, slice")),
        ({"slice": 5, "box": CORNERS, "bbox": CORNERS}, ("'box' and 'bbox' mean the same",)),
        ({"slice": 5, "box": [1, 2, 3]}, ("object 1, box", "[1, 2, 3]", "x_min y_min x_max y_max")),
        ({"slice": 5, "bbox": [1, 2, 3, "a"]}, ("object 1, bbox", "'a'")),
        ('{"slice": 5, "box": [1, 2, NaN, 4]}', ("object 1, box", "nan")),
        ({"slice": 5, "box": [1, 2, 3, True]}, ("object 1, box", "True")),
        ({"slice": 5, "x_min": 1, "y_min": 2}, ("object 1", "x_max, y_max is missing")),
        ({"slice": "five", "box": CORNERS}, ("object 1, slice", "'five'", "a whole number")),
        ({"slice": 5.5, "box": CORNERS}, ("object 1, slice", "5.5")),
        ({"slice": 5, "slice_offset": 9, "box": CORNERS}, ("object 1, slice", "5", "9 or more")),
        ({"object": 0, "slice": 5, "box": CORNERS}, ("object 1, object", "0", "1 to 255")),
        ({"object": 256, "slice": 5, "box": CORNERS}, ("256", "1 to 255")),
        ({"name": 7, "slice": 5, "box": CORNERS}, ("object 1, name", "7", "a text")),
        ({"slice": 5, "points": [[1]]}, ("object 1, points", "[[1]]", "[x, y]")),
        ({"slice": 5, "points": [[1, 2, 3]]}, ("object 1, points", "1 (inside) or 0 (outside)")),
        ({"slice": 5, "points": [[1, 2]], "labels": [1, 0]}, ("object 1, labels", "[1, 0]", "1 points")),
        ({"slice": 5, "points": [{"x": 1, "z": 2}]}, ("object 1, points",)),
        ({"slice": 5, "points": [[1, 2, 1]], "labels": [1]}, ("labels twice",)),
        ({"slice": 5, "mask": "a.nii", "box": CORNERS}, ("a mask replaces",)),
        ({"slice": 5, "mask_label": 2, "box": CORNERS}, ("mask_label and no mask",)),
        ({"slice": 5, "recist": [1, 2, 1, 2]}, ("object 1", "differ")),
        ({"slice": 5, "recist": [1, 2, 3, 4], "box": CORNERS}, ("one of the two",)),
        ({"slice": 5, "box": CORNERS, "recist_points": 2}, ("recist_points and no recist",)),
        ({"slice": 5, "box": CORNERS, "window": [5, 5]}, ("window", "lower < upper")),
        ({"name": "a", "prompts": []}, ("object 1, prompts", "a list of prompts")),
        ({"name": "a", "slice": 4, "prompts": [{"box": CORNERS}]}, ("'slice'", "keys are object, name")),
        ({"objects": [], "colour": 1}, ("'colour'", "keys are slice_offset, window")),
        ({"input_data": {"bbox": [CORNERS], "key_slice_idx": [5, 6]}}, ("one length", "'bbox': 1")),
        ({"input_data": {"bbox": [CORNERS], "key_slice_idx": [None]}}, ("row 1", "names no slice")),
        ({"input_data": 3}, ("input_data is a table",)),
        ({"input_data": {"columns": ["bbox"], "data": [[1, 2]]}}, ("every row of `data`",)),
        (
            [
                {"object": 1, "name": "a", "slice": 1, "box": CORNERS},
                {"object": 1, "name": "b", "slice": 2, "box": CORNERS},
            ],
            ("object 2", "'b' here", "'a' before"),
        ),
        ([{"slice": 5, "box": CORNERS}] * 256, ("object 256", "more than 255 objects")),
    ],
)  # fmt: skip
def test_what_is_wrong_in_json(tmp_path: Path, content: object, words: tuple[str, ...]) -> None:
    sentence = refusal(tmp_path, content)
    assert sentence.startswith("prompts.json")
    for word in words:
        assert word in sentence


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ("holds no row",)),
        ("slice,box\n", ("holds no row",)),
        ("slice,box\n5,1 2 3 4\n5,1 2 3 x\n", ("row 3, box", "'1 2 3 x'")),
        ("slice,box\n5,1,2,3,4\n", ("row 2", "5 cells for 2 columns", "quotes")),
        ("slice,slice\n5,6\n", ("two columns have the same name",)),
        ("slice,box,\n5,1 2 3 4,6\n", ("row 2", "''")),
        ("slice,x_min,y_min,x_max,y_max\n5,1,2,three,4\n", ("row 2, x_max", "'three'", "a number")),
        ("slice,point_x,point_y,point_label\n5,1,2,3\n", ("row 2, point_label", "'3'", "0 to 1")),
        ("slice,point_x\n5,1\n", ("row 2", "point_x and point_y")),
        ('slice,box\n5,"1 2 3 4\n', ("is not a table",)),
    ],
)
def test_what_is_wrong_in_a_table(tmp_path: Path, text: str, words: tuple[str, ...]) -> None:
    sentence = refusal(tmp_path, text, ".csv")
    assert sentence.startswith("prompts.csv")
    for word in words:
        assert word in sentence


def test_files_that_are_no_prompts(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read: No such file"):
        read_prompts(tmp_path / "none.json", image=Path("scan.nii"), num_slices=3)
    (tmp_path / "picture.json").write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(UnsupportedFormat, match="not text in UTF-8"):
        read_prompts(tmp_path / "picture.json", image=Path("scan.nii"), num_slices=3)
    with pytest.raises(UnsupportedFormat, match=r"from \.json, \.csv and \.tsv"):
        said(tmp_path, "{}", ".yaml")
    with (tmp_path / "large.json").open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(InputError, match=f"at most {MAX_BYTES}"):
        read_prompts(tmp_path / "large.json", image=Path("scan.nii"), num_slices=3)


def test_a_message_shows_no_more_than_the_beginning_of_a_value(tmp_path: Path) -> None:
    with pytest.raises(PromptError) as refused:
        said(tmp_path, {"slice": 5, "box": list(range(5000))})
    assert len(str(refused.value).replace(str(tmp_path), "")) < 200
