"""A folder of pictures as a video: natural order, upright, one size, and one sentence for what is not so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medsam2.errors import GeometryError, UnsupportedFormat
from medsam2.imaging.video.read import open_video


def _write(folder: Path, numbers: list[int]) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    frames = []
    for number in numbers:
        frames.append(rng.integers(0, 256, (12, 20, 3)).astype(np.uint8))
        Image.fromarray(frames[-1]).save(folder / f"frame{number}.png")
    return frames


def test_pictures_come_in_natural_order_and_as_they_are(tmp_path: Path) -> None:
    numbers = [10, 2, 1, 33, 100]
    frames = dict(zip(numbers, _write(tmp_path, numbers), strict=True))
    (tmp_path / "notes.txt").write_text("passed over")
    (tmp_path / "._frame1.png").write_text("passed over as well")
    with open_video(tmp_path, fps=50) as video:
        assert video.shape == (5, 12, 20, 3)
        assert video.fps == 50
        np.testing.assert_allclose(video.times_s, [0, 0.02, 0.04, 0.06, 0.08])
        assert video.pixel_mm is None
        for k, number in enumerate(sorted(numbers)):
            np.testing.assert_array_equal(video[k], frames[number])


def test_a_folder_has_no_rate_of_its_own(tmp_path: Path) -> None:
    _write(tmp_path, [0, 1])
    with open_video(tmp_path) as video:
        assert video.fps is None
        np.testing.assert_allclose(video.times_s, [0, 0.04])  # 25 a second are assumed


def test_greys_palettes_and_turned_photographs_become_upright_colour(tmp_path: Path) -> None:
    grey = np.arange(240, dtype=np.uint8).reshape(12, 20)
    Image.fromarray(grey).save(tmp_path / "0.png")
    Image.fromarray(grey).convert("P").save(tmp_path / "1.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn clockwise
    Image.fromarray(np.rot90(grey).copy()).save(tmp_path / "2.jpg", exif=exif, quality=100)
    with open_video(tmp_path) as video:
        np.testing.assert_array_equal(video[0], np.repeat(grey[:, :, None], 3, axis=2))
        np.testing.assert_array_equal(video[1], video[0])
        assert np.abs(video[2].astype(int) - video[0]).max() < 12


def test_bad_folders_are_refused_by_name(tmp_path: Path) -> None:
    empty, mixed, deep, damaged = (tmp_path / name for name in ("empty", "mixed", "deep", "damaged"))
    for folder in (empty, mixed, deep, damaged):
        folder.mkdir()
    _write(mixed, [0, 1])
    Image.fromarray(np.zeros((12, 21, 3), np.uint8)).save(mixed / "frame2.png")
    Image.fromarray(np.zeros((12, 20), np.uint16)).save(deep / "a.png")
    _write(damaged, [0, 1])
    whole = (damaged / "frame1.png").read_bytes()
    (damaged / "frame1.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UnsupportedFormat, match="holds no frames"):
        open_video(empty)
    with pytest.raises(GeometryError, match=r"frame2\.png: is 21 x 12 pixels, the first frame is 20 x 12"):
        open_video(mixed)
    with pytest.raises(UnsupportedFormat, match="more than 8 bits"):
        open_video(deep)
    with open_video(damaged) as video, pytest.raises(UnsupportedFormat, match=r"frame1\.png: .* damaged"):
        _ = video[1]
    (damaged / "frame0.png").write_text("not a picture")
    with pytest.raises(UnsupportedFormat, match=r"frame0\.png: not a PNG"):
        open_video(damaged)
