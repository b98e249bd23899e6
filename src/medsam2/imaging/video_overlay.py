"""Draw labels on a frame: a translucent colour and an outline for each object."""

import numpy as np

from medsam2.imaging.labels import bounding_box

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
"""Red, green, blue of objects 1, 2, ...; they begin again after the last."""
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
