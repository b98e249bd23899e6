"""Tables with a column `kind`: axes, windows, crops, stills, videos, the fixed eighth, and wrong rows."""

from __future__ import annotations

import csv
import hashlib
import json
from itertools import count
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from medsam2.cli.main import run
from medsam2.errors import InputError
from medsam2.training.datasets.layouts import read_data_set
from medsam2.training.datasets.scan import LabelledScan
from medsam2.training.datasets.splits import split_by_fixed_eighth
from medsam2.training.stack_files import StackEntry, StoredStack, entry_of, load_stack

Row = dict[str, str]


def is_in_the_eighth(patient: str) -> bool:
    return int(hashlib.blake2b(patient.encode(), digest_size=8).hexdigest(), 16) % 8 == 0


TRAINS = next(name for name in (f"p{n}" for n in count()) if not is_in_the_eighth(name))
VALIDATES = next(name for name in (f"p{n}" for n in count()) if is_in_the_eighth(name))


def save_volume(array: np.ndarray, path: Path, spacing_mm: tuple[float, float, float] = (1, 1, 1)) -> None:
    """Write (z, y, x) voxels with a spacing (x, y, z)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array.T, np.diag([*spacing_mm, 1.0])), path)


def save_picture(array: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def write_pair(
    root: Path,
    name: str,
    image: np.ndarray,
    mask: np.ndarray,
    spacing_mm: tuple[float, float, float] = (1, 1, 1),
) -> Row:
    """Write a volume and its mask; return a row that says no more than it must."""
    save_volume(image, root / "images" / f"{name}.nii.gz", spacing_mm)
    save_volume(mask, root / "masks" / f"{name}.nii.gz", spacing_mm)
    return {
        "name": name, "image": f"images/{name}.nii.gz", "mask": f"masks/{name}.nii.gz",
        "patient": TRAINS, "kind": "volume",
    }  # fmt: skip


def write_table(root: Path, *rows: Row) -> Path:
    """Write the rows, and one to validate on, with all columns that a row has and one that nobody knows."""
    image, mask = draw((6, 20, 22), (slice(1, 5), slice(4, 14), slice(5, 15)))
    last = write_pair(root, "last", image, mask) | {"patient": VALIDATES}
    listed = [*rows, last]
    columns = list(dict.fromkeys([*(column for row in listed for column in row), "remark"]))
    with (root / "scans.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(listed)
    return root / "scans.csv"


def draw(
    shape: tuple[int, int, int], box: tuple[slice, slice, slice], value: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Draw noise from 0 to 999 and a box of one label."""
    image = np.random.default_rng(sum(shape)).integers(0, 1000, shape).astype(np.int16)
    mask = np.zeros(shape, np.uint8)
    mask[box] = value
    return image, mask


def prepare(root: Path, *rows: Row) -> list[tuple[StackEntry, StoredStack]]:
    """Prepare a table and return its stacks to train on, of the rows in their order."""
    table, stacks = write_table(root, *rows), root / "stacks"
    assert run(["data", "prepare", str(table), str(stacks), "--workers", "1"]) == 0
    num_stacks = len(json.loads((stacks / "bank.json").read_text(encoding="utf-8"))["train"])
    found = [(entry_of(stacks, seed), load_stack(stacks, seed)) for seed in range(num_stacks)]
    return [(entry, stack) for entry, stack in found if entry is not None]


def greys(image: np.ndarray, lower: float, upper: float) -> np.ndarray:
    return np.uint8((np.clip(image, lower, upper).astype(float) - lower) / (upper - lower) * 255)


@pytest.mark.parametrize(
    ("axis", "order", "spacing_mm"),
    [("", (0, 1, 2), (1.0, 2.0, 5.0)), ("1", (1, 0, 2), (1.0, 5.0, 2.0)), ("0", (2, 0, 1), (2.0, 5.0, 1.0))],
)
def test_a_volume_is_cut_along_the_axis_of_its_row(
    axis: str, order: tuple[int, int, int], spacing_mm: tuple[float, float, float], tmp_path: Path
) -> None:
    image, mask = draw((9, 30, 34), (slice(2, 8), slice(3, 25), slice(4, 28)), value=7)
    row = write_pair(tmp_path, "odd", image, mask, (1, 2, 5))
    row |= {"slicing_axis": axis, "window": "100 600", "labels": '{"7": "liver"}', "modality": "MRI"}
    ((entry, stack),) = prepare(tmp_path, row | {"dataset": "Livers, 2nd edition"})
    assert np.array_equal(stack.image, greys(image, 100, 600).transpose(order))
    assert np.array_equal(stack.labels, (mask == 7).transpose(order))
    assert stack.spacing_mm == spacing_mm
    assert stack.modality == "MR"
    assert entry.objects == ("liver",)
    assert (entry.dataset, entry.patient, entry.case) == ("Livers, 2nd edition", TRAINS, "odd")
    assert (entry.axis, entry.window) == (int(axis or 2), (100.0, 600.0))


