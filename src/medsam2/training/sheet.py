"""A sheet of clips with what was found in them: a row a clip, a column a slice."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

TILE_SIDE = 112
FOUND = (255, 72, 0)
TRUTH = (64, 220, 90)


def draw_clips(
    images: npt.NDArray[np.uint8], truth: npt.NDArray[np.bool_], found: npt.NDArray[np.bool_]
) -> npt.NDArray[np.uint8]:
    """Outline what was found (orange) over the truth (green) in clips, all `(clip, slice, y, x)`.

    Returns:
        `(y, x, 3)`.
    """
    rows = [
        np.concatenate([_tile(*slices) for slices in zip(*clip, strict=True)], axis=1)
        for clip in zip(images, truth, found, strict=True)
    ]
    return np.concatenate(rows, axis=0)


def _tile(
    image: npt.NDArray[np.uint8], truth: npt.NDArray[np.bool_], found: npt.NDArray[np.bool_]
) -> npt.NDArray[np.uint8]:
    size = (TILE_SIDE, TILE_SIDE)
    colours = np.array(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR).convert("RGB"))
    for mask, colour in ((truth, TRUTH), (found, FOUND)):
        large = Image.fromarray(mask.astype(np.uint8) * 255).resize(size, Image.Resampling.BILINEAR)
        inside = np.asarray(large) > 127
        colours[inside & ~ndimage.binary_erosion(inside)] = colour
    return colours
