"""`medsam2 segment` with several objects: prompt files, rough masks, a file for each object."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK

from medsam2.cli.main import run

# Column, row and slice of three balls; the last two touch.
BALLS = {1: (16, 16, 4), 2: (46, 36, 5), 3: (55, 36, 6)}
SHAPE = (10, 56, 72)  # z, y, x


def ball(number: int, radius: float = 6.0) -> np.ndarray:
    z, y, x = np.mgrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    center_x, center_y, center_z = BALLS[number]
    return (x - center_x) ** 2 + (y - center_y) ** 2 + (2.0 * (z - center_z)) ** 2 < radius**2


def box(number: int, half: int = 6) -> list[int]:
    x, y, _ = BALLS[number]
    return [x - half, y - half, x + half, y + half]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A scan of three bright balls, x to the left and y to the back as CT comes."""
    grey = np.random.default_rng(0).normal(60, 6, SHAPE)
    for number in BALLS:
        grey[ball(number)] += 110
    save(tmp_path / "scan.nii.gz", grey.astype(np.int16))
    return tmp_path


def save(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> Path:
    grid = np.diag([-0.8, -0.8, 1.6, 1.0]) if affine is None else affine
    nibabel.save(nibabel.Nifti1Image(array.T, grid), path)
    return path


def voxels(path: Path) -> np.ndarray:
    return SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))


def dice(first: np.ndarray, second: np.ndarray) -> float:
    return 2 * float((first & second).sum()) / float(first.sum() + second.sum())


def segment(folder: Path, *arguments: object) -> int:
    words = ["segment", folder / "scan.nii.gz", "--window", "0", "255", *arguments]
    return run([str(word) for word in words])


