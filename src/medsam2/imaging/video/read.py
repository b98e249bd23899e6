"""A video as a sequence of frames, each decoded when it is read."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np

from medsam2.errors import InputError, UnsupportedFormat, reading
from medsam2.imaging.video.container import open_container
from medsam2.imaging.video.dicom import open_cine
from medsam2.imaging.video.frames import FrameReader, VideoFacts, at_rate, open_folder

CACHE_BYTES = 64 * 2**20
"""Decoded frames that are kept, about 70 of 640 x 480 pixels."""

_Opener = Callable[[Path], tuple[VideoFacts, FrameReader]]
_OPENERS: Mapping[str, _Opener] = MappingProxyType(
    {
        **dict.fromkeys((".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".gif"), open_container),
        ".dcm": open_cine,
    }
)
_DICOM_PREAMBLE = 128
_DICOM_MAGIC = b"DICM"


class Video:
    """Frames of a file or folder; `video[k]` is frame k, uint8 (y, x, 3), red first.

    However long the video is, only `cache_bytes` of frames are kept in memory. Frames can be read in any
    order; one after the other, forwards or backwards, is fast. The arrays are read-only.

    Args:
        facts: Its size, times and scale.
        reader: Decodes its frames; closed with the video.
        cache_bytes: Frames kept, in bytes; two at least, since a frame is often seen with the one before.
    """

    def __init__(self, facts: VideoFacts, reader: FrameReader, *, cache_bytes: int = CACHE_BYTES) -> None:
        self.facts = facts
        self._reader = reader
        self._room = max(2, cache_bytes // int(np.prod(facts.shape[1:])))
        self._cache: OrderedDict[int, np.ndarray] = OrderedDict()

    def __enter__(self) -> Video:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return self.facts.shape[0]

    def __getitem__(self, index: int) -> np.ndarray:
        """Give one frame, uint8 (y, x, 3).

        Raises:
            IndexError: There is no such frame; they are numbered from 0.
            UnsupportedFormat: The frame is damaged.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"frame {index} is outside the video: it has frames 0 to {len(self) - 1}")
        if index in self._cache:
            self._cache.move_to_end(index)
            return self._cache[index]
        for number, frame in self._reader.frames_up_to(index, self._room):
            frame.setflags(write=False)
            self._cache[number] = frame
            self._cache.move_to_end(number)
            while len(self._cache) > self._room:
                self._cache.popitem(last=False)
        return self._cache[index]

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[index] for index in range(len(self)))

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(frame, y, x, 3)."""
        return self.facts.shape

    @property
    def times_s(self) -> np.ndarray:
        """Seconds from the first frame to each, (frame,) float64."""
        return self.facts.times_s

    @property
    def fps(self) -> float | None:
        """Frames per second, the mean where they are unevenly spaced; None where nothing says it."""
        return self.facts.fps

    @property
    def pixel_mm(self) -> tuple[float, float] | None:
        """Size of a pixel in mm, (x, y); None where nothing says it."""
        return self.facts.pixel_mm

    def close(self) -> None:
        """Close the file and free the frames."""
        self._cache.clear()
        self._reader.close()


def open_video(
    path: str | os.PathLike[str], *, fps: float | None = None, cache_bytes: int = CACHE_BYTES
) -> Video:
    """Open a video; its header is read and checked, its frames are decoded later.

    Args:
        path: A .mp4, .m4v, .mov, .avi, .mkv, .webm or .gif file, a multi-frame DICOM file, or a folder of PNG
            or JPEG frames, which are taken in natural order (frame2 before frame10).
        fps: Frames per second of a folder or a DICOM file that does not say it.
        cache_bytes: Decoded frames that are kept.

    Raises:
        InputError: There is no such file, or its frames are larger or more than is safe. Its subclass:
        UnsupportedFormat: It is no video, holds no frames, or is damaged or truncated.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    if fps is not None and not 0 < fps < float("inf"):
        raise InputError(f"frames per second are more than 0, not {fps:g}")
    facts, reader = _opener(path)(path)
    if fps is not None:
        if facts.fps is not None:
            reader.close()
            raise InputError(f"{path}: says itself that it has {facts.fps:g} frames per second, not {fps:g}")
        facts = at_rate(facts, fps)
    return Video(facts, reader, cache_bytes=cache_bytes)


def _opener(path: Path) -> _Opener:
    if path.is_dir():
        return open_folder
    opener = _OPENERS.get(path.suffix.lower())
    if opener is not None:
        return opener
    with reading(path), path.open("rb") as file:
        head = file.read(_DICOM_PREAMBLE + len(_DICOM_MAGIC))
    if head[_DICOM_PREAMBLE:] == _DICOM_MAGIC:  # DICOM files come with all endings and with none
        return open_cine
    raise UnsupportedFormat(
        f"{path}: this suffix is not read as a video; {', '.join(_OPENERS)} are, "
        "or a folder of PNG or JPEG frames"
    )
