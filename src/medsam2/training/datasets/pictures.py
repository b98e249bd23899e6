"""Draw cases of a data set: the slice that shows most, outlined, one by one and on a sheet."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from medsam2.imaging.geometry import slices_along
from medsam2.imaging.grids import match_order
from medsam2.imaging.intensity import to_uint8
from medsam2.imaging.preview import draw_preview
from medsam2.training.datasets.contents import read_image, read_mask, whole_numbers, window_of
from medsam2.training.datasets.objects import slice_axis
from medsam2.training.datasets.scan import LabelledScan

TILE_SIDE = 192
COLUMNS = 6
MARGIN = 4
COLOURS = (
    (255, 72, 0), (64, 220, 90), (70, 160, 255), (255, 214, 0),
    (230, 90, 230), (0, 220, 220), (255, 150, 150), (170, 255, 120),
)  # fmt: skip


def draw_case(
    scan: LabelledScan, *, plane: str | None, window: str | tuple[float, float] | None
) -> tuple[Image.Image, Image.Image]:
    """Draw a scan whose mask lies on its grid.

    Args:
        scan: With at least one labelled voxel.
        plane: Of the slices; the file's third axis if not given.
        window: Of the intensities; chosen by modality if not given.

    Returns:
        The slice with most labelled pixels and slices through the labelled part, outlined as one; and a small
        picture of that slice in which each label has a colour.

    Raises:
        InputError: The scan cannot be read, or shows nothing.
    """
    image = read_image(scan)
    axis = slice_axis(image, plane, scan.row)
    labels = slices_along(whole_numbers(match_order(read_mask(scan), image)), axis)
    limits = window_of(scan, image, window)
    slices = slices_along(image.array, axis)
    inside = (labels != 0) & ~np.isin(labels, sorted(scan.ignored))
    key = int(inside.sum(axis=(1, 2)).argmax())
    x_mm, y_mm = (step for number, step in enumerate(image.spacing) if number != axis)
    aspect = y_mm / x_mm
    preview = draw_preview(lambda z: to_uint8(slices[z], limits), inside, key, aspect=aspect)
    return preview, _tile(to_uint8(slices[key], limits), np.where(inside[key], labels[key], 0), aspect)


def contact_sheet(tiles: Sequence[Image.Image]) -> Image.Image:
    """Put small pictures in rows, numbered from 1."""
    columns = max(1, min(COLUMNS, len(tiles)))
    rows = -(-len(tiles) // columns)
    step = TILE_SIDE + MARGIN
    sheet = Image.new("RGB", (columns * step - MARGIN, max(1, rows * step - MARGIN)))
    draw = ImageDraw.Draw(sheet)
    for number, tile in enumerate(tiles):
        x, y = number % columns * step, number // columns * step
        sheet.paste(tile, (x + (TILE_SIDE - tile.width) // 2, y + (TILE_SIDE - tile.height) // 2))
        draw.text((x + 4, y + 2), str(number + 1), (255, 255, 255), stroke_width=1, stroke_fill=(0, 0, 0))
    return sheet


def _tile(grey: np.ndarray, labels: np.ndarray, aspect: float) -> Image.Image:
    """Bring a slice to the size of a tile and outline each label there, so that lines stay thin."""
    height, width = grey.shape[0] * aspect, grey.shape[1]
    scale = TILE_SIDE / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    colours = np.array(Image.fromarray(grey).resize(size, Image.Resampling.BICUBIC).convert("RGB"))
    for number, value in enumerate(np.unique(labels[labels > 0])):
        mask = Image.fromarray((labels == value).astype(np.uint8) * 255)
        inside = np.asarray(mask.resize(size, Image.Resampling.BILINEAR)) > 127
        edge = inside & ~ndimage.binary_erosion(inside, border_value=0)
        colours[edge] = COLOURS[number % len(COLOURS)]
    return Image.fromarray(colours)