def test_a_ct_is_shown_in_three_windows(tmp_path: Path) -> None:
    image, mask = draw((8, 30, 30), (slice(1, 7), slice(5, 20), slice(5, 20)))
    row = write_pair(tmp_path, "ct", image, mask, (1, 1, 3))
    stacks = prepare(tmp_path, row | {"modality": "CT", "window": "0 400"})
    assert [entry.window for entry, _ in stacks] == [(0, 400), (-60, 520), pytest.approx((60, 340))]
    for entry, stack in stacks:
        assert np.array_equal(stack.image, greys(image, *entry.window))
        assert np.array_equal(stack.labels, mask)


@pytest.mark.parametrize(
    ("shape", "spacing_mm", "axes"),
    [
        ((24, 30, 28), (1, 1, 2), [2, 2, 2, 0, 1]),
        ((23, 30, 28), (1, 1, 2), [2, 2, 2]),
        ((24, 30, 28), (1, 1, 2.25), [2, 2, 2]),
    ],
)
def test_nearly_cubic_voxels_are_cut_along_all_axes(
    shape: tuple[int, int, int], spacing_mm: tuple[float, float, float], axes: list[int], tmp_path: Path
) -> None:
    image, mask = draw(shape, (slice(3, 20), slice(5, 24), slice(5, 20)))
    row = write_pair(tmp_path, "ct", image, mask, spacing_mm)
    stacks = prepare(tmp_path, row | {"modality": "CT", "window": "0 400"})
    assert [entry.axis for entry, _ in stacks] == axes
    order = {2: (0, 1, 2), 1: (1, 0, 2), 0: (2, 0, 1)}
    for entry, stack in stacks:
        assert np.array_equal(stack.image, greys(image, *entry.window).transpose(order[entry.axis]))
        assert np.array_equal(stack.labels, mask.transpose(order[entry.axis]))
    assert all(entry.window == (0, 400) for entry, _ in stacks[3:]), "more windows along one axis only"


def test_a_stack_is_cropped_around_its_objects_and_thinned(tmp_path: Path) -> None:
    image, mask = draw((300, 140, 200), (slice(100, 230), slice(40, 60), slice(80, 180)))
    row = write_pair(tmp_path, "long", image, mask, (1, 1, 3))
    ((_, stack),) = prepare(tmp_path, row | {"window": "0 1000"})
    # Margins: half of 100 pixels in the plane, ten slices; 150 slices are more than 120.
    part = slice(90, 240, 2), slice(0, 110), slice(30, 200)
    assert np.array_equal(stack.image, greys(image, 0, 1000)[part])
    assert np.array_equal(stack.labels, mask[part])
    assert stack.spacing_mm == (1, 1, 6)


