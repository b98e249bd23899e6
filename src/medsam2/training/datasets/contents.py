"""Open a labelled scan: its image and its mask as volumes, and the windows that its row describes."""

from __future__ import annotations

import dataclasses
import math
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
from PIL import Image, UnidentifiedImageError

from medsam2.errors import GeometryError, InputError, MedSAM2Error, UnsupportedFormat
from medsam2.imaging import io
from medsam2.imaging.formats import still
from medsam2.imaging.formats.voxels import SPILL_BYTES, spill
from medsam2.imaging.intensity import (
    BACKGROUND_SHARE,
    DISPLAY_PEAK,
    PERCENTILES,
    Window,
    check_intensities,
    resolve_window,
)
from medsam2.imaging.volume import MODALITIES, Volume
from medsam2.training.datasets.scan import PICTURE_SUFFIXES, LabelledScan, TableRow, files_by_stem

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


LARGEST_ARRAY_BYTES = 8 * 2**30
"""An .npz or a video that claims more is refused before anything is allocated."""
_GRID = (("spacing", 3), ("origin", 3), ("direction", 9))
_IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
_INDEX_MODES = ("1", "L", "P", "I", "I;16", "I;16L", "I;16B", "F")


def read_image(scan: LabelledScan) -> Volume:
    """Read the image, (z, y, x); the modality is the data set's where the file names none.

    Raises:
        InputError: It cannot be read; the kinds and texts are those of `imaging.io.read`.
    """
    if scan.storage == "npz":
        volume = _read_npz(scan.image, "imgs")
    elif scan.storage == "frames":
        volume = _read_frames(scan, is_mask=False)
    else:
        volume = io.read(scan.image, frame=scan.channel)
    if scan.row is not None and scan.row.kind == "still" and volume.shape[0] > 1:
        raise InputError(f"{scan.image}: has {volume.shape[0]} slices; a still is one picture")
    if volume.modality is None and scan.modality in MODALITIES:
        volume = dataclasses.replace(volume, modality=scan.modality)
    return volume


def read_mask(scan: LabelledScan) -> Volume:
    """Read the mask as stored, (z, y, x); of a palette picture, the numbers and not the colours.

    Raises:
        InputError: It cannot be read; the kinds and texts are those of `imaging.io.read`.
    """
    if scan.storage == "npz":
        return _read_npz(scan.mask, "gts")
    if scan.storage == "frames":
        return _read_frames(scan, is_mask=True)
    if scan.mask.is_file() and scan.mask.name.lower().endswith(PICTURE_SUFFIXES):
        is_first_channel = scan.row is not None
        return Volume.from_array(_mask_picture(scan.mask, is_first_channel=is_first_channel)[np.newaxis])
    return io.read(scan.mask)


def whole_numbers(mask: np.ndarray) -> np.ndarray:
    """Return a mask as integers, those of a float mask if it has no others.

    Args:
        mask: (z, y, x), any real dtype.

    Raises:
        InputError: Values are fractions, negative, not finite or beyond 65535.
    """
    if mask.dtype == bool:
        return mask.view(np.uint8)
    lowest, highest = float(mask.min()), float(mask.max())
    if not (math.isfinite(lowest) and math.isfinite(highest)):
        raise InputError("the mask has values that are NaN or infinite; labels are whole numbers from 0")
    if lowest < 0 or highest > 65535:
        raise InputError(f"the mask has values from {lowest:g} to {highest:g}; labels are 0 to 65535")
    if mask.dtype.kind != "f":
        return mask
    whole = mask.astype(np.uint16)
    if any(not np.array_equal(ours, theirs) for ours, theirs in zip(whole, mask, strict=True)):
        fraction = next(float(v) for plane in mask for v in plane[plane != np.rint(plane)][:1])
        raise InputError(f"the mask has fractions, for example {fraction:g}; labels are whole numbers")
    return whole


def _read_npz(path: Path, key: str) -> Volume:
    """Read one array of an .npz after its header was checked, with the grid that the file has beside it."""
    try:
        with zipfile.ZipFile(path) as archive:
            _check_header(archive, key, path)
            usable = [name for name, length in _GRID if _holds_numbers(archive, name, length)]
        with np.load(path, allow_pickle=False) as content:
            array = content[key]
            grid = {name: tuple(float(value) for value in np.ravel(content[name])) for name in usable}
    except MedSAM2Error:
        raise
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UnsupportedFormat(f"{path}: the .npz is damaged: {error}") from error
    try:
        return Volume.from_array(
            array if array.ndim == 3 else array[np.newaxis],
            cast(tuple[float, float, float], grid.get("spacing", (1.0, 1.0, 1.0))),
            cast(tuple[float, float, float], grid.get("origin", (0.0, 0.0, 0.0))),
            grid.get("direction", _IDENTITY),
        )
    except GeometryError as error:
        raise GeometryError(f"{path}: {error}") from error


