"""Frames of MP4, MOV, AVI, Matroska and GIF: the same in any order, and one sentence for bad files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medsam2.errors import InputError, UnsupportedFormat
from medsam2.imaging.video import frames as video_facts
from medsam2.imaging.video.read import open_video

av = pytest.importorskip("av", reason="needs the extra video")

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "robustness" / "video"
Writer = Callable[..., Path]

# B-frames, several key frames, AVI with its missing time stamps, and a file with one key frame.
FORMATS = [
    ("a.mp4", {"options": {"g": "12", "bf": "2"}}),
    ("a.mov", {"codec": "mpeg4", "options": {"g": "7"}}),
    ("a.mkv", {"options": {"g": "12"}}),
    ("b.mp4", {"options": {"g": "400"}}),
    ("a.avi", {"codec": "mpeg4", "options": {"bf": "2", "g": "10"}}),
    ("b.avi", {"options": {"g": "10", "bf": "2"}}),
    ("c.avi", {"codec": "mjpeg", "pix_fmt": "yuvj420p"}),
]


def _bar(frame: np.ndarray) -> int:
    """The number of a frame as it was drawn into it."""
    return round(int((frame[1, :, 0] > 128).sum()) / 2) - 1


@pytest.mark.parametrize(("name", "how"), FORMATS)
@pytest.mark.parametrize("cache_bytes", [1, 2**24])
def test_a_frame_is_the_same_however_it_is_reached(
    write_video: Writer,
    disc_frames: list[np.ndarray],
    tmp_path: Path,
    name: str,
    how: dict[str, object],
    cache_bytes: int,
) -> None:
    path = write_video(tmp_path / name, disc_frames, **how)
    with av.open(str(path)) as container:
        straight = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    jumps = np.random.default_rng(0).permutation(40).tolist()
    with open_video(path, cache_bytes=cache_bytes) as video:
        assert video.shape == (40, 64, 96, 3)
        assert len(video) == 40
        assert video.fps == 20
        np.testing.assert_allclose(video.times_s, np.arange(40) / 20, atol=1e-3)
        for k in (*range(40), *reversed(range(40)), *jumps):
            np.testing.assert_array_equal(video[k], straight[k])
            assert _bar(video[k]) == k
            assert np.abs(video[k].astype(int) - disc_frames[k]).mean() < 8, "colours are those encoded"


def test_only_frames_on_the_way_are_kept(
    write_video: Writer, disc_frames: list[np.ndarray], tmp_path: Path
) -> None:
    path = write_video(tmp_path / "a.mp4", disc_frames)
    with open_video(path, cache_bytes=5 * disc_frames[0].nbytes) as video:
        ours = video[30]
        assert video[26] is video[26]
        assert video[30] is ours, "five frames are held, 26 to 30"
        assert not ours.flags.writeable
        _ = video[20]
        assert video[30] is not ours
        for index in (-1, 40):
            with pytest.raises(IndexError, match="frames 0 to 39"):
                _ = video[index]


def test_a_gif_is_what_pillow_reads(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    palette = rng.integers(0, 256, (16, 3)).astype(np.uint8)
    frames = [Image.fromarray(palette[rng.integers(0, 16, (20, 30))]).quantize(16) for _ in range(7)]
    durations = [40, 100, 40, 250, 40, 40, 60]  # ms
    path = tmp_path / "a.gif"
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=durations, loop=0)
    with Image.open(path) as picture, open_video(path) as video:
        assert picture.n_frames == len(video) == 7
        for k in (3, 0, 6, 1, 5, 2, 4):
            picture.seek(k)
            np.testing.assert_array_equal(video[k], np.asarray(picture.convert("RGB")))
        np.testing.assert_allclose(video.times_s, np.cumsum([0, *durations[:-1]]) / 1000)


def test_frame_numbers_are_exact_where_the_rate_varies(
    write_video: Writer, disc_frames: list[np.ndarray], tmp_path: Path
) -> None:
    gaps = np.random.default_rng(2).integers(8, 400, 39)
    stamps = [0, *np.cumsum(gaps).tolist()]
    path = write_video(tmp_path / "a.mkv", disc_frames, stamps=stamps, options={"g": "9"})
    with open_video(path, cache_bytes=1) as video:
        assert len(video) == 40
        np.testing.assert_allclose(video.times_s, np.array(stamps) / 1000, atol=2e-3)
        assert [_bar(video[k]) for k in (39, 17, 18, 2, 30)] == [39, 17, 18, 2, 30]


@pytest.mark.parametrize(("degrees", "turns"), [(-90, -1), (90, 1), (180, 2)])
def test_a_turned_video_is_shown_upright(
    write_video: Writer, disc_frames: list[np.ndarray], tmp_path: Path, degrees: int, turns: int
) -> None:
    path = write_video(tmp_path / "a.mp4", disc_frames[:3], rotation=degrees)
    with av.open(str(path)) as container:
        stored = next(container.decode(video=0)).to_ndarray(format="rgb24")
    if degrees == -90:  # the matrix of a telephone held upright: x to y, y to minus x, in 16.16 fixed point
        track = path.read_bytes().split(b"tkhd", 1)[1][40:56]
        assert np.frombuffer(track, ">i4").tolist() == [0, 65536, 0, -65536]
    with open_video(path) as video:
        np.testing.assert_array_equal(video[0], np.rot90(stored, turns))
        assert video.shape[1:3] == ((64, 96) if degrees == 180 else (96, 64))


def test_the_shared_cine_is_the_same_heart_in_both_files() -> None:
    if not SHARED.is_dir():
        pytest.skip("the development videos (../shared/data/robustness) are not here")
    with open_video(SHARED / "us_cine_30f.mp4") as one, open_video(SHARED / "us_cine_30f.avi") as other:
        assert one.shape == other.shape == (30, 240, 320, 3)
        assert one.fps == other.fps == 15
        for k in (29, 0, 14, 13):
            assert np.abs(one[k].astype(int) - other[k]).mean() < 4
        apart = np.abs(one[0].astype(int) - other[14]).mean()
        assert apart > 2 * np.abs(one[0].astype(int) - other[0]).mean(), "and frames are not mixed up"


def test_what_is_no_video_is_said_in_one_sentence(
    write_video: Writer, disc_frames: list[np.ndarray], tmp_path: Path
) -> None:
    whole = write_video(tmp_path / "whole.mp4", disc_frames).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    for name, keep in (("cut.avi", 0.6), ("cut.mkv", 0.6), ("cut.gif", 0.9)):
        how = {"codec": "gif", "pix_fmt": "rgb8"} if name.endswith("gif") else {"options": {"g": "5"}}
        content = write_video(tmp_path / f"whole-{name}", disc_frames, **how).read_bytes()
        (tmp_path / name).write_bytes(content[: int(keep * len(content))])
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "text.avi").write_text("not a video")
    (tmp_path / "notes.txt").write_text("not a video")
    Image.fromarray(disc_frames[0]).save(tmp_path / "still.png")
    (tmp_path / "still.mp4").write_bytes((tmp_path / "still.png").read_bytes())
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:1,\n{tmp_path / 'whole.mp4'}\n#EXT-X-ENDLIST\n"
    (tmp_path / "playlist.mp4").write_text(playlist)
    _write_sound(tmp_path / "sound.mp4")
    expected = {
        "cut.mp4": "damaged or truncated",
        "cut.avi": "truncated",
        "cut.mkv": "truncated",
        "cut.gif": "truncated",
        "empty.mp4": "not a video",
        "text.avi": "not a video",
        "still.mp4": "not a video",
        "playlist.mp4": "not a video",
        "sound.mp4": "holds no video, only audio",
        "notes.txt": "this suffix is not read as a video; .mp4",
        "still.png": "this suffix is not read as a video; .mp4",
    }
    for name, words in expected.items():
        with pytest.raises(UnsupportedFormat) as caught:
            open_video(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)
        assert words in str(caught.value)
    with pytest.raises(InputError, match="no such file or folder"):
        open_video(tmp_path / "absent.mp4")


def test_a_damaged_frame_is_named_when_it_is_reached(
    write_video: Writer, disc_frames: list[np.ndarray], tmp_path: Path
) -> None:
    path = write_video(tmp_path / "a.mp4", disc_frames, options={"g": "1", "bf": "0"})
    content = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        packet = [(packet.pos, packet.size) for packet in container.demux(video=0)][20]
    content[packet[0] : packet[0] + packet[1]] = bytes(packet[1])
    path.write_bytes(content)
    with open_video(path) as video:
        assert _bar(video[19]) == 19
        with pytest.raises(UnsupportedFormat, match="frame 2"):
            _ = video[20]


@pytest.mark.parametrize(("cap", "words"), [("MAX_FRAME_PIXELS", "96 x 64"), ("MAX_FRAMES", "frames")])
def test_a_size_beyond_reason_is_refused_before_decoding(
    write_video: Writer,
    disc_frames: list[np.ndarray],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cap: str,
    words: str,
) -> None:
    path = write_video(tmp_path / "a.mp4", disc_frames)
    monkeypatch.setattr(video_facts, cap, 30)
    with pytest.raises(InputError, match=words):
        open_video(path)


def test_a_rate_is_not_overruled(write_video: Writer, disc_frames: list[np.ndarray], tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", disc_frames)
    with pytest.raises(InputError, match="20 frames per second, not 30"):
        open_video(path, fps=30)
    with pytest.raises(InputError, match="more than 0, not -1"):
        open_video(path, fps=-1)


def _write_sound(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
