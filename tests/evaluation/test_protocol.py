"""Lists of cases: what is read, and every way in which one can be wrong."""

import json
import re

import pytest

from medsam2.errors import InputError
from medsam2.evaluation.cases import read_cases

ENTRY = {
    "name": "liver",
    "image": "scans/a.nii.gz",
    "mask": "scans/a_mask.nii.gz",
    "label": 5,
    "modality": "CT",
    "target": "liver",
    "window": [-160, 240],
    "axis": 2,
    "key_slice": 24,
    "box": [44, 27, 104.5, 81],
}
FOR_PEOPLE = {"reference": "manual", "licence": "MIT", "slices_with_mask": [0, 2], "note": ""}


def write(tmp_path, *entries):
    path = tmp_path / "cases.json"
    path.write_text(json.dumps(list(entries)))
    return path


def test_a_list_is_read(tmp_path):
    checked = {"shape": [10, 20, 30], "spacing": [1, 1, 2.5], "mask_voxels": 7}
    first, second = read_cases(
        write(
            tmp_path, ENTRY | checked | FOR_PEOPLE, ENTRY | {"name": "two", "label": [1, 2], "window": None}
        )
    )
    assert first.name == "liver"
    assert first.image == tmp_path / "scans" / "a.nii.gz"
    assert first.mask == tmp_path / "scans" / "a_mask.nii.gz"
    assert first.labels == (5,)
    assert first.window == (-160.0, 240.0)
    assert first.box_xyxy == (44.0, 27.0, 104.5, 81.0)
    assert (first.axis, first.key_slice, first.modality, first.target) == (2, 24, "CT", "liver")
    assert (first.shape, first.spacing, first.mask_voxels) == ((10, 20, 30), (1, 1, 2.5), 7)
    assert second.labels == (1, 2)
    assert second.window is None
    assert (second.shape, second.spacing, second.mask_voxels) == (None, None, None)


def test_a_picture_and_a_window_by_name(tmp_path):
    entry = ENTRY | {"axis": None, "spacing": None, "window": "liver", "key_slice": 0}
    (case,) = read_cases(write(tmp_path, entry))
    assert (case.axis, case.spacing, case.window) == (None, None, "liver")


@pytest.mark.parametrize("field", list(ENTRY))
def test_a_field_that_is_missing(tmp_path, field):
    entry = {name: value for name, value in ENTRY.items() if name != field}
    with pytest.raises(InputError, match=f"case 1.*lacks {field}$"):
        read_cases(write(tmp_path, ENTRY | {"name": "first"}, entry))


def test_a_field_that_is_unknown(tmp_path):
    with pytest.raises(
        InputError, match=r"case 0 \(liver\): has the unknown field boxes; known are name, image"
    ):
        read_cases(write(tmp_path, ENTRY | {"boxes": []}))


@pytest.mark.parametrize(
    ("field", "value", "accepted"),
    [
        ("name", "", "a text"),
        ("name", 3, "a text"),
        ("image", None, "a text"),
        ("label", "5", "an integer or a list"),
        ("label", True, "an integer or a list"),
        ("label", [], "an integer or a list"),
        ("label", [1, 2.5], "an integer or a list"),
        ("modality", "PET", "one of CT, MR, US"),
        ("modality", ["CT"], "one of CT, MR, US"),
        ("window", [1], "two numbers"),
        ("window", [1, "2"], "two numbers"),
        ("window", 4, "two numbers"),
        ("axis", 3, "0, 1, 2 or null"),
        ("axis", True, "0, 1, 2 or null"),
        ("axis", "2", "0, 1, 2 or null"),
        ("key_slice", 1.5, "an integer"),
        ("box", [1, 2, 3], "four numbers"),
        ("box", [1, 2, 3, float("nan")], "four numbers"),
        ("box", "1 2 3 4", "four numbers"),
        ("spacing", [1, 0, 1], "positive numbers"),
        ("spacing", [1], "positive numbers"),
        ("shape", [1.5, 2, 3], "integers"),
        ("mask_voxels", "many", "an integer"),
    ],
)
def test_a_field_whose_value_cannot_be(tmp_path, field, value, accepted):
    message = rf"{field} must be .*{accepted}.*, not {re.escape(json.dumps(value))}"
    with pytest.raises(InputError, match=message):
        read_cases(write(tmp_path, ENTRY | {field: value}))


def test_names_differ(tmp_path):
    with pytest.raises(InputError, match="two cases are called 'liver'"):
        read_cases(write(tmp_path, ENTRY, ENTRY))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON"),
        ("[1, ", "not JSON"),
        ("\x00\xff", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("{}", "with at least one entry"),
        ("[]", "with at least one entry"),
        ("[3]", "case 0: a case is a JSON object, not 3"),
    ],
)
def test_files_that_are_no_list_of_cases(tmp_path, text, message):
    path = tmp_path / "cases.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(InputError, match=message):
        read_cases(path)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        read_cases(tmp_path / "none.json")
    with pytest.raises(InputError, match="Is a directory"):
        read_cases(tmp_path)