def test_objects_are_numbered_anew_and_the_largest_stay(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 200, (3, 160, 160)).astype(np.uint8)
    mask = np.zeros(image.shape, np.uint16)
    for number in range(64):
        y, x = 20 * (number // 8), 20 * (number % 8)
        mask[1, y : y + 5, x : x + 5] = 300 + number
        mask[1, y + 5, x : x + number // 16] = 300 + number
    mask[0, 17, :19] = 7  # 19 pixels are too few
    mask[:, 19, 100:] = 9
    ((entry, stack),) = prepare(tmp_path, write_pair(tmp_path, "many", image, mask) | {"kind": "video"})
    sizes = [int((stack.labels == label).sum()) for label in range(1, 61)]
    assert stack.labels.max() == 60
    assert (entry.objects[0], sizes[0]) == ("9", 180)
    assert sizes == sorted(sizes, reverse=True)
    assert "7" not in entry.objects
    dropped = {str(300 + n) for n in range(64)} - set(entry.objects)
    assert len(dropped) == 5
    assert all(int(name) < 316 for name in dropped), "the smallest"


def test_a_still_in_colour_is_grey_and_its_mask_the_first_channel(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    colours = rng.integers(0, 256, (40, 50, 3)).astype(np.uint8)
    mask = np.zeros((40, 50, 3), np.uint8)
    mask[10:30, 12:40, 0] = 3
    mask[..., 1] = 200
    save_picture(colours, tmp_path / "photo.png")
    save_picture(mask, tmp_path / "photo_mask.png")
    row = {"image": "photo.png", "mask": "photo_mask.png", "patient": TRAINS, "kind": "still"}
    ((entry, stack),) = prepare(tmp_path, row | {"imaging": "endoscopy", "labels": '{"3": "polyp"}'})
    luma = colours.astype(float) @ (0.299, 0.587, 0.114)
    assert stack.image.shape == (1, 40, 50)
    assert np.abs(stack.image[0] - luma).max() <= 1, "bright greys of 8 bits stay as they are"
    assert np.array_equal(stack.labels[0], mask[..., 0] == 3)
    assert stack.modality == "endoscopy"
    assert (entry.case, entry.window, entry.dataset) == ("photo", (0, 255), "scans")


def test_a_video_is_a_file_or_a_folder_of_frames(tmp_path: Path) -> None:
    image, mask = draw((30, 40, 40), (slice(2, 28), slice(8, 30), slice(8, 30)))
    image = (image // 4).astype(np.uint8)
    row = write_pair(tmp_path, "file", image.transpose(1, 0, 2), mask.transpose(1, 0, 2))
    for z in range(len(image)):
        save_picture(image[z], tmp_path / "frames" / f"{z:02d}.png")
        save_picture(mask[z], tmp_path / "frame_masks" / f"{z:02d}.png")
    folder = {"image": "frames", "mask": "frame_masks", "kind": "video", "patient": TRAINS}
    stacks = prepare(tmp_path, row | {"kind": "video", "slicing_axis": "1"}, folder)
    assert [entry.axis for entry, _ in stacks] == [1, 2], "time is no axis to cut across"
    for _, stack in stacks:
        assert np.array_equal(stack.image, image)
        assert np.array_equal(stack.labels, mask)


@pytest.mark.parametrize("padding", [-1024, 0])
def test_without_a_window_padding_does_not_count(padding: int, tmp_path: Path) -> None:
    image, mask = draw((6, 60, 60), (slice(1, 5), slice(20, 40), slice(20, 40)))
    image[:, 20:] = padding
    ((entry, _),) = prepare(tmp_path, write_pair(tmp_path, "padded", image, mask))
    inside = image[image != padding]
    assert entry.window == pytest.approx(tuple(np.percentile(inside, (0.5, 99.5))))


def test_patients_are_split_by_their_names_alone() -> None:
    patients = [f"p{number}" for number in range(200)]
    scans = [
        LabelledScan(name=str(number), image=Path("i"), mask=Path("m"), labels={}, patient=patient)
        for number, patient in enumerate([*patients, *patients])
    ]
    splits = split_by_fixed_eighth(scans)
    assert {scan.patient for scan in splits["validation"]} == {p for p in patients if is_in_the_eighth(p)}
    assert len(splits["validation"]) + len(splits["train"]) == 400
    with pytest.raises(InputError, match=r"none of the 1 patients falls to validation .* choose by --shares"):
        split_by_fixed_eighth([scan for scan in scans if scan.patient == TRAINS])


def test_shares_replace_the_fixed_eighth(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image, mask = draw((6, 20, 22), (slice(1, 5), slice(4, 14), slice(5, 15)))
    rows = [write_pair(tmp_path, f"c{n}", image, mask) | {"patient": f"q{n}"} for n in range(3)]
    table = str(write_table(tmp_path, *rows))
    arguments = ["data", "prepare", table, str(tmp_path / "stacks"), "--workers", "1", "--json"]
    assert run([*arguments, "--shares", "0.5", "0.25", "0.25", "--seed", "3"]) == 0
    assert json.loads(capsys.readouterr().out)["patients"] == {"train": 2, "validation": 1, "test": 1}
    assert run([*arguments, "-o", str(tmp_path / "other")]) == 2
    assert "give the folder once" in capsys.readouterr().err


def test_what_a_caller_says_counts_more_than_the_table(tmp_path: Path) -> None:
    image, mask = draw((9, 30, 34), (slice(2, 8), slice(3, 17), slice(4, 20)))
    row = write_pair(tmp_path, "a", image, mask, (1, 1, 5)) | {"window": "0 100", "slicing_axis": "0"}
    stacks = tmp_path / "stacks"
    mask[0, :3, :3] = 2
    save_volume(mask, tmp_path / "masks" / "a.nii.gz", (1, 1, 5))
    options = ["--plane", "axial", "--window", "0", "500", "--min-area", "9", "--workers", "1"]
    assert run(["data", "prepare", str(write_table(tmp_path, row)), "-o", str(stacks), *options]) == 0
    (entry,) = _listed(stacks)["train"]
    assert (entry["axis"], entry["window"], entry["objects"]) == (2, [0, 500], ["1", "2"])


def _listed(stacks: Path) -> dict[str, list[dict[str, object]]]:
    content = json.loads((stacks / "bank.json").read_text(encoding="utf-8"))
    return {split: content[split] for split in ("train", "validation")}


def test_lists_of_earlier_versions_still_read(tmp_path: Path) -> None:
    old = {"file": "a-000.npz", "case": "a", "objects": ["liver"], "window": [0.0, 1.0]}
    (tmp_path / "bank.json").write_text(json.dumps({"train": [old], "validation": []}))
    entry = entry_of(tmp_path, 0)
    assert entry == StackEntry(file="a-000.npz", case="a", objects=("liver",), window=(0.0, 1.0))
    assert (entry.dataset, entry.patient, entry.axis) == ("", "", None)


WRONG_CELLS = {
    "kind": ({"kind": "film"}, "a kind is volume, still, video, not 'film'"),
    "axis": ({"slicing_axis": "3"}, "a slicing axis is 0, 1, 2, or empty for 2, not '3'"),
    "still": ({"kind": "still", "slicing_axis": "1"}, "a still has one slice and no slicing axis 1"),
    "one number": ({"window": "40"}, "a window is two numbers, for example \"-160 240\", not '40'"),
    "words": ({"window": "low high"}, "a window is two numbers, for example \"-160 240\", not 'low high'"),
    "infinite": ({"window": "0 inf"}, "a window is two numbers, for example \"-160 240\", not '0 inf'"),
    "upside down": ({"window": "9 -9"}, "the window 9 -9 is upside down; the lower limit comes first"),
    "no JSON": ({"labels": "1: a"}, "labels are JSON, for example {\"1\": \"liver\"}, not '1: a'"),
    "labels without one": ({"labels": '{"0": "air"}'}, "the labels name no value above 0"),
    "labels as a list": ({"labels": '["liver"]'}, "labels are a JSON object, not ['liver']"),
    "split": ({"split": "tests"}, "a split is train, validation, test, not 'tests'"),
    "no image": ({"image": ""}, "has no image"),
    "image missing": ({"image": "images/none.nii.gz"}, "images/none.nii.gz: no such file"),
    "no path": ({"image": "x" * 5000}, "xxx: no such file"),
    "mask missing": ({"mask": "masks/none.nii.gz"}, "masks/none.nii.gz: no such file"),
    "still of many slices": ({"kind": "still"}, "images/wrong.nii.gz: has 6 slices; a still is one picture"),
    "no picture": ({"image": "scans.csv"}, "scans.csv"),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG_CELLS)
def test_a_row_that_is_wrong_is_named_and_the_rest_goes_on(
    what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change, sentence = WRONG_CELLS[what]
    image, mask = draw((6, 20, 22), (slice(1, 5), slice(4, 14), slice(5, 15)))
    good, wrong = (write_pair(tmp_path, name, image, mask) for name in ("good", "wrong"))
    _check_refused(write_table(tmp_path, good, wrong | change), sentence, capsys)


def test_masks_that_do_not_fit_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image, mask = draw((6, 20, 22), (slice(1, 5), slice(4, 14), slice(5, 15)))
    good = write_pair(tmp_path, "good", image, mask)
    for number, (other, sentence) in enumerate(
        [
            (
                mask[:5],
                "masks/wrong.nii.gz: the mask has 22 x 20 x 5 voxels (x, y, z), the image 22 x 20 x 6",
            ),
            (mask * 0, "masks/wrong.nii.gz: the mask is empty"),
            (mask * 0.5, "masks/wrong.nii.gz: the mask has fractions, for example 0.5"),
        ]
    ):
        root = tmp_path / str(number)
        for name in ("images/good.nii.gz", "masks/good.nii.gz"):
            save_volume(np.asanyarray(nibabel.load(tmp_path / name).dataobj).T, root / name)
        wrong = write_pair(root, "wrong", image, other)
        _check_refused(write_table(root, good, wrong), sentence, capsys)
    empty = write_pair(tmp_path, "wrong", image * 0, mask)
    _check_refused(write_table(tmp_path, good, empty), "every voxel of the image is 0", capsys)


def _check_refused(table: Path, sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Check that row 3 alone is left out, in one sentence, by both commands."""
    stacks = table.parent / "stacks"
    assert run(["data", "prepare", str(table), str(stacks), "--workers", "1"]) == 1
    said = [line for line in capsys.readouterr().err.splitlines() if "left out:" in line]
    assert len(said) == 1
    assert f"{table}, row 3: " in said[0]
    assert sentence in said[0]
    assert [entry["case"] for entry in _listed(stacks)["train"]] == ["good"]
    assert run(["data", "check", str(table), "--workers", "1"]) == 1
    assert any(line.startswith("error [") for line in capsys.readouterr().out.splitlines())


def test_a_table_of_wrong_rows_only_says_why(tmp_path: Path) -> None:
    (tmp_path / "scans.csv").write_text("image,mask,kind\na.nii,b.nii,film\n")
    with pytest.raises(InputError, match=r"no scan with a mask is here .*row 2: .*a\.nii: no such file"):
        read_data_set(tmp_path / "scans.csv")
