"""Read PNG, JPEG and TIFF pictures as volumes of one slice."""

from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from medsam2.errors import InputError, UnsupportedFormat
from medsam2.imaging.volume import Volume

_FORMATS = ("PNG", "JPEG", "TIFF")
# Pillow's modes with one number per pixel; all others are colours, palettes or have an alpha channel.
_GREY_MODES = ("L", "I", "F", "I;16", "I;16L", "I;16B")


def read(path: Path) -> Volume:
    """Read a picture as stored, (1, y, x), with a spacing of 1.

    Colours become greys by ITU-R 601-2 luma, which leaves grey written as RGB as it is; transparency is
    ignored. Greys of 16 and 32 bits stay.

    Raises:
        InputError: The file cannot be read, or holds several pictures.
        UnsupportedFormat: It is no picture in these formats, or is damaged or truncated.
    """
    try:
        with Image.open(path, formats=_FORMATS) as picture:
            num_pictures = getattr(picture, "n_frames", 1)
            if num_pictures > 1:
                raise InputError(f"{path}: holds {num_pictures} pictures; a still is one")
            greys = np.array(picture if picture.mode in _GREY_MODES else picture.convert("L"))
    except InputError:
        raise
    except UnidentifiedImageError as error:
        raise UnsupportedFormat(f"{path}: not a PNG, JPEG or TIFF picture") from error
    except Image.DecompressionBombError as error:
        raise InputError(f"{path}: has more pixels than are safe to unpack") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise UnsupportedFormat(f"{path}: the picture is damaged: {error}") from error
    return Volume.from_array(greys.astype(greys.dtype.newbyteorder("="), copy=False)[np.newaxis])
