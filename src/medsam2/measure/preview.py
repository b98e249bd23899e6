"""Draw a picture of a result: the prompted slice with its outline, and slices through the object."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from medsam2.imaging.replacing import replacing

OUTLINE = (255, 72, 0)
BOX = (64, 220, 90)
KEY_SIDE = 512  # pixels of the large picture's longer side
STRIP_SIDE = 168  # three of these and the margins are as wide as the large picture
STRIP_COUNT = 6
MARGIN = 4
MIN_STRIP_EXTENT = 16
STRIP_VIEW_FACTOR = 1.6  # side of the strip's pictures over the object's


def draw_preview(
    grey: Callable[[int], np.ndarray],
    mask: np.ndarray,
    key_slice: int,
    *,
    box_xyxy: tuple[float, float, float, float] | None = None,
    aspect: float = 1.0,
) -> Image.Image:
    """Draw the key slice with box and outline, and below it slices from the object's first to its last.

    Args:
        grey: Returns a slice by its index, uint8 (y, x); called only for the slices that are drawn.
        mask: Boolean (slice, y, x).
        key_slice: The slice that was prompted.
        box_xyxy: The box that was drawn, in pixels of the slice.
        aspect: Height of a pixel over its width.
    """
    key = _outlined(grey(key_slice), mask[key_slice], KEY_SIDE, aspect, box_xyxy)
    filled = np.flatnonzero(mask.any(axis=(1, 2)))
    first, last = (int(filled[0]), int(filled[-1])) if len(filled) else (key_slice, key_slice)
    chosen = np.unique(np.linspace(first, last, STRIP_COUNT).round().astype(int))
    window = _around(mask)
    strip = []
    for z in chosen.tolist():
        picture = _outlined(grey(z)[window], mask[z][window], STRIP_SIDE, aspect)
        drawing = ImageDraw.Draw(picture)
        drawing.text((4, 2), str(z), fill=(255, 255, 255), stroke_width=1, stroke_fill=(0, 0, 0))
        strip.append(picture)
    return _stacked(key, strip)


def write_preview(picture: Image.Image, path: Path) -> None:
    """Write a picture as PNG; an existing file is replaced at the end.

    Raises:
        InputError: The file cannot be written.
    """
    with replacing(path, ".png") as temporary:
        picture.save(temporary, format="PNG")


def outline_of(mask: np.ndarray, size_xy: tuple[int, int], width: int = 1) -> np.ndarray:
    """Find the pixels of a mask's outline in a picture of another size.

    The mask is scaled first, so that the line is equally thin in every picture.

    Args:
        mask: Boolean (y, x).
        size_xy: Width and height of the picture.
        width: Of the line, in pixels of the picture.

    Returns:
        Boolean (y, x) of the picture.
    """
    scaled = Image.fromarray(mask.astype(np.uint8) * 255).resize(size_xy, Image.Resampling.BILINEAR)
    inside = np.asarray(scaled) > 127
    return np.asarray(inside & ~ndimage.binary_erosion(inside, iterations=width, border_value=0))


def _around(mask: np.ndarray) -> tuple[slice, slice]:
    """Return the part of every slice that the strip shows: a square around the object."""
    height, width = mask.shape[1:]
    rows, columns = (np.flatnonzero(mask.any(axis=axes)) for axes in ((0, 2), (0, 1)))
    if not len(rows):
        return slice(0, height), slice(0, width)
    extents = (int(indices[-1] - indices[0]) for indices in (rows, columns))
    side = STRIP_VIEW_FACTOR * max(*extents, MIN_STRIP_EXTENT)
    center_y, center_x = (rows[0] + rows[-1]) / 2, (columns[0] + columns[-1]) / 2
    top, left = max(0, round(center_y - side / 2)), max(0, round(center_x - side / 2))
    return slice(top, min(height, round(top + side))), slice(left, min(width, round(left + side)))


def _outlined(
    plane: np.ndarray,
    mask: np.ndarray,
    side: int,
    aspect: float,
    box_xyxy: tuple[float, float, float, float] | None = None,
) -> Image.Image:
    """Enlarge a slice until its longer side has so many pixels, and draw the outline and the box."""
    height, width = plane.shape
    scale = side / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale * aspect)))
    large = np.asarray(Image.fromarray(plane).resize(size, Image.Resampling.BICUBIC))
    colours = np.repeat(large[:, :, None], 3, axis=2)
    colours[outline_of(mask, size)] = OUTLINE
    picture = Image.fromarray(colours)
    if box_xyxy is not None:
        x_min, y_min, x_max, y_max = box_xyxy
        y_scale = scale * aspect
        corners = [x_min * scale, y_min * y_scale, (x_max + 1) * scale - 1, (y_max + 1) * y_scale - 1]
        ImageDraw.Draw(picture).rectangle(corners, outline=BOX)
    return picture


def _stacked(key: Image.Image, strip: list[Image.Image]) -> Image.Image:
    """Put the strip below the key picture, in rows as wide as it."""
    columns = max(1, (max(key.width, KEY_SIDE) + MARGIN) // (STRIP_SIDE + MARGIN))
    rows = [strip[start : start + columns] for start in range(0, len(strip), columns)]
    heights = [max(picture.height for picture in row) + MARGIN for row in rows]
    width = max([key.width, *(sum(p.width + MARGIN for p in row) - MARGIN for row in rows)])
    sheet = Image.new("RGB", (width, key.height + sum(heights)))
    sheet.paste(key, ((width - key.width) // 2, 0))
    y = key.height + MARGIN
    for row, height in zip(rows, heights, strict=True):
        x = 0
        for picture in row:
            sheet.paste(picture, (x, y))
            x += picture.width + MARGIN
        y += height
    return sheet
