"""Read PNG, JPEG and TIFF pictures as volumes of one slice; a TIFF stack becomes one of several slices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from medsam2.errors import InputError, UnsupportedFormat
from medsam2.imaging.formats.voxels import gathered
from medsam2.imaging.volume import Volume, check_claim

_FORMATS = ("PNG", "JPEG", "TIFF")
_PHOTOS = ("JPEG", "MPO")
# Pillow's modes with one number per pixel; all others are colours, palettes or have an alpha channel.
_GREY_MODES = ("L", "I", "F", "I;16", "I;16L", "I;16B")


def read(path: Path) -> Volume:
    """Read a picture as viewers show it, (1, y, x), or all of a TIFF stack, (z, y, x), with a spacing of 1.

    A photograph is turned upright, as its camera says. Colours become greys by ITU-R 601-2 luma, which does
    not change greys that are stored as RGB; transparency is ignored. Greys of 16 and 32 bits stay.

    Raises:
        InputError: The file cannot be read, or holds several pictures that are no stack.
        UnsupportedFormat: It is no picture in these formats, or is damaged, truncated or too large.
    """
    # From a stream: by its name Pillow maps a TIFF into memory, and garbles one that lies on its side.
    with decoding(path, _FORMATS), path.open("rb") as file, Image.open(file, formats=_FORMATS) as picture:
        # Phones put a second picture, of depths, behind a photograph; viewers show the first.
        num_pictures = 1 if picture.format in _PHOTOS else getattr(picture, "n_frames", 1)
        if num_pictures > 1 and picture.format != "TIFF":
            raise InputError(f"{path}: holds {num_pictures} pictures; a still is one, a stack is a TIFF")
        first = _greys(picture)
        if num_pictures == 1:
            return Volume.from_array(first[np.newaxis])
        shape = (num_pictures, *first.shape)
        check_claim(path, shape, num_pictures * first.nbytes, 0, 0)
        pages = _pages(picture, num_pictures, first, path)
        return Volume.from_array(gathered(pages, first.dtype, shape))


@contextmanager
def decoding(path: Path, formats: Sequence[str]) -> Iterator[None]:
    """Turn Pillow's errors over a picture into ours.

    Args:
        path: Of the picture.
        formats: Those that are read.

    Raises:
        InputError: It has too many pixels. Its subclass:
        UnsupportedFormat: It is in another format, or is damaged.
    """
    try:
        yield
    except InputError:
        raise
    except UnidentifiedImageError as error:
        names = f"{', '.join(formats[:-1])} or {formats[-1]}"
        raise UnsupportedFormat(f"{path}: not a {names} picture") from error
    except Image.DecompressionBombError as error:
        raise InputError(f"{path}: has more pixels than are safe to unpack") from error
    except (EOFError, OSError, SyntaxError, ValueError) as error:
        raise UnsupportedFormat(f"{path}: the picture is damaged: {error}") from error


def _pages(picture: Image.Image, count: int, first: np.ndarray, path: Path) -> Iterator[np.ndarray]:
    """The pictures of a stack, which are alike."""
    for index in range(count):
        picture.seek(index)
        page = _greys(picture)
        if (page.shape, page.dtype) != (first.shape, first.dtype):
            raise InputError(
                f"{path}: picture {index} of its {count} is {page.shape[1]} x {page.shape[0]} {page.dtype}, "
                f"the first {first.shape[1]} x {first.shape[0]} {first.dtype}; in a stack all are alike"
            )
        yield page


def _greys(picture: Image.Image) -> np.ndarray:
    """The picture that is open, upright, (y, x)."""
    picture.load()  # turns a TIFF upright and removes the tag, so that it is not turned a second time
    upright = ImageOps.exif_transpose(picture)
    greys = np.array(upright if upright.mode in _GREY_MODES else upright.convert("L"))
    return greys.astype(greys.dtype.newbyteorder("="), copy=False)
