"""Read the .npz files of the MedSAM family: `imgs`, and with them `gts`, `spacing`, `boxes`, `recist`."""

from __future__ import annotations

import math
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy
from PIL import Image

from medsam2.errors import GeometryError, InputError, UnsupportedFormat, in_a_line
from medsam2.imaging.formats.voxels import LARGEST_RATIO, Layout, read_frame
from medsam2.imaging.volume import Volume, check_claim

IMAGE_KEY = "imgs"
_LABELS_KEY, _SPACING_KEY, _BOXES_KEY, _RECIST_KEY = "gts", "spacing", "boxes", "recist"
_SUFFIX = ".npy"
_NUM_CHANNELS = 3
_BOX_LENGTHS = (4, 6)
_LARGEST_DIM = 1 << 48
_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
_PICKLE_RULE = "holds Python objects (a pickle), which can run code and are never read"


@dataclass(frozen=True, eq=False, kw_only=True)
class Annotations:
    """What an .npz file says beside its image; None where it says nothing."""

    labels: np.ndarray | None
    """`gts`: (z, y, x), integers or booleans, of the image's shape; 0 is background."""
    recist: np.ndarray | None
    """`recist`: (z, y, x), integers or booleans, of the image's shape; not 0 on the lines a reader drew."""
    boxes: np.ndarray | None
    """`boxes`: (n, 6), x_min, y_min, z_min, x_max, y_max, z_max of each object; (n, 4) in a still."""
    spacing_mm: tuple[float, float, float] | None
    """`spacing`: distance between voxel centres, (x, y, z) in mm, as SimpleITK gives it."""
    skipped: tuple[str, ...]
    """Names of what is there as pickled Python objects and was left alone."""


def read(path: Path) -> Volume:
    """Read `imgs`, (z, y, x) or one picture (y, x), with `spacing` (x, y, z) in mm where it is there.

    A picture in colour, (y, x, 3) of uint8, becomes grey as in other stills. The file has no origin and no
    direction: the first voxel is at the origin, x runs to the left, y to the back, z up.

    Raises:
        InputError: The file cannot be read, has no `imgs`, or these are no volume.
        UnsupportedFormat: It is no .npz file, is damaged or too large, or `imgs` are Python objects.
        GeometryError: Its spacing is impossible.
    """
    with _opened(path) as archive:
        if f"{IMAGE_KEY}{_SUFFIX}" not in archive.namelist():
            names = in_a_line(", ".join(_keys(archive))) or "nothing"
            raise InputError(f"{path}: has no array {IMAGE_KEY!r}; it holds {names}")
        voxels = _as_slices(_read_array(archive, IMAGE_KEY, path), path)
        spacing = _spacing(archive, path)
    try:
        return Volume.from_array(voxels, spacing or (1.0, 1.0, 1.0))
    except InputError as error:
        raise type(error)(f"{path}: {error}") from error


def read_annotations(path: Path) -> Annotations:
    """Read what an .npz file says beside its image, for prompts and for training.

    What is pickled, as the challenge files' `boxes` and `clicks` are, is left out with a warning.

    Raises:
        InputError: The file cannot be read, or an array does not fit the image.
        UnsupportedFormat: It is no .npz file, is damaged or too large.
        GeometryError: Its spacing is impossible.
    """
    with _opened(path) as archive:
        there = _keys(archive)
        skipped = tuple(key for key in there if _header(archive, key, path)[2].hasobject)
        if skipped:
            warnings.warn(f"{path}: {', '.join(skipped)} {_PICKLE_RULE}; left out", stacklevel=2)
        arrays = {
            key: _read_array(archive, key, path)
            for key in (_LABELS_KEY, _RECIST_KEY, _BOXES_KEY)
            if key in there and key not in skipped
        }
        spacing = None if _SPACING_KEY in skipped else _spacing(archive, path)
        shape = _header(archive, IMAGE_KEY, path)[0] if IMAGE_KEY in there else None
    for key in (_LABELS_KEY, _RECIST_KEY):
        if key in arrays:
            arrays[key] = _checked_mask(arrays[key], key, shape, path)
    return Annotations(
        labels=arrays.get(_LABELS_KEY),
        recist=arrays.get(_RECIST_KEY),
        boxes=_checked_boxes(arrays[_BOXES_KEY], path) if _BOXES_KEY in arrays else None,
        spacing_mm=spacing,
        skipped=skipped,
    )


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except EOFError as error:
        raise UnsupportedFormat(f"{path}: ends before its arrays do; it is truncated") from error
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError) as error:
        raise UnsupportedFormat(f"{path}: cannot be read as .npz: {in_a_line(error)}") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error


def _keys(archive: zipfile.ZipFile) -> list[str]:
    return [name.removesuffix(_SUFFIX) for name in archive.namelist() if name.endswith(_SUFFIX)]


