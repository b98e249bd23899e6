"""`medsam2 segment` on real files: masks on the input's grid, and one sentence for every bad input."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
import torch
from PIL import Image

from medsam2.cli.main import run

BOX = ("--box", "22", "18", "41", "37")
SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"


@pytest.fixture
def scan_path(tmp_path: Path) -> Path:
    """A bright ball in noise, 12 slices of 56 x 64 pixels, oblique in space, scaled integers."""
    z, y, x = np.mgrid[:12, :56, :64]
    ball = ((x - 31.5) / 10) ** 2 + ((y - 27.5) / 10) ** 2 + ((z - 5.5) / 4) ** 2 < 1
    grey = np.random.default_rng(0).normal(60, 8, ball.shape) + 120 * ball
    c, s = np.cos(0.3), np.sin(0.3)
    turned = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    affine = np.eye(4)
    affine[:3, :3] = turned @ np.diag([-0.8, 0.8, 2.5])
    affine[:3, 3] = 7, -3, 11
    image = nibabel.Nifti1Image(grey.T.astype(np.int16), affine)
    image.header["descrip"] = b"somebody's name"
    path = tmp_path / "scan.nii.gz"
    nibabel.save(image, path)
    return path


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run, expect exit code 2 and one line on standard error; return it."""
    assert run(["segment", *(str(argument) for argument in arguments)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    # A note about the window may come first; the refusal is the last line.
    lines = captured.err.strip().splitlines()
    assert all(line.startswith("medsam2: ") for line in lines)
    return lines[-1]


def test_a_box_gives_a_mask_on_exactly_the_input_grid(
    scan_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mask_path, picture = tmp_path / "out.nii.gz", tmp_path / "out.png"
    code = run(
        ["segment", str(scan_path), "--slice", "5", *BOX, "--window", "0", "255", "-o", str(mask_path),
         "--preview", str(picture), "--json"]
    )  # fmt: skip
    assert code == 0
    facts = json.loads(capsys.readouterr().out)
    scan, mask = nibabel.load(scan_path), nibabel.load(mask_path)
    assert mask.get_data_dtype() == np.uint8
    assert mask.shape == scan.shape
    for field in (
        "qform_code",
        "sform_code",
        "pixdim",
        "srow_x",
        "srow_y",
        "srow_z",
        "quatern_b",
        "qoffset_x",
    ):
        np.testing.assert_array_equal(mask.header[field], scan.header[field])
    assert mask.header["descrip"].item() == b""
    ours, theirs = SimpleITK.ReadImage(str(mask_path)), SimpleITK.ReadImage(str(scan_path))
    assert ours.GetDirection() == theirs.GetDirection()
    assert ours.GetOrigin() == theirs.GetOrigin()

    voxels = np.asarray(mask.dataobj)
    assert set(np.unique(voxels)) <= {0, 1}
    assert voxels[:, :, 5].sum() > 100
    assert facts["num_slices"] == np.count_nonzero(voxels.any(axis=(0, 1)))
    voxel_ml = abs(np.linalg.det(scan.affine[:3, :3])) / 1000
    assert facts["volume_ml"] == pytest.approx(voxels.sum() * voxel_ml)
    assert facts["longest_diameter_mm"] > 0
    with Image.open(picture) as opened:
        assert opened.format == "PNG"
        assert min(opened.size) >= 256


def test_a_plane_is_found_from_the_affine(scan_path: Path, tmp_path: Path) -> None:
    mask_path = tmp_path / "coronal.nii.gz"
    arguments = ["--plane", "coronal", "--slice", "27", "--box", "22", "2", "41", "9", "-o", str(mask_path)]
    assert run(["segment", str(scan_path), *arguments]) == 0
    voxels = np.asarray(nibabel.load(mask_path).dataobj)  # (x, y, z); coronal slices lie along y
    assert voxels[:, 27].any()
    assert voxels[22:42, 27, 2:10].sum() > 0.5 * voxels[:, 27].sum()


def test_points_and_a_mask_are_prompts_too(scan_path: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "points.nii.gz", tmp_path / "mask.nii.gz"
    points = ["--point", "31", "27", "1", "--point", "5", "5", "0"]
    assert run(["segment", str(scan_path), "--slice", "5", *points, "-o", str(first)]) == 0
    drawn = np.zeros((64, 56, 12), np.uint8)
    drawn[24:40, 20:36, 5] = 1
    nibabel.save(nibabel.Nifti1Image(drawn, nibabel.load(scan_path).affine), tmp_path / "drawn.nii.gz")
    given = ["--mask", str(tmp_path / "drawn.nii.gz")]
    assert run(["segment", str(scan_path), "--slice", "5", *given, "-o", str(second)]) == 0
    kept = np.asarray(nibabel.load(second).dataobj)[:, :, 5] > 0
    overlap = 2 * (kept & (drawn[:, :, 5] > 0)).sum() / (kept.sum() + (drawn[:, :, 5] > 0).sum())
    assert overlap > 0.95  # the drawn slice is taken as drawn, but for the network's resolution


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--slice", "12", *BOX), ("slice 12", "0 to 11")),
        (("--slice", "-1", *BOX), ("slice -1", "0 to 11")),
        (("--slice", "5", "--box", "10", "10", "64", "20"), ("64", "0 to 63", "0 to 55")),
        (("--slice", "5", "--box", "40", "10", "20", "20"), ("reversed", "40")),
        (("--slice", "5", "--box", "20", "20", "20", "20"), ("no area", "20")),
        (("--slice", "5", "--box", "nan", "1", "5", "5"), ("finite",)),
        (("--slice", "5", "--point", "70", "3", "1"), ("70", "0 to 63")),
        (("--slice", "5", "--point", "7", "3", "2"), ("1 (inside)", "0 (outside)", "2")),
        (("--slice", "5"), ("--box", "--point", "--mask")),
        (("--slice", "5", *BOX, "--window", "240", "-160"), ("240", "-160", "lower < upper")),
        (("--slice", "5", *BOX, "--window", "lungs"), ("lungs", "lung")),
        (("--slice", "5", *BOX, "--weights", "nothing"), ("nothing", "compact")),
        (("--slice", "5", *BOX, "--device", "tpu"), ("tpu", "cpu")),
        (("--slice", "five", *BOX), ("five",)),
    ],
)
def test_a_bad_prompt_or_option_is_named_with_what_would_do(
    scan_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    output = scan_path.with_name("never.nii.gz")
    sentence = refused(capsys, scan_path, *arguments, "-o", output)
    for word in words:
        assert word in sentence
    assert sorted(path.name for path in scan_path.parent.iterdir()) == ["scan.nii.gz"]


def test_an_image_that_cannot_be_used_is_named(
    scan_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = scan_path.read_bytes()
    (tmp_path / "text.nii.gz").write_text("not an image")
    (tmp_path / "truncated.nii.gz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "unknown.xyz").write_bytes(b"")
    for name, array in {
        "flat.nii": np.zeros((8, 8), np.float32),
        "constant.nii": np.full((8, 8, 4), 3, np.int16),
        "nan.nii": np.full((8, 8, 4), np.nan, np.float32),
    }.items():
        nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), tmp_path / name)
    before = sorted(tmp_path.iterdir())
    for name, word in {
        "text.nii.gz": "text.nii.gz",
        "truncated.nii.gz": "truncated",
        "unknown.xyz": ".nii.gz",
        "missing.nii.gz": "no such file",
        "flat.nii": "2",
        "constant.nii": "3",
        "nan.nii": "NaN",
    }.items():
        prompt = ("--slice", "1", "--box", "1", "1", "5", "5")
        assert word in refused(capsys, tmp_path / name, *prompt, "-o", tmp_path / "never.nii.gz")
    assert sorted(tmp_path.iterdir()) == before


def test_a_checkpoint_of_another_network_is_refused(
    scan_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"model": {"image_encoder.weight": torch.zeros(3)}}, tmp_path / "other.pt")
    sentence = refused(capsys, scan_path, "--slice", "5", *BOX, "--weights", tmp_path / "other.pt")
    assert "another network" in sentence


@pytest.mark.parametrize("output", ["no/folder/mask.nii.gz", "scan.nii.gz/mask.nii.gz", "mask.docx"])
def test_an_output_that_cannot_be_written_is_refused(
    scan_path: Path, capsys: pytest.CaptureFixture[str], output: str
) -> None:
    sentence = refused(capsys, scan_path, "--slice", "5", *BOX, "-o", scan_path.parent / output)
    assert output in sentence
    assert [path.name for path in scan_path.parent.iterdir()] == ["scan.nii.gz"]


def test_a_real_process_says_one_line_and_no_traceback(scan_path: Path) -> None:
    command = [sys.executable, "-m", "medsam2", "segment", str(scan_path), "--slice", "99", *BOX]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert "slice 99" in done.stderr


@pytest.mark.skipif(not SHARED.exists(), reason="the development scans (../shared/data) are not here")
def test_a_real_scan_of_the_abdomen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = SHARED / "mr_ts_abdomen" / "image.nii.gz"
    mask_path = tmp_path / "liver.nii.gz"
    arguments = ["--slice", "19", "--box", "11", "16", "61", "73", "-o", str(mask_path), "--json"]
    assert run(["segment", str(image), *arguments]) == 0
    facts = json.loads(capsys.readouterr().out)
    truth = np.asarray(nibabel.load(SHARED / "mr_ts_abdomen" / "mask.nii.gz").dataobj) == 5
    mask = np.asarray(nibabel.load(mask_path).dataobj) > 0
    key_dice = 2 * (mask & truth)[:, :, 19].sum() / (mask[:, :, 19].sum() + truth[:, :, 19].sum())
    assert key_dice > 0.4  # a liver that fills half of the slice is among the hardest for compact
    assert facts["num_slices"] > 5
