"""Small pictures: of scans for a list of cases, of finished masks for a report."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image, ImageColor
from scipy import ndimage

from medsam2.annotation.stored import find_picture, keep_picture
from medsam2.errors import InputError
from medsam2.imaging.intensity import resolve_window, to_uint8
from medsam2.imaging.io import read
from medsam2.imaging.volume import Volume

SIDE = 160
"""Pixels of a thumbnail's longer side."""
REPORT_SIDE = 300
"""Pixels of the longer side of a picture with outlines."""
_LINE = 2  # pixels


def thumbnail(folder: Path, scan: str) -> bytes:
    """Return a scan's middle slice as PNG, from the store if it is there and not older than the scan.

    Args:
        folder: The project's.
        scan: Path of the scan below it.

    Raises:
        InputError: The scan cannot be read.
    """
    found = find_picture(folder, scan, newer_than=folder / scan)
    return found if found is not None else store_thumbnail(folder, scan, read(folder / scan))


def store_thumbnail(folder: Path, scan: str, volume: Volume) -> bytes:
    """Draw a scan's middle slice in true proportions and keep it.

    A scan that shows nothing gives a grey square.

    Args:
        folder: The project's.
        scan: Path of the scan below it.
        volume: What is in it.

    Returns:
        PNG.
    """
    index = volume.shape[0] // 2
    picture = _png(_enlarged(_grey(volume, index), volume, SIDE))
    keep_picture(folder, scan, picture)
    return picture


def outlined(volume: Volume, labels: np.ndarray, colours: Mapping[int, str]) -> bytes:
    """Draw the slice with most of the objects, each outlined in its colour.

    Args:
        volume: The scan.
        labels: (z, y, x), of the scan's shape.
        colours: Label -> #rrggbb.

    Returns:
        PNG.
    """
    index = int((labels > 0).sum(axis=(1, 2)).argmax())
    picture = _enlarged(_grey(volume, index), volume, REPORT_SIDE).convert("RGB")
    pixels = np.array(picture)
    for label in np.unique(labels[index][labels[index] > 0]):
        mask = Image.fromarray((labels[index] == label).astype(np.uint8) * 255)
        # Enlarged first and outlined then, so that the line is as thick on every scan.
        inside = np.asarray(mask.resize(picture.size, Image.Resampling.BILINEAR)) > 127
        edge = inside & ~ndimage.binary_erosion(inside, iterations=_LINE, border_value=0)
        pixels[edge] = ImageColor.getrgb(colours.get(int(label), "#e63c3c"))
    return _png(Image.fromarray(pixels))


def _grey(volume: Volume, index: int) -> np.ndarray:
    plane = volume.array[index]
    try:
        return to_uint8(plane, resolve_window(volume))
    except InputError:
        return np.full(plane.shape, 64, np.uint8)


def _enlarged(grey: np.ndarray, volume: Volume, side: int) -> Image.Image:
    x_mm, y_mm, _ = volume.spacing
    height, width = grey.shape[0] * y_mm, grey.shape[1] * x_mm
    scale = side / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return Image.fromarray(grey).resize(size, Image.Resampling.BICUBIC)


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()
