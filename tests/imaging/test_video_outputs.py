"""What is written of a video: read back by other readers, complete or absent."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from medsam2.errors import InputError
from medsam2.imaging.replacing import filling
from medsam2.imaging.video import outputs as video_writer
from medsam2.imaging.video.outputs import COLOURS, MAX_STACK, VideoOutputs, check_stack, draw_overlay
from medsam2.imaging.video.read import open_video

av = pytest.importorskip("av", reason="needs the extra video")


def _labels(frame: np.ndarray) -> np.ndarray:
    labels = (frame[..., 0] == 200).astype(np.uint8)
    labels[40:50, 80:90] = 7
    return labels


def test_every_file_holds_every_frame(
    write_video: Callable[..., Path], disc_frames: list[np.ndarray], tmp_path: Path
) -> None:
    stamps = [0, *np.cumsum(np.random.default_rng(0).integers(20, 90, 39)).tolist()]
    source = write_video(tmp_path / "a.mkv", disc_frames, stamps=stamps)
    folder = tmp_path / "out"
    folder.mkdir()
    masks = [_labels(frame) for frame in disc_frames]
    with open_video(source) as video, VideoOutputs(folder, video, pictures=True, stack=True) as outputs:
        for k, labels in enumerate(masks):
            outputs.write(k, labels, {1: 0.9, 7: 0.25})
    assert sorted(path.name for path in folder.iterdir()) == [
        "areas.csv", "mask.mp4", "masks", "masks.nii.gz", "overlay.mp4"
    ]  # fmt: skip
    for name in ("overlay.mp4", "mask.mp4"):
        with av.open(str(folder / name)) as container:
            frames = list(container.decode(video=0))
            assert container.streams.video[0].codec_context.name == "h264"
        np.testing.assert_allclose([frame.time for frame in frames], np.array(stamps) / 1000, atol=2e-3)
        inside = frames[20].to_ndarray(format="rgb24")[masks[20] == 7].mean(axis=0)
        outside = frames[20].to_ndarray(format="rgb24")[58:, 5:20].mean(axis=(0, 1))
        if name == "mask.mp4":
            np.testing.assert_allclose(inside, COLOURS[6], atol=40)
            np.testing.assert_allclose(outside, 0, atol=6)
        else:
            np.testing.assert_allclose(outside, (16, 24, 80), atol=8)
            assert inside[0] > 80, "tinted"
    for k in (0, 17, 39):
        with Image.open(folder / "masks" / f"frame_{k:06d}.png") as picture:
            np.testing.assert_array_equal(np.asarray(picture), masks[k])
            assert tuple(picture.getpalette()[3:6]) == COLOURS[0]
    stack = nibabel.load(folder / "masks.nii.gz")
    np.testing.assert_array_equal(np.asarray(stack.dataobj).T, np.stack(masks))
    rows = list(csv.DictReader((folder / "areas.csv").read_text().splitlines()))
    assert [(row["frame"], row["object"]) for row in rows[:3]] == [("0", "1"), ("0", "7"), ("1", "1")]
    assert [int(row["area_px"]) for row in rows[::2]] == [(labels == 1).sum() for labels in masks]
    assert rows[5]["area_mm2"] == ""
    assert float(rows[5]["seconds"]) == pytest.approx(stamps[2] / 1000, abs=2e-3)
    assert float(rows[5]["score"]) == 0.25
    np.testing.assert_array_equal(outputs.areas_px[7], 100)


def test_mpeg4_and_odd_sizes_are_written_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video_writer, "_ENCODERS", video_writer._ENCODERS[1:])
    rng = np.random.default_rng(0)
    frames = [np.full((33, 45, 3), rng.integers(0, 256, 3), np.uint8) for _ in range(5)]
    with video_writer.VideoWriter(tmp_path / "a.mp4", (33, 45), 30000 / 1001) as writer:
        for k, frame in enumerate(frames):
            writer.write(frame, k * 1001 / 30000)
    with open_video(tmp_path / "a.mp4") as video:
        assert video.shape == (5, 34, 46, 3)
        assert video.fps == pytest.approx(30000 / 1001, rel=1e-3)
        for k, frame in enumerate(frames):
            assert np.abs(video[k][:33, :45].astype(int) - frame).mean() < 6


def test_an_overlay_tints_and_outlines_and_leaves_the_rest() -> None:
    frame = np.full((30, 40, 3), 100, np.uint8)
    labels = np.zeros((30, 40), np.uint8)
    labels[5:15, 8:20], labels[5:15, 20:30] = 1, 2
    drawn = draw_overlay(frame, labels)
    assert (frame == 100).all()
    assert (drawn[labels == 0] == 100).all()
    assert tuple(drawn[5, 12]) == tuple(drawn[9, 19]) == COLOURS[0]
    assert tuple(drawn[9, 20]) == tuple(drawn[14, 25]) == COLOURS[1]
    np.testing.assert_array_equal(drawn[9, 12], np.round(0.7 * 100 + 0.3 * np.array(COLOURS[0])))
    np.testing.assert_array_equal(draw_overlay(frame, np.zeros((30, 40), np.uint8)), frame)


def test_a_folder_is_filled_whole_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be written: No such file"):
        _fail_half_way(tmp_path / "new")
    assert list(tmp_path.iterdir()) == []
    with filling(tmp_path / "new") as folder:
        (folder / "whole").write_text("whole")
    assert (tmp_path / "new" / "whole").read_text() == "whole"
    with pytest.raises(InputError, match="is not empty"), filling(tmp_path / "new"):
        pass
    with pytest.raises(InputError, match="is a file"), filling(tmp_path / "new" / "whole"):
        pass
    with pytest.raises(InputError, match="there is no folder"), filling(tmp_path / "no" / "where"):
        pass
    (tmp_path / "empty").mkdir()
    with filling(tmp_path / "empty") as folder:
        (folder / "whole").touch()
    assert (tmp_path / "empty" / "whole").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "new"]


def test_a_stack_has_the_limits_of_its_format() -> None:
    check_stack(MAX_STACK, True)
    check_stack(MAX_STACK + 1, False)
    with pytest.raises(InputError, match="at most 32,767 frames, the video has 32,768"):
        check_stack(MAX_STACK + 1, True)


def _fail_half_way(folder: Path) -> None:
    with filling(folder) as temporary:
        (temporary / "half").write_text("half")
        (folder / "absent").rename(temporary / "other")
