"""Describe a video before a frame is decoded; read a folder of pictures as a video."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image, ImageOps

from medsam2.errors import GeometryError, InputError, UnsupportedFormat
from medsam2.imaging.formats.still import decoding

MAX_FRAME_PIXELS = 2**26
"""Pixels of a frame, 8192 x 8192 say; a header that claims more is not believed."""
MAX_FRAMES = 2_000_000
"""Nine hours of sixty frames per second."""


@dataclass(frozen=True, kw_only=True, eq=False)
class VideoFacts:
    """Size, time and scale of a video."""

    shape: tuple[int, int, int, int]
    """(frame, y, x, 3), as frames are shown: after the rotation in the file."""
    times_s: np.ndarray
    """(frame,) float64, seconds from the first frame to each."""
    fps: float | None
    """Frames per second, the mean where they are unevenly spaced; None where nothing says it."""
    pixel_mm: tuple[float, float] | None = None
    """(x, y) size of a pixel in mm; None where nothing says it."""


class FrameReader(Protocol):
    """Decodes frames of one file or folder."""

    def frames_up_to(self, index: int, room: int) -> Iterator[tuple[int, np.ndarray]]:
        """Decode a frame.

        Args:
            index: Of the frame.
            room: How many frames the caller can keep, at least 1.

        Yields:
            Number and uint8 (y, x, 3) of at most `room` frames that decoding passes, the last one `index`.
        """
        ...

    def close(self) -> None:
        """Close the file."""
        ...


def check_size(path: Path, num_frames: int, height: int, width: int) -> None:
    """Refuse a size that cannot be, before anything of that size is allocated.

    Raises:
        UnsupportedFormat: There is no frame, or no pixel in it.
        InputError: There are more frames or pixels than are safe to decode.
    """
    if num_frames < 1:
        raise UnsupportedFormat(f"{path}: holds no frames")
    if height < 1 or width < 1:
        raise UnsupportedFormat(f"{path}: its header gives no size of the frames; the file is damaged")
    if height * width > MAX_FRAME_PIXELS:
        raise InputError(
            f"{path}: its header claims frames of {width} x {height} pixels; at most {MAX_FRAME_PIXELS:,} "
            "pixels are decoded"
        )
    if num_frames > MAX_FRAMES:
        raise InputError(f"{path}: claims {num_frames:,} frames; at most {MAX_FRAMES:,} are read")


def evenly(num_frames: int, fps: float) -> np.ndarray:
    """Times in seconds of frames that follow each other at one rate, (frame,) float64."""
    return np.arange(num_frames) / fps


ASSUMED_FPS = 25.0
"""Rate of a video that does not say its own."""

_SUFFIXES = (".png", ".jpg", ".jpeg")
_FORMATS = ("PNG", "JPEG")
_TURNS = "JPEG"  # cameras turn these; for the tags of a PNG the whole picture would have to be read
_DEEP_MODES = ("I", "F", "I;16", "I;16L", "I;16B")
_ORIENTATION_TAG = 0x0112
_SIDEWAYS = (5, 6, 7, 8)  # Exif orientations that swap width and height


def open_folder(path: Path) -> tuple[VideoFacts, FrameReader]:
    """Open the pictures of a folder in natural order; files of other kinds are skipped.

    Raises:
        UnsupportedFormat: There is no picture, or one is damaged or deeper than 8 bits.
        GeometryError: The pictures differ in size.
        InputError: A picture is larger than is safe.
    """
    files = sorted(
        (file for file in path.iterdir() if file.suffix.lower() in _SUFFIXES and file.name[0] != "."),
        key=natural_order,
    )
    if not files:
        raise UnsupportedFormat(f"{path}: holds no frames; a folder of PNG or JPEG pictures is read")
    width, height = _size(files[0])
    check_size(path, len(files), height, width)
    for file in files[1:]:
        if (size := _size(file)) != (width, height):
            raise GeometryError(
                f"{file}: is {size[0]} x {size[1]} pixels, the first frame is {width} x {height}"
            )
    facts = VideoFacts(
        shape=(len(files), height, width, 3), times_s=evenly(len(files), ASSUMED_FPS), fps=None
    )
    return facts, _FolderReader(files)


def at_rate(facts: VideoFacts, fps: float) -> VideoFacts:
    """Return the same facts with another rate, in frames per second."""
    return dataclasses.replace(facts, fps=fps, times_s=evenly(facts.shape[0], fps))


def natural_order(path: Path) -> list[tuple[int, int, str]]:
    """Sort key of a file that takes the numbers in its name for numbers."""
    parts = re.split(r"(\d+)", path.name.lower())
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts if part]


class _FolderReader:
    """Decodes each picture when it is read."""

    def __init__(self, files: list[Path]) -> None:
        self._files = files

    def frames_up_to(self, index: int, room: int) -> Iterator[tuple[int, np.ndarray]]:
        path = self._files[index]
        with decoding(path, _FORMATS), Image.open(path, formats=_FORMATS) as picture:
            upright = ImageOps.exif_transpose(picture) if picture.format == _TURNS else picture
            frame = np.array(upright.convert("RGB"))
        yield index, frame

    def close(self) -> None:
        pass


def _size(path: Path) -> tuple[int, int]:
    """Width and height of a picture as it is shown, from its header."""
    with decoding(path, _FORMATS), Image.open(path, formats=_FORMATS) as picture:
        if picture.mode in _DEEP_MODES:
            raise UnsupportedFormat(f"{path}: has greys of more than 8 bits; frames have 8 bits a channel")
        width, height = picture.size
        is_sideways = picture.format == _TURNS and picture.getexif().get(_ORIENTATION_TAG) in _SIDEWAYS
    return (height, width) if is_sideways else (width, height)
