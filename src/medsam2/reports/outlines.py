"""Small pictures of labelled slices, and the sheet that shows many of them at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

TILE_SIDE = 192
_COLUMNS = 6
_MARGIN = 4
_COLOURS = (
    (255, 72, 0), (64, 220, 90), (70, 160, 255), (255, 214, 0),
    (230, 90, 230), (0, 220, 220), (255, 150, 150), (170, 255, 120),
)  # fmt: skip


def draw_tile(grey: np.ndarray, labels: np.ndarray, aspect: float) -> Image.Image:
    """Scale a slice to the size of a tile and outline each label there, so that lines stay thin.

    Args:
        grey: uint8, (y, x).
        labels: Whole numbers of the same shape; 0 is not outlined.
        aspect: Height of a pixel, in widths of a pixel.
    """
    height, width = grey.shape[0] * aspect, grey.shape[1]
    scale = TILE_SIDE / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    colours = np.array(Image.fromarray(grey).resize(size, Image.Resampling.BICUBIC).convert("RGB"))
    for number, value in enumerate(np.unique(labels[labels > 0])):
        mask = Image.fromarray((labels == value).astype(np.uint8) * 255)
        inside = np.asarray(mask.resize(size, Image.Resampling.BILINEAR)) > 127
        edge = inside & ~ndimage.binary_erosion(inside, border_value=0)
        colours[edge] = _COLOURS[number % len(_COLOURS)]
    return Image.fromarray(colours)


def contact_sheet(tiles: Sequence[Image.Image]) -> Image.Image:
    """Put tiles in rows, numbered from 1."""
    columns = max(1, min(_COLUMNS, len(tiles)))
    rows = -(-len(tiles) // columns)
    step = TILE_SIDE + _MARGIN
    sheet = Image.new("RGB", (columns * step - _MARGIN, max(1, rows * step - _MARGIN)))
    draw = ImageDraw.Draw(sheet)
    for number, tile in enumerate(tiles):
        x, y = number % columns * step, number // columns * step
        sheet.paste(tile, (x + (TILE_SIDE - tile.width) // 2, y + (TILE_SIDE - tile.height) // 2))
        draw.text((x + 4, y + 2), str(number + 1), (255, 255, 255), stroke_width=1, stroke_fill=(0, 0, 0))
    return sheet
