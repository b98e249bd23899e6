"""A folder of PNG or JPEG pictures as a video."""

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from medsam2.errors import GeometryError, InputError, UnsupportedFormat
from medsam2.imaging.video_facts import FrameReader, VideoFacts, check_size, evenly

ASSUMED_FPS = 25.0
"""For the times of a video that does not say its rate."""

_SUFFIXES = (".png", ".jpg", ".jpeg")
_FORMATS = ("PNG", "JPEG")
_TURNS = "JPEG"  # cameras turn these; for the tags of a PNG the whole picture would have to be read
_DEEP_MODES = ("I", "F", "I;16", "I;16L", "I;16B")
_ORIENTATION_TAG = 0x0112
_TURNED_SIDEWAYS = (5, 6, 7, 8)  # Exif orientations that swap width and height


def open_folder(path: Path) -> tuple[VideoFacts, FrameReader]:
    """Open the pictures of a folder in natural order; files of other kinds are passed over.

    Raises:
        UnsupportedFormat: No picture is there, or one is damaged or deeper than 8 bits.
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
    """The same video at a rate in frames per second."""
    return dataclasses.replace(facts, fps=fps, times_s=evenly(facts.shape[0], fps))


def natural_order(path: Path) -> list[tuple[int, int, str]]:
    """Sort key of a file that takes the numbers in its name for numbers."""
    parts = re.split(r"(\d+)", path.name.lower())
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts if part]


class _FolderReader:
    """Reads each picture when it is asked for."""

    def __init__(self, files: list[Path]) -> None:
        self._files = files

    def frames_up_to(self, index: int, room: int) -> Iterator[tuple[int, np.ndarray]]:
        path = self._files[index]
        try:
            with Image.open(path, formats=_FORMATS) as picture:
                upright = ImageOps.exif_transpose(picture) if picture.format == _TURNS else picture
                yield index, np.array(upright.convert("RGB"))
        except (OSError, SyntaxError, ValueError) as error:
            raise UnsupportedFormat(f"{path}: the picture is damaged: {error}") from error

    def close(self) -> None:
        pass


def _size(path: Path) -> tuple[int, int]:
    """Width and height of a picture as it is shown, from its header."""
    try:
        with Image.open(path, formats=_FORMATS) as picture:
            if picture.mode in _DEEP_MODES:
                raise UnsupportedFormat(
                    f"{path}: has greys of more than 8 bits; frames have 8 bits a channel"
                )
            width, height = picture.size
            is_sideways = (
                picture.format == _TURNS and picture.getexif().get(_ORIENTATION_TAG) in _TURNED_SIDEWAYS
            )
    except InputError:
        raise
    except UnidentifiedImageError as error:
        raise UnsupportedFormat(f"{path}: not a PNG or JPEG picture") from error
    except Image.DecompressionBombError as error:
        raise InputError(f"{path}: has more pixels than are safe to unpack") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise UnsupportedFormat(f"{path}: the picture is damaged: {error}") from error
    return (height, width) if is_sideways else (width, height)