def _parse(stream: IO[bytes], key: str, path: Path) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Read shape, whether x is the slowest axis, and dtype; the stream then stands at the first number."""
    try:
        version = npy.read_magic(stream)
        if version not in _HEADERS:
            raise ValueError(f"version {version} of the format is for tables")
        shape, is_fortran, dtype = _HEADERS[version](stream)
        if not all(type(size) is int and 0 <= size < _LARGEST_DIM for size in shape):  # True is an int too
            raise ValueError(f"no array has the shape {shape}")
        if dtype.itemsize == 0 or dtype.subdtype is not None:
            raise ValueError(f"no number is of the type {dtype}")
        return shape, is_fortran, dtype
    except (
        ValueError,
        TypeError,
        LookupError,
        SyntaxError,
        tokenize.TokenError,
    ) as error:  # parsed as Python
        raise UnsupportedFormat(f"{path}: the array {key!r} is damaged: {in_a_line(error)}") from error


def _header(archive: zipfile.ZipFile, key: str, path: Path) -> tuple[tuple[int, ...], bool, np.dtype]:
    with archive.open(f"{key}{_SUFFIX}") as stream:
        return _parse(stream, key, path)


def _read_array(archive: zipfile.ZipFile, key: str, path: Path) -> np.ndarray:
    """Read one array, its claims checked before anything is allocated."""
    entry = archive.getinfo(f"{key}{_SUFFIX}")
    with archive.open(entry) as stream:
        shape, is_fortran, dtype = _parse(stream, key, path)
        if dtype.hasobject:
            raise UnsupportedFormat(f"{path}: {key!r} {_PICKLE_RULE}; save it as an array of numbers")
        offset = stream.tell()
        num_bytes = math.prod(shape) * dtype.itemsize
        check_claim(
            path,
            shape,
            num_bytes,
            offset + num_bytes,
            min(entry.file_size, entry.compress_size * LARGEST_RATIO),
        )
        if is_fortran or len(shape) != 3 or num_bytes == 0:
            flat = np.frombuffer(stream.read(num_bytes), dtype)
            return flat.reshape(shape, order="F" if is_fortran else "C").astype(dtype.newbyteorder("="))
        num_z, num_y, num_x = shape
        return read_frame(stream, Layout((num_z, num_y, num_x), 1, dtype, offset), 0)


def _as_slices(array: np.ndarray, path: Path) -> np.ndarray:
    """Return an image as (z, y, x)."""
    if array.ndim == 3 and array.shape[-1] == _NUM_CHANNELS:
        if array.dtype != np.uint8:
            raise InputError(
                f"{path}: {IMAGE_KEY!r} of shape {array.shape} is a picture in colour, of {array.dtype}; "
                "pictures are of uint8"
            )
        return np.array(Image.fromarray(array, "RGB").convert("L"))[np.newaxis]
    if array.ndim == 4 and array.shape[-1] == _NUM_CHANNELS:
        raise InputError(
            f"{path}: {IMAGE_KEY!r} of shape {array.shape} are {len(array)} pictures in colour; a volume has "
            "one number per voxel, (z, y, x)"
        )
    return array[np.newaxis] if array.ndim == 2 else array


def _spacing(archive: zipfile.ZipFile, path: Path) -> tuple[float, float, float] | None:
    if _SPACING_KEY not in _keys(archive):
        return None
    shape, _, dtype = _header(archive, _SPACING_KEY, path)
    what = f"{path}: {_SPACING_KEY!r} is three positive numbers (x, y, z) in mm"
    if math.prod(shape) != 3 or dtype.kind not in "iufO":
        raise GeometryError(f"{what}, not {dtype} of shape {shape}")
    spacing = _read_array(archive, _SPACING_KEY, path)
    if not (spacing > 0).all():
        raise GeometryError(f"{what}, not {spacing.tolist()}")
    x, y, z = (float(step) for step in spacing.ravel())
    return x, y, z


def _checked_mask(mask: np.ndarray, key: str, shape: tuple[int, ...] | None, path: Path) -> np.ndarray:
    """Return labels as (z, y, x), if they are labels of this image."""
    if mask.dtype.kind not in "biu":
        raise InputError(f"{path}: {key!r} are labels, integers or booleans, not {mask.dtype}")
    if shape is not None and len(shape) == 3 and shape[-1] == _NUM_CHANNELS:
        shape = shape[:2]
    if mask.ndim not in (2, 3) or (shape is not None and mask.shape != shape):
        raise InputError(f"{path}: {key!r} has shape {mask.shape}, {IMAGE_KEY!r} {shape}; they should agree")
    return mask[np.newaxis] if mask.ndim == 2 else mask


def _checked_boxes(boxes: np.ndarray, path: Path) -> np.ndarray:
    table = boxes[np.newaxis] if boxes.ndim == 1 else boxes
    if table.ndim != 2 or table.shape[1] not in _BOX_LENGTHS or table.dtype.kind not in "iuf":
        raise InputError(
            f"{path}: {_BOXES_KEY!r} are numbers of shape (n, 6) or (n, 4), not {boxes.dtype} of shape "
            f"{boxes.shape}"
        )
    return table
