"""What is known of a video before a frame of it is decoded, and what has to decode its frames."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from medsam2.errors import InputError, UnsupportedFormat

MAX_FRAME_PIXELS = 2**26
"""Pixels of a frame, 8192 x 8192 say; a header that claims more is not believed."""
MAX_FRAMES = 2_000_000
"""Nine hours of sixty frames per second."""


@dataclass(frozen=True, kw_only=True, eq=False)
class VideoFacts:
    """Size, time and scale of a video."""

    shape: tuple[int, int, int, int]
    """(frame, y, x, 3), as frames are shown: after a rotation that the file asks for."""
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
        """Let go of the file."""
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
