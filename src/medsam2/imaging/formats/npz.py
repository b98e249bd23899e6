"""Read the .npz files of the MedSAM family: the image `imgs`, and its `spacing` where the file says it."""

from __future__ import annotations

import math
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy
from PIL import Image

from medsam2.errors import GeometryError, InputError, UnsupportedFormat, in_a_line, naming, reading
from medsam2.imaging.formats.voxels import LARGEST_RATIO, Layout, read_frame
from medsam2.imaging.volume import Volume, check_claim

IMAGE_KEY = "imgs"
_SPACING_KEY = "spacing"
_SUFFIX = ".npy"
_NUM_CHANNELS = 3
_LARGEST_DIM = 1 << 48
_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
# A header is parsed as Python; this is what damaged ones raise.
_NOT_PYTHON = (ValueError, TypeError, LookupError, SyntaxError, tokenize.TokenError)
_PICKLE_RULE = "holds Python objects (a pickle), which can run code and are never read"


def read(path: Path) -> Volume:
    """Read `imgs`, (z, y, x) or one picture (y, x), and `spacing`, (x, y, z) in mm, if there is one.

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
    with naming(path):
        return Volume.from_array(voxels, spacing or (1.0, 1.0, 1.0))


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with reading(path), zipfile.ZipFile(path) as archive:
            yield archive
    except EOFError as error:
        raise UnsupportedFormat(f"{path}: ends before its arrays do; it is truncated") from error
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError) as error:
        raise UnsupportedFormat(f"{path}: cannot be read as .npz: {in_a_line(error)}") from error


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
    except _NOT_PYTHON as error:
        raise UnsupportedFormat(f"{path}: the array {key!r} is damaged: {in_a_line(error)}") from error


def _read_array(archive: zipfile.ZipFile, key: str, path: Path) -> np.ndarray:
    """Read one array, its claims checked before anything is allocated."""
    entry = archive.getinfo(f"{key}{_SUFFIX}")
    with archive.open(entry) as stream:
        shape, is_fortran, dtype = _parse(stream, key, path)
        if dtype.hasobject:
            raise UnsupportedFormat(f"{path}: {key!r} {_PICKLE_RULE}; save it as an array of numbers")
        offset = stream.tell()
        num_bytes = math.prod(shape) * dtype.itemsize
        num_available = min(entry.file_size, entry.compress_size * LARGEST_RATIO)
        check_claim(path, shape, num_bytes, offset + num_bytes, num_available)
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
    with archive.open(f"{_SPACING_KEY}{_SUFFIX}") as stream:
        shape, _, dtype = _parse(stream, _SPACING_KEY, path)
    what = f"{path}: {_SPACING_KEY!r} is three positive numbers (x, y, z) in mm"
    if math.prod(shape) != 3 or dtype.kind not in "iufO":
        raise GeometryError(f"{what}, not {dtype} of shape {shape}")
    spacing = _read_array(archive, _SPACING_KEY, path)
    if not (spacing > 0).all():
        raise GeometryError(f"{what}, not {spacing.tolist()}")
    x, y, z = (float(step) for step in spacing.ravel())
    return x, y, z
