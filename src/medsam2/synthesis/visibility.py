"""Which labelled objects are worth finding: in one piece, large enough, and visible."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from medsam2.synthesis.fields import Floats

SMALLEST_AREA_PX = 6
"""An object must cover this many pixels of some slice to be worth a prompt."""
BAND_PX = 3
"""Width of the bands on both sides of a boundary whose greys are compared."""
SIDES_SEEN = 3
"""Of the four sides of an object, so many must stand out; the others may touch something alike."""


def tidy_labels(grey: Floats, labels: npt.NDArray[np.uint8], least: float) -> npt.NDArray[np.uint8]:
    """Keep the largest piece of each object, drop objects that are tiny or cannot be seen, renumber.

    Args:
        grey: Array (z, y, x) without noise.
        labels: Array (z, y, x).
        least: Difference of grey between an object and its surroundings that can be seen.
    """
    tidy = np.zeros_like(labels)
    count = 0
    windows = ndimage.find_objects(labels)
    for index in np.flatnonzero(np.bincount(labels.ravel()))[1:].tolist():
        window = windows[index - 1]
        pieces, num_pieces = ndimage.label(labels[window] == index, structure=np.ones((3, 3, 3)))
        sizes = np.bincount(pieces.ravel())
        sizes[0] = 0
        mask = pieces == int(sizes.argmax()) if num_pieces > 1 else pieces > 0
        areas = mask.sum(axis=(1, 2))
        key = int(areas.argmax())
        if areas[key] < SMALLEST_AREA_PX or not _is_visible(grey, window, mask, key, least):
            continue
        count += 1
        tidy[window][mask] = count
    return tidy


def _is_visible(
    grey: Floats, window: tuple[slice, ...], mask: npt.NDArray[np.bool_], key: int, least: float
) -> bool:
    """Tell whether an object stands out on its largest slice on enough of its four sides."""
    slices, rows, columns = window
    top, left = max(rows.start - BAND_PX, 0), max(columns.start - BAND_PX, 0)
    patch = grey[slices.start + key, top : rows.stop + BAND_PX, left : columns.stop + BAND_PX]
    inside = np.zeros(patch.shape, dtype=bool)
    inside[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left] = mask[key]
    outer = ndimage.binary_dilation(inside, iterations=BAND_PX) & ~inside
    inner = inside & ~ndimage.binary_erosion(inside, iterations=BAND_PX)
    inside_y, inside_x = np.nonzero(inside)
    down = np.arange(patch.shape[0])[:, None] - float(inside_y.mean())
    right = np.arange(patch.shape[1]) - float(inside_x.mean())
    quarter = 2 * (down > right) + (down > -right)
    seen = 0
    for side in range(4):
        beyond = patch[outer & (quarter == side)]
        # A rim may average with what is inside of it to the grey outside; either may give it away.
        for part in (inner, inside):
            within = patch[part & (quarter == side)]
            if within.size and beyond.size and abs(float(within.mean() - beyond.mean())) > least:
                seen += 1
                break
    return seen >= SIDES_SEEN
