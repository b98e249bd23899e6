"""Write the results of a video frame by frame: overlay, masks, areas."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import numpy as np
from PIL import Image

from medsam2.errors import InputError
from medsam2.imaging.formats import nifti
from medsam2.imaging.labels import bounding_box
from medsam2.imaging.video.frames import ASSUMED_FPS
from medsam2.imaging.video.read import Video
from medsam2.imaging.volume import Volume

OVERLAY, MASK, AREAS, STACK, PICTURES = "overlay.mp4", "mask.mp4", "areas.csv", "masks.nii.gz", "masks"
MAX_STACK = 32_767
"""Frames of a NIfTI-1 file along one axis."""
_COLUMNS = ("frame", "seconds", "object", "area_px", "area_mm2", "score")
_RAW_STACK = ".stack"


class VideoOutputs:
    """Files in a folder that grow with each frame; they are complete after a block without an error.

    Args:
        folder: An empty folder.
        video: Whose frames are drawn on.
        pictures: Also write a PNG of each frame's labels; its palette gives the labels their colours.
        stack: Also write the labels as one NIfTI volume, frames along its third axis.

    Raises:
        InputError: The video has more frames than a stack can hold.
    """

    def __init__(self, folder: Path, video: Video, *, pictures: bool, stack: bool) -> None:
        check_stack(len(video), stack)
        self._folder = folder
        self._video = video
        self._pictures = pictures
        self._areas: dict[int, np.ndarray] = {}
        self._open = ExitStack()
        shape_yx = video.shape[1:3]
        fps = video.fps or ASSUMED_FPS
        with ExitStack() as opened:
            self._overlay = opened.enter_context(VideoWriter(folder / OVERLAY, shape_yx, fps))
            self._mask = opened.enter_context(VideoWriter(folder / MASK, shape_yx, fps))
            table = opened.enter_context((folder / AREAS).open("w", newline="", encoding="utf-8"))
            self._table = csv.writer(table, lineterminator="\n")
            self._table.writerow(_COLUMNS)
            self._stack = opened.enter_context((folder / _RAW_STACK).open("wb")) if stack else None
            self._open = opened.pop_all()
        if pictures:
            (folder / PICTURES).mkdir()

    def __enter__(self) -> VideoOutputs:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.__exit__(kind, error, trace)
        if self._stack is not None and error is None:
            self._write_stack()

    @property
    def areas_px(self) -> Mapping[int, np.ndarray]:
        """Object number to its area in each frame, (frame,) int64."""
        return self._areas

    def write(self, index: int, labels: np.ndarray, scores: Mapping[int, float]) -> None:
        """Write a frame.

        Args:
            index: Its number; frames come in order.
            labels: uint8 (y, x), 0 outside.
            scores: Of each object that was tracked in the frame.
        """
        time_s = float(self._video.times_s[index])
        self._overlay.write(draw_overlay(self._video[index], labels), time_s)
        self._mask.write(colour_table()[labels], time_s)
        counts = np.bincount(labels.ravel(), minlength=256)
        for number, score in scores.items():
            area = int(counts[number])
            self._areas.setdefault(number, np.zeros(len(self._video), np.int64))[index] = area
            self._table.writerow((index, f"{time_s:.6g}", number, area, self._area_mm2(area), f"{score:.4f}"))
        if self._pictures:
            picture = Image.fromarray(labels)
            picture.putpalette(colour_table().ravel().tolist())
            picture.save(self._folder / PICTURES / f"frame_{index:06d}.png", format="PNG")
        if self._stack is not None:
            self._stack.write(np.ascontiguousarray(labels).data)

    def _area_mm2(self, area_px: int) -> str:
        if self._video.pixel_mm is None:
            return ""
        width_mm, height_mm = self._video.pixel_mm
        return f"{area_px * width_mm * height_mm:.6g}"

    def _write_stack(self) -> None:
        raw = self._folder / _RAW_STACK
        labels = np.memmap(raw, np.uint8, mode="r", shape=self._video.shape[:3])
        width_mm, height_mm = self._video.pixel_mm or (1.0, 1.0)
        nifti.write(Volume.from_array(labels, (width_mm, height_mm, 1.0)), self._folder / STACK)
        raw.unlink()


def check_stack(num_frames: int, wanted: bool) -> None:
    """Refuse a stack that NIfTI cannot hold, before the work begins.

    Raises:
        InputError: There are too many frames.
    """
    if wanted and num_frames > MAX_STACK:
        raise InputError(f"a NIfTI file holds at most {MAX_STACK:,} frames, the video has {num_frames:,}")


COLOURS = (
    (255, 72, 0),
    (0, 170, 255),
    (90, 220, 60),
    (255, 200, 0),
    (200, 90, 255),
    (0, 220, 190),
    (255, 120, 170),
    (170, 140, 90),
)
"""Red, green, blue of objects 1, 2, ...; they are used again after the last."""
_OPACITY = 0.3
_PIXELS_PER_LINE = 480  # shorter side of a frame for which a line of one pixel is thick enough


def colour_table() -> np.ndarray:
    """Colours of the labels 0 to 255, uint8 (256, 3); 0 is black."""
    table = np.zeros((256, 3), np.uint8)
    table[1:] = np.array(COLOURS, np.uint8)[np.arange(255) % len(COLOURS)]
    return table


def draw_overlay(frame: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Draw objects on a copy of a frame.

    Args:
        frame: uint8 (y, x, 3).
        labels: uint8 (y, x), 0 outside.

    Returns:
        uint8 (y, x, 3).
    """
    drawn = frame.copy()
    box = bounding_box(labels > 0)
    if box is None:
        return drawn
    here, part = labels[box], drawn[box]
    colours = colour_table()[here]
    mixed = np.round((1 - _OPACITY) * part + _OPACITY * colours).astype(np.uint8)
    part[here > 0] = mixed[here > 0]
    line = _outline(here, 1 + min(labels.shape) // _PIXELS_PER_LINE)
    part[line] = colours[line]
    return drawn


def _outline(labels: np.ndarray, width: int) -> np.ndarray:
    """Pixels of objects that lie within `width` pixels of another label, along x or y."""
    padded = np.pad(labels, width)
    height, length = labels.shape
    is_edge = np.zeros(labels.shape, bool)
    for shift in range(1, width + 1):
        for dy, dx in ((-shift, 0), (shift, 0), (0, -shift), (0, shift)):
            top, left = width + dy, width + dx
            is_edge |= padded[top : top + height, left : left + length] != labels
    return is_edge & (labels > 0)


_SUFFIX_FORMAT = "mp4"
# Divides the frame durations of 15, 24, 25, 30, 60 and 30000/1001 a second evenly; MPEG-4 counts to 65535.
_TICKS_PER_S = 60_000
_ENCODERS = (
    ("libx264", {"crf": "18", "preset": "veryfast"}),
    ("mpeg4", {"qscale": "3"}),  # part of every FFmpeg
)


class VideoWriter:
    """Writes frames at their times: H.264 where this FFmpeg encodes it, else MPEG-4.

    Args:
        path: A new .mp4 file.
        shape_yx: Size of the frames; an odd side is written with its last row or column twice.
        fps: Frames per second, for players that do not look at times.
    """

    def __init__(self, path: Path, shape_yx: tuple[int, int], fps: float) -> None:
        import av

        name, options = next((name, options) for name, options in _ENCODERS if name in av.codecs_available)
        self._padding = [(0, side % 2) for side in shape_yx]
        # Python opens the file, since FFmpeg does not report whether the last bytes reached the disk.
        self._file = path.open("xb")
        self._container = av.open(self._file, "w", format=_SUFFIX_FORMAT)
        rate = Fraction(fps).limit_denominator(1001)
        stream = self._container.add_stream(name, rate=rate, options=options)
        assert isinstance(stream, av.VideoStream)
        self._stream = stream
        height, width = (side + after for side, (_, after) in zip(shape_yx, self._padding, strict=True))
        self._stream.height, self._stream.width = height, width
        self._stream.pix_fmt = "yuv420p"
        self._stream.codec_context.time_base = Fraction(1, _TICKS_PER_S)
        self._last_tick = -1

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._container.mux(self._stream.encode(None))
        finally:
            with self._file:
                self._container.close()

    def write(self, frame: np.ndarray, time_s: float) -> None:
        """Encode the next frame.

        Args:
            frame: uint8 (y, x, 3).
            time_s: When it is shown, later than the one before.
        """
        from av import VideoFrame

        padded = np.pad(frame, [*self._padding, (0, 0)], mode="edge")
        encoded = VideoFrame.from_ndarray(np.ascontiguousarray(padded), format="rgb24")
        self._last_tick = max(self._last_tick + 1, round(time_s * _TICKS_PER_S))
        encoded.pts, encoded.time_base = self._last_tick, Fraction(1, _TICKS_PER_S)
        self._container.mux(self._stream.encode(encoded.reformat(format="yuv420p")))