def refused(folder: Path, capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run, expect exit code 2, one last line on standard error and no new file; return the line."""
    before = sorted(folder.iterdir())
    assert segment(folder, *arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert sorted(folder.iterdir()) == before
    return captured.err.strip().splitlines()[-1]


def test_three_objects_out_of_a_json_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    objects = [
        {"object": 1, "name": "left/upper node", "slice": 104, "box": box(1)},
        {"object": 2, "name": "Liver", "slice": 105, "box": box(2)},
        {"object": 3, "name": "liver", "prompts": [{"slice": 106, "points": [[55, 36, 1], [46, 36, 0]]}]},
    ]
    content = {"slice_offset": 100, "window": [0, 255], "objects": objects}
    (folder / "prompts.json").write_text(json.dumps(content))
    arguments = ["--prompts", folder / "prompts.json", "--per-object", "-o", folder / "m.nii.gz", "--json"]
    pictures = ["--preview", folder / "look.png"]
    assert run(["segment", *map(str, [folder / "scan.nii.gz", *arguments, *pictures])]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["window"] == [0, 255]
    assert "volume_ml" not in facts
    assert [(item["number"], item["name"]) for item in facts["objects"]] == [
        (1, "left/upper node"), (2, "Liver"), (3, "liver"),
    ]  # fmt: skip
    names = ["m_left_upper_node.nii.gz", "m_2_Liver.nii.gz", "m_3_liver.nii.gz"]
    assert [Path(item["mask"]).name for item in facts["objects"]] == names
    pngs = ["look_left_upper_node.png", "look_2_Liver.png", "look_3_liver.png"]
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        ["m.nii.gz", "prompts.json", "scan.nii.gz", *names, *pngs]
    )
    labels = voxels(folder / "m.nii.gz")
    assert set(np.unique(labels)) == {0, 1, 2, 3}
    for item, name in zip(facts["objects"], names, strict=True):
        alone = voxels(folder / name)
        assert alone.dtype == np.uint8
        assert set(np.unique(alone)) == {0, 1}
        # In the label file a voxel belongs to one object, by itself each is whole.
        assert not ((labels == item["number"]) & (alone == 0)).any()
        assert ((labels > 0) & (alone > 0)).sum() == alone.sum()
        assert item["volume_ml"] == pytest.approx(alone.sum() * 0.8 * 0.8 * 1.6 / 1000, rel=1e-5)
    for number in (1, 2):  # the third has clicks alone, which tell the network less
        key = BALLS[number][2]
        assert dice(voxels(folder / names[number - 1])[key] > 0, ball(number)[key]) > 0.6


def test_a_table_and_json_of_the_same_prompts_give_the_same_mask(folder: Path) -> None:
    rows = ["object,slice,x_min,y_min,x_max,y_max"]
    rows += [",".join(map(str, [number, BALLS[number][2], *box(number)])) for number in BALLS]
    (folder / "prompts.csv").write_text("\n".join(rows))
    table = {"bbox": [box(n) for n in BALLS], "key_slice_idx": [BALLS[n][2] for n in BALLS]}
    (folder / "request.json").write_text(json.dumps({"input_data": {"nii_image": ["x"] * 3, **table}}))
    for name in ("prompts.csv", "request.json"):
        assert segment(folder, "--prompts", folder / name, "-o", folder / f"{name}.nii") == 0
    first, second = (voxels(folder / f"{name}.nii") for name in ("prompts.csv", "request.json"))
    np.testing.assert_array_equal(first, second)
    assert set(np.unique(first)) == {0, 1, 2, 3}


@pytest.mark.parametrize("drawn_as", [None, "box"])
def test_a_rough_mask_in_another_voxel_order(folder: Path, drawn_as: str | None, capsys) -> None:
    rough = np.zeros(SHAPE, np.uint8)
    for number, label in ((1, 4), (2, 9)):
        rough[ball(number, radius=5)] = label
    order = np.diag([0.8, -0.8, 1.6, 1.0])  # mirrored in x, and the affine says so
    order[0, 3] = -0.8 * (SHAPE[2] - 1)
    path = save(folder / "rough.nii.gz", np.ascontiguousarray(rough[:, :, ::-1]), order)
    how = ["--from-mask-as", drawn_as] if drawn_as else []
    assert segment(folder, "--from-mask", path, *how, "-o", folder / "m.nrrd", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert [(item["number"], item["name"]) for item in facts["objects"]] == [(4, None), (9, None)]
    found = voxels(folder / "m.nrrd")
    for number, label in ((1, 4), (2, 9)):
        key = BALLS[number][2]
        assert dice(found[key] == label, ball(number)[key]) > 0.6


def test_recist_lines_as_numbers_in_a_file_and_in_a_volume(folder: Path) -> None:
    x, y, z = BALLS[1]
    assert segment(folder, "--slice", z, "--recist", x - 6, y, x + 6, y, "-o", folder / "a.nii") == 0
    line = {"slice": z, "recist": [x - 6, y, x + 6, y]}
    (folder / "line.json").write_text(json.dumps(line))
    assert segment(folder, "--prompts", folder / "line.json", "-o", folder / "b.nii") == 0
    drawn = np.zeros(SHAPE, np.uint8)
    drawn[z, y, x - 6 : x + 7] = 1
    path = save(folder / "line.nii.gz", drawn)
    as_line = ["--from-mask", path, "--from-mask-as", "recist"]
    assert segment(folder, *as_line, "-o", folder / "c.nii") == 0
    first, second, third = (voxels(folder / f"{name}.nii") for name in "abc")
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(first, third)
    assert first[z].any()


def test_lesions_of_deeplesion_in_a_file_as_its_authors_store_it(folder: Path) -> None:
    """Their NIfTI has x and y exchanged, and slices from head to foot."""
    scan = np.asarray(nibabel.load(folder / "scan.nii.gz").dataobj)  # (x, y, z)
    affine = np.array([[0, -0.8, 0, 0], [-0.8, 0, 0, 0], [0, 0, -1.6, 0], [0, 0, 0, 1.0]])
    image = folder / "000007_01_01_031-040.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.ascontiguousarray(scan.transpose(1, 0, 2)), affine), image)
    rows = ["File_name,Key_slice_index,Bounding_boxes,Coarse_lesion_type,Slice_range,DICOM_windows"]
    for number in (1, 2):
        corners = ", ".join(str(end + 1) for end in box(number))  # counted from 1
        key = BALLS[number][2] + 31
        rows.append(f'000007_01_01_{key:03d}.png,{key},"{corners}",4,"31, 40","0, 255"')
    (folder / "DL_info.csv").write_text("\n".join(rows))
    words = ["segment", image, "--prompts", folder / "DL_info.csv", "-o", folder / "m.nii.gz"]
    assert run([str(word) for word in words]) == 0
    labels = np.asarray(nibabel.load(folder / "m.nii.gz").dataobj).transpose(1, 0, 2).T
    for number in (1, 2):
        key = BALLS[number][2]
        assert dice(labels[key] == number, ball(number)[key]) > 0.6


def test_a_mask_beside_the_image_is_not_on_its_grid(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    drawn = np.zeros(SHAPE, np.uint8)
    drawn[ball(1)] = 1
    moved = np.diag([-0.8, -0.8, 1.6, 1.0])
    moved[0, 3] = 8
    path = save(folder / "moved.nii.gz", drawn, moved)
    for arguments in (("--mask", path, "--slice", 4), ("--from-mask", path)):
        sentence = refused(folder, capsys, *arguments)
        assert "moved.nii.gz" in sentence
        assert "10 voxels away" in sentence
    large = save(folder / "large.nii.gz", np.pad(drawn, ((0, 2), (0, 0), (0, 0))))
    assert "(x, y, z)" in refused(folder, capsys, "--from-mask", large)
    empty = save(folder / "empty.nii.gz", 0 * drawn)
    assert "empty.nii.gz: the mask is empty" in refused(folder, capsys, "--from-mask", empty)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"slice": 12, "box": [1, 2, 3, 4]}, ("object 1", "slice 12", "0 to 9")),
        ([{"slice": 2, "box": box(1)}, {"slice": 2, "box": [1, 2, 99, 4]}], ("object 2", "99", "0 to 71")),
        ({"slice": 2, "recist": [1, 2, 99, 4]}, ("object 1", "RECIST line", "0 to 71")),
        ({"slice": 2, "mask": "none.nii.gz"}, ("object 1", "none.nii.gz", "no such file")),
        ({"slice": 2, "mask": "two.nii.gz"}, ("object 1", "labels 1, 2", "mask_label")),
        ({"slice": 2, "mask": "two.nii.gz", "mask_label": 7}, ("object 1", "no label 7", "1, 2", "slice 2")),
        (
            [{"object": 1, "slice": 2, "box": box(1)}, {"object": 1, "slice": 2, "box": box(2)}],
            ("object 2", "slice 2 of object 1", "already"),
        ),
        (
            [{"slice": 2, "box": box(1), "window": [0, 9]}, {"slice": 2, "box": box(1), "window": "lung"}],
            ("several windows", "0 to 9, lung", "--window"),
        ),
    ],
)
def test_prompts_that_do_not_lie_in_the_image(
    folder: Path, capsys: pytest.CaptureFixture[str], content: object, words: tuple[str, ...]
) -> None:
    (folder / "prompts.json").write_text(json.dumps(content))
    two = np.zeros(SHAPE, np.uint8)
    two[2, 3:9, 3:9], two[2, 20:29, 3:9] = 1, 2
    save(folder / "two.nii.gz", two)
    before = sorted(folder.iterdir())
    code = run(["segment", str(folder / "scan.nii.gz"), "--prompts", str(folder / "prompts.json")])
    captured = capsys.readouterr()
    assert (code, captured.out) == (2, "")
    assert sorted(folder.iterdir()) == before
    for word in ("prompts.json", *words):
        assert word in captured.err.strip().splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--prompts", "p.json", "--slice", "3"), ("--prompts names its slices",)),
        (("--prompts", "p.json", "--box", "1", "2", "3", "4"), ("--box and --prompts", "one of them")),
        (("--prompts", "p.json", "--from-mask", "m.nii"), ("--prompts and --from-mask",)),
        (("--box", "1", "2", "3", "4"), ("--slice K",)),
        (("--slice", "3", "--recist", "1", "2", "3", "4", "--box", "1", "2", "3", "4"), ("--recist",)),
        (("--slice", "3", "--box", "1", "2", "3", "4", "--from-mask-as", "box"), ("--from-mask FILE",)),
        (("--slice", "3", "--box", "1", "2", "9", "9", "--stop-after", "-1"), ("0 or more", "-1")),
        (("--slice", "3", "--box", "1", "2", "9", "9", "--frame", "2"), ("no frame 2",)),
        ((), ("--box", "--prompts FILE", "--from-mask FILE")),
    ],
)
def test_options_that_contradict_each_other(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    sentence = refused(folder, capsys, *arguments)
    for word in words:
        assert word in sentence


def test_an_input_is_never_written_over(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompt = ["--slice", 4, "--box", *box(1)]
    assert "is an input" in refused(folder, capsys, *prompt, "-o", folder / "scan.nii.gz")
    rough = np.zeros(SHAPE, np.uint8)
    rough[ball(1)] = 1
    path = save(folder / "m_1.nii.gz", rough)
    arguments = ["--from-mask", path, "--per-object", "-o", folder / "m.nii.gz"]
    assert "m_1.nii.gz: is an input" in refused(folder, capsys, *arguments)


def test_a_frame_of_a_series(folder: Path) -> None:
    still = np.asarray(nibabel.load(folder / "scan.nii.gz").dataobj)
    series = np.stack([np.full_like(still, 7), still], axis=3)
    nibabel.save(nibabel.Nifti1Image(series, np.diag([-0.8, -0.8, 1.6, 1.0])), folder / "series.nii.gz")
    prompt = ["--slice", 4, "--box", *box(1), "--window", 0, 255]
    words = ["segment", folder / "series.nii.gz", *prompt, "--frame", 1, "-o", folder / "s.nii.gz"]
    assert run([str(word) for word in words]) == 0
    assert segment(folder, *prompt[:7], "-o", folder / "m.nii.gz") == 0
    np.testing.assert_array_equal(voxels(folder / "s.nii.gz"), voxels(folder / "m.nii.gz"))


def test_options_of_the_way_change_what_is_kept(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    masks = {}
    for name in ("keep-component", "no-component"):
        path = folder / f"{name}.nii.gz"
        prompt = ["--slice", 4, "--point", 16, 16, 1]
        assert segment(folder, *prompt, f"--{name}", "--stop-after", 1, "-o", path) == 0
        masks[name] = voxels(path) > 0
    assert masks["keep-component"].any()
    assert not (masks["keep-component"] & ~masks["no-component"]).any()


def test_several_objects_are_said_in_a_line_each(folder: Path) -> None:
    content = [{"name": "node", "slice": 4, "box": box(1)}, {"slice": 5, "box": box(2)}]
    (folder / "prompts.json").write_text(json.dumps(content))
    command = [sys.executable, "-m", "medsam2", "segment", str(folder / "scan.nii.gz")]
    options = ["--prompts", str(folder / "prompts.json"), "--plane", "axial", "--window", "0", "255"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0
    head, first, second = done.stdout.splitlines()
    assert head.startswith(f"{folder}/scan_mask.nii.gz: 2 objects, ")
    assert first.startswith("  1 node: ")
    assert second.startswith("  2: ")
    assert done.stderr.splitlines() == [
        "medsam2: axial slices are those along the file's third axis, z: 0 to 9"
    ]
