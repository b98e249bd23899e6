"""`medsam2 video` on real files: masks of every frame, and one sentence for every bad input."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from medsam2.cli.main import run
from medsam2.imaging.video.read import open_video

pytest.importorskip("av", reason="needs the extra video")

BOX = ("--box", "28", "8", "72", "52")
SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "robustness" / "video"


@pytest.fixture
def disc_path(write_video: Callable[..., Path], disc_frames: list[np.ndarray], tmp_path: Path) -> Path:
    """The disc shrinks and begins to grow again, 12 frames."""
    return write_video(tmp_path / "disc.mp4", disc_frames[:12])


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run, expect exit code 2 and one line on standard error; return it."""
    assert run(["video", *(str(argument) for argument in arguments)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.strip().splitlines()
    assert line.startswith("medsam2: ")
    return line


def test_a_box_on_a_frame_gives_masks_of_all(
    disc_path: Path, disc_frames: list[np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    arguments = ["-o", str(output), "--frame", "1", *BOX, "--png", "--nifti", "--cardiac", "--json"]
    assert run(["video", str(disc_path), *arguments]) == 0
    captured = capsys.readouterr()
    assert captured.err == "", "no bar without a terminal"
    facts = json.loads(captured.out)
    assert facts["frames"] == facts["frames_with_object"] == 12
    assert facts["frames_per_second"] == pytest.approx(12 / facts["seconds"], rel=0.05)
    assert sorted(path.name for path in output.iterdir()) == [
        "area_curve.png", "areas.csv", "mask.mp4", "masks", "masks.nii.gz", "overlay.mp4"
    ]  # fmt: skip
    assert sorted(path.name for path in tmp_path.iterdir()) == ["disc.mp4", "out"]
    stack = np.asarray(nibabel.load(output / "masks.nii.gz").dataobj).T
    truth = np.stack([frame[..., 0] == 200 for frame in disc_frames[:12]])
    dice = 2 * (truth & (stack > 0)).sum() / (truth.sum() + (stack > 0).sum())
    assert dice > 0.9
    rows = list(csv.DictReader((output / "areas.csv").read_text().splitlines()))
    assert [int(row["area_px"]) for row in rows] == [int(mask.sum()) for mask in stack]
    assert [float(row["seconds"]) for row in rows] == pytest.approx([k / 20 for k in range(12)])
    with Image.open(output / "masks" / "frame_000007.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture), stack[7])
    for name in ("overlay.mp4", "mask.mp4"):
        with open_video(output / name) as written:
            assert written.shape == (12, 64, 96, 3)
    (beat,) = facts["beats"]
    first, last = beat["end_diastole_frame"], beat["end_systole_frame"]
    assert first <= 1
    assert last == pytest.approx(10, abs=1)
    change = 1 - stack[last].sum() / stack[first].sum()
    assert facts["fractional_area_change"] == pytest.approx(change, abs=1e-4)
    assert change == pytest.approx(1 - truth[10].sum() / truth[0].sum(), abs=0.05)


def test_a_mask_is_a_prompt_and_sentences_are_for_people(
    disc_path: Path, disc_frames: list[np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn = (disc_frames[11][..., 0] == 200).astype(np.uint8)
    Image.fromarray(drawn * 255).save(tmp_path / "drawn.png")
    output = tmp_path / "out"
    prompt = ["--frame", "11", "--mask", str(tmp_path / "drawn.png")]
    assert run(["video", str(disc_path), "-o", str(output), *prompt, "--png"]) == 0
    assert "of 12 frames have the structure" in capsys.readouterr().out
    with Image.open(output / "masks" / "frame_000011.png") as picture:
        found = np.asarray(picture) > 0
    assert 2 * (found & (drawn > 0)).sum() / (found.sum() + drawn.sum()) > 0.95


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--frame", "12", *BOX), ("frame 12", "0 to 11")),
        (("--frame", "-1", *BOX), ("frame -1", "0 to 11")),
        (("--frame", "5"), ("--box", "--point", "--mask")),
        (("--frame", "5", "--box", "10", "10", "96", "20"), ("96", "0 to 95", "0 to 63")),
        (("--frame", "5", "--point", "3", "70", "1"), ("70", "0 to 63")),
        (("--frame", "1", "--frame", "3", *BOX), ("2 frames", "1 boxes")),
        (("--frame", "1", *BOX, *BOX), ("one box, not 2",)),
        (("--frame", "1", *BOX, "--fps", "30"), ("20 frames per second, not 30",)),
        (("--frame", "1", *BOX, "--weights", "nothing"), ("nothing", "compact")),
        (BOX, ("--frame",)),
    ],
)
def test_a_bad_prompt_or_option_is_named_with_what_would_do(
    disc_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    sentence = refused(capsys, disc_path, *arguments, "-o", disc_path.with_name("never"))
    for word in words:
        assert word in sentence
    assert [path.name for path in disc_path.parent.iterdir()] == ["disc.mp4"]


def test_bad_files_and_folders_are_named(
    disc_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = disc_path.read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.mp4").write_text("not a video")
    (tmp_path / "notes.txt").write_text("not a video")
    (tmp_path / "empty").mkdir()
    (tmp_path / "mask.png").write_bytes(b"")
    Image.fromarray(np.ones((5, 5), np.uint8)).save(tmp_path / "small.png")
    never = ("-o", tmp_path / "never", "--frame", "0", *BOX)
    for name, words in {
        "cut.mp4": "truncated",
        "text.mp4": "not a video",
        "notes.txt": "this suffix",
        "empty": "holds no frames",
        "absent.mp4": "no such file",
    }.items():
        sentence = refused(capsys, tmp_path / name, *never)
        assert words in sentence
        assert str(tmp_path / name) in sentence
    assert "is a file" in refused(capsys, disc_path, "-o", tmp_path / "notes.txt", "--frame", "0", *BOX)
    assert "is not empty" in refused(capsys, disc_path, "-o", tmp_path, "--frame", "0", *BOX)
    small = ("--mask", tmp_path / "small.png")
    assert "(y, x) = (64, 96)" in refused(capsys, disc_path, "-o", tmp_path / "never", "--frame", "0", *small)
    assert not (tmp_path / "never").exists()


def test_a_frame_that_fails_late_leaves_nothing(
    disc_frames: list[np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    for k in range(3):
        Image.fromarray(disc_frames[k]).save(folder / f"{k}.png")
    whole = (folder / "2.png").read_bytes()
    (folder / "2.png").write_bytes(whole[: len(whole) // 2])
    assert run(["video", str(folder), "-o", str(tmp_path / "out"), "--frame", "0", *BOX]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert "times are those of 25 a second (--fps)" in lines[0]
    assert "2.png: the picture is damaged" in lines[1]
    assert [path.name for path in tmp_path.iterdir()] == ["frames"]


def test_a_missing_library_is_named_with_its_extra(disc_path: Path, tmp_path: Path, run_without) -> None:
    result = run_without("av", "video", disc_path, "-o", tmp_path / "never", "--frame", "0", *BOX)
    assert result.returncode == 1
    assert "pip install 'medsam2[video]'" in result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", ["us_cine_30f.mp4", "us_cine_30f.avi"])
def test_the_shared_cine_gives_a_mask_of_each_frame(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    if not SHARED.is_dir():
        pytest.skip("the development videos (../shared/data/robustness) are not here")
    ventricle = ["--frame", "0", "--box", "152", "64", "200", "132"]
    assert run(["video", str(SHARED / name), "-o", str(tmp_path / "out"), *ventricle, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["frames"] == 30
    lines = (tmp_path / "out" / "areas.csv").read_text().splitlines()
    areas = [int(row["area_px"]) for row in csv.DictReader(lines)]
    assert len(areas) == 30
    assert 1500 < areas[0] < 48 * 68