def _check_header(archive: zipfile.ZipFile, key: str, path: Path) -> None:
    if f"{key}.npy" not in archive.namelist():
        raise UnsupportedFormat(f"{path}: has no {key}; it has {', '.join(archive.namelist())}")
    shape, dtype = _header(archive, key)
    if len(shape) not in (2, 3) or dtype.kind not in "biuf":
        raise UnsupportedFormat(
            f"{path}: {key} is {dtype} of shape {shape}; numbers of shape (z, y, x) or (y, x) are read"
        )
    if math.prod(shape) * dtype.itemsize > LARGEST_ARRAY_BYTES:
        raise InputError(f"{path}: {key} of shape {shape} is larger than {LARGEST_ARRAY_BYTES} bytes")
    if math.prod(shape) * dtype.itemsize > archive.getinfo(f"{key}.npy").file_size:
        raise UnsupportedFormat(
            f"{path}: {key} claims the shape {shape}, the file holds less; it is truncated"
        )


def _holds_numbers(archive: zipfile.ZipFile, name: str, count: int) -> bool:
    if f"{name}.npy" not in archive.namelist():
        return False
    shape, dtype = _header(archive, name)
    return math.prod(shape) == count and dtype.kind in "iuf"


def _header(archive: zipfile.ZipFile, name: str) -> tuple[tuple[int, ...], np.dtype]:
    """Read an array's shape and dtype, not the array."""
    with archive.open(f"{name}.npy") as stream:
        version = np.lib.format.read_magic(stream)
        is_first = version[0] == 1
        reader = np.lib.format.read_array_header_1_0 if is_first else np.lib.format.read_array_header_2_0
        shape, _, dtype = reader(cast(BinaryIO, stream))
    return shape, dtype


def _read_frames(scan: LabelledScan, *, is_mask: bool) -> Volume:
    """Stack the frames that have a mask, in the order of their names."""
    images, masks = (files_by_stem(folder, PICTURE_SUFFIXES) for folder in (scan.image, scan.mask))
    folder, files = (scan.mask, masks) if is_mask else (scan.image, images)
    paths = [files[stem] for stem in images if stem in masks]
    if not paths:
        raise InputError(f"{folder}: no frame has a mask of the same name")
    size = _common_size(paths, folder)
    pictures = _pictures(paths, is_mask)
    first = next(pictures)
    shape = (len(paths), size[1], size[0])
    if math.prod(shape) * first.dtype.itemsize > SPILL_BYTES:
        return Volume.from_array(spill(_chain(first, pictures), first.dtype, shape))
    voxels = np.empty(shape, first.dtype)
    for target, picture in zip(voxels, _chain(first, pictures), strict=True):
        target[...] = picture
    return Volume.from_array(voxels)


def _chain(first: np.ndarray, rest: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    yield first
    for picture in rest:
        if picture.dtype != first.dtype:
            raise InputError(f"frames of one video are {first.dtype} and {picture.dtype}; one kind is read")
        yield picture


def _pictures(paths: list[Path], is_mask: bool) -> Iterator[np.ndarray]:
    return (_mask_picture(path) if is_mask else still.read(path).array[0] for path in paths)


def _common_size(paths: list[Path], folder: Path) -> tuple[int, int]:
    """Return the (width, height) of all frames, from their headers alone."""
    sizes = set()
    for path in paths:
        try:
            with Image.open(path) as picture:
                sizes.add(picture.size)
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:
            raise UnsupportedFormat(f"{path}: no picture that can be read") from error
    if len(sizes) > 1:
        listed = " and ".join(f"{width} x {height}" for width, height in sorted(sizes))
        raise GeometryError(f"{folder}: frames have different sizes, {listed} pixels")
    width, height = sizes.pop()
    if len(paths) * width * height > LARGEST_ARRAY_BYTES:
        raise InputError(f"{folder}: the video is larger than {LARGEST_ARRAY_BYTES} bytes")
    return width, height


def _mask_picture(path: Path, *, is_first_channel: bool = False) -> np.ndarray:
    """Read a mask's numbers, (y, x); colours count only where they are greys, or their first channel."""
    try:
        with Image.open(path) as picture:
            if picture.mode in _INDEX_MODES:
                values = np.array(picture)
                return values.astype(values.dtype.newbyteorder("="), copy=False)
            colours = np.array(picture.convert("RGB"))
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UnsupportedFormat(f"{path}: the mask is no picture that can be read") from error
    if not is_first_channel and not (colours == colours[..., :1]).all():
        raise UnsupportedFormat(
            f"{path}: the mask is in colour; a palette or greys give each object a number"
        )
    return np.ascontiguousarray(colours[..., 0])


def check_window(window: str | tuple[float, float] | None) -> None:
    """Refuse a window that no scan could be shown in, before any is opened.

    Raises:
        InputError: No preset has this name, or the limits are none.
    """
    if window is not None:
        # What a caller says does not depend on the scan, so any will do.
        resolve_window(Volume.from_array(np.zeros((1, 1, 1), np.uint8)), window)


def window_of(scan: LabelledScan, image: Volume, window: str | tuple[float, float] | None) -> Window:
    """Choose the intensities that become black and white, as inference does.

    The greys of an .npz and of a video are made for looking at already and stay. A row of a table may have a
    window of its own.

    Args:
        scan: Where the image is from.
        image: The scan.
        window: A preset's name, limits, or None for a choice by modality.

    Raises:
        InputError: No preset has this name, the limits are none, or the image is constant or not finite.
    """
    check_intensities(image.array)
    if window is None and scan.row is not None:
        return row_window(scan.row, image.array)
    if window is None and scan.storage != "volume" and image.array.dtype == np.uint8:
        return Window(0.0, 255.0, "display")
    return resolve_window(image, window)
