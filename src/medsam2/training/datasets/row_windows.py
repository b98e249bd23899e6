"""Choose the windows of an image that a row of a table describes."""

from __future__ import annotations

import numpy as np

from medsam2.imaging.intensity import BACKGROUND_SHARE, DISPLAY_PEAK, PERCENTILES, Window
from medsam2.training.datasets.scan import TableRow

WIDER_HU = (-60.0, 120.0)
"""What the wider window adds to the two limits: more fat below, more contrast agent and bone above."""
NARROWER_SHARE = 0.7
"""Middle part of a window that the narrower one keeps."""
_SAMPLE_SIZE = 1_000_000


def row_window(row: TableRow, array: np.ndarray) -> Window:
    """Return the window of a row.

    That is the row's own, if there is one. Pictures and videos of 8 bits keep their greys, as inference keeps
    them. All else gets the percentiles 0.5 and 99.5 of the voxels that are not padding.

    Args:
        row: Of the table.
        array: (z, y, x), finite and not constant.
    """
    if row.window is not None:
        return Window(*row.window, source="caller")
    highest = float(array.max())
    if row.kind != "volume" and array.dtype == np.uint8 and highest >= DISPLAY_PEAK:
        return Window(0.0, 255.0, "display")
    lower, upper = (float(limit) for limit in np.percentile(_without_padding(array), PERCENTILES))
    if lower < upper:
        return Window(lower, upper, "percentiles")
    return Window(float(array.min()), highest, "range")


def more_windows(window: Window) -> tuple[Window, Window]:
    """Return a wider and a narrower window than one in Hounsfield units."""
    margin = (1 - NARROWER_SHARE) / 2 * (window.upper - window.lower)
    return (
        Window(window.lower + WIDER_HU[0], window.upper + WIDER_HU[1], window.source),
        Window(window.lower + margin, window.upper - margin, window.source),
    )


def _without_padding(array: np.ndarray) -> np.ndarray:
    """Return the voxels, or a million of them, without the minimum where a good part of the scan is that."""
    flat = array.ravel()
    if flat.size > _SAMPLE_SIZE:
        flat = flat[np.random.default_rng(0).integers(0, flat.size, _SAMPLE_SIZE)]
    inside = flat[flat != flat.min()]
    is_padded = inside.size <= (1 - BACKGROUND_SHARE) * flat.size
    return inside if is_padded and inside.size else flat
