"""Read NIfTI files into volumes, and write them with the grid they came with."""

import gzip
import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from medsam2.errors import GeometryError, InputError, UnsupportedFormat
from medsam2.imaging.mapped import SPILL_BYTES, spill
from medsam2.imaging.nifti_header import (
    HEADER_SIZES,
    Layout,
    grid_affine,
    grid_only,
    header_for,
    layout,
    parse,
)
from medsam2.imaging.replacing import replacing
from medsam2.imaging.volume import Volume

_GZIP_MAGIC = b"\x1f\x8b"
_GZIP_LARGEST_RATIO = 1032  # deflate's limit: 258 bytes of output for 2 bits of input
_GZIP_LEVEL = 6
_CHUNK_SIZE = 1 << 24


def read(path: Path, *, frame: int | None = None) -> Volume:
    """Read a .nii or .nii.gz file, NIfTI-1 or 2, of either byte order, in its own voxel order.

    Stored integers stay what they are. Voxels that the header scales become float32 (float64 if stored in
    more than 16 bits).

    Args:
        path: The file. Whether it is compressed is seen from its content.
        frame: Which frame of a series to read, from 0; not needed if there is one.

    Raises:
        InputError: The file cannot be read, is no volume, holds several frames and none is named, or not
            the one that is.
        UnsupportedFormat: It is no NIfTI file, is damaged or truncated, or holds colours or complex numbers.
        GeometryError: Its affine is impossible.
    """
    with _opened(path) as (stream, largest_size):
        header = parse(stream.read(HEADER_SIZES[-1]), path)
        shape = layout(header, path)
        end = shape.offset + shape.num_frames * shape.frame_size
        # Before anything is allocated: a header can claim more than all memory.
        if end > largest_size:
            raise UnsupportedFormat(
                f"{path}: the header claims {end} bytes, the file holds less; it is truncated"
            )
        index = _frame_index(frame, shape.num_frames, path)
        stream.seek(shape.offset + index * shape.frame_size)
        voxels = _read_voxels(stream, shape)
        if index == shape.num_frames - 1:
            stream.read(1)  # of a compressed file: goes on to the checksum
    try:
        return Volume(voxels, grid_affine(header), nifti_header=grid_only(header))
    except GeometryError as error:
        raise GeometryError(f"{path}: {error}") from error


def write(volume: Volume, path: Path) -> None:
    """Write a volume as .nii or .nii.gz; the same volume gives the same bytes every time.

    The grid of a volume read from NIfTI is written as it was, to the bit: affine, both codes, pixdim and
    units. Texts and extensions of that file are not, as they can name the patient.

    Args:
        volume: Booleans are written as uint8, other dtypes as they are.
        path: Compressed if it ends in .gz.

    Raises:
        InputError: The file cannot be written, or NIfTI has no such dtype.
    """
    dtype = np.dtype(np.uint8) if volume.array.dtype == bool else volume.array.dtype
    header = header_for(volume, dtype)
    preamble = header.binaryblock.ljust(int(header["vox_offset"]), b"\0")  # zeros: no extensions
    stored_dtype = dtype.newbyteorder(header.endianness)
    is_compressed = path.name.lower().endswith(".gz")
    with (
        replacing(path, ".part") as temporary,
        temporary.open("xb") as file,
        # No name and no time of day in the gzip header.
        gzip.GzipFile("", "wb", _GZIP_LEVEL, file, mtime=0) if is_compressed else nullcontext(file) as stream,
    ):
        stream.write(preamble)
        for part in volume.array:
            stream.write(np.ascontiguousarray(part, stored_dtype).tobytes())


@contextmanager
def _opened(path: Path) -> Iterator[tuple[BinaryIO, int]]:
    """Open a file, compressed or not, and say how many bytes it can hold at most."""
    try:
        with path.open("rb") as file:
            is_compressed = file.read(2) == _GZIP_MAGIC
            file.seek(0)
            size = path.stat().st_size
            if is_compressed:
                with gzip.GzipFile(fileobj=file) as stream:
                    yield cast(BinaryIO, stream), size * _GZIP_LARGEST_RATIO
            else:
                yield file, size
    except EOFError as error:
        raise UnsupportedFormat(f"{path}: ends before its compressed data do; it is truncated") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise UnsupportedFormat(f"{path}: its compressed data are damaged: {error}") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error


def _frame_index(frame: int | None, num_frames: int, path: Path) -> int:
    if frame is None:
        if num_frames > 1:
            raise InputError(
                f"{path}: holds {num_frames} frames; a volume is one of them, name it by frame=0 ..."
            )
        return 0
    if not 0 <= frame < num_frames:
        raise InputError(f"{path}: has no frame {frame}; it holds {num_frames}, counted from 0")
    return frame


def _read_voxels(stream: BinaryIO, shape: Layout) -> np.ndarray:
    """Read one frame from where the stream stands, as an array (z, y, x) in this machine's byte order."""
    dtype = _result_dtype(shape)
    slices = (_scaled(part, shape, dtype) for part in _read_slices(stream, shape))
    if math.prod(shape.shape) * dtype.itemsize > SPILL_BYTES:
        return spill(slices, dtype, shape.shape)
    voxels = np.empty(shape.shape, dtype)
    for target, part in zip(voxels, slices, strict=True):
        target[...] = part
    return voxels


def _read_slices(stream: BinaryIO, shape: Layout) -> Iterator[np.ndarray]:
    """Read slice by slice, in chunks: a decompressing stream holds what it is asked for a second time."""
    num_slices, height, width = shape.shape
    for _ in range(num_slices):
        part = np.empty(height * width, shape.dtype)
        buffer = part.view(np.uint8)
        start = 0
        while start < buffer.size:
            chunk = stream.read(min(_CHUNK_SIZE, buffer.size - start))
            if not chunk:
                raise EOFError
            buffer[start : start + len(chunk)] = np.frombuffer(chunk, np.uint8)
            start += len(chunk)
        yield part.reshape(height, width)


def _result_dtype(shape: Layout) -> np.dtype:
    if (shape.slope, shape.inter) == (1.0, 0.0):
        return shape.dtype.newbyteorder("=")
    is_short = shape.dtype.itemsize <= 2 or shape.dtype.newbyteorder("=") == np.float32
    return np.dtype(np.float32 if is_short else np.float64)


def _scaled(stored: np.ndarray, shape: Layout, dtype: np.dtype) -> np.ndarray:
    """Apply the header's slope and intercept to a slice, computed in float64."""
    if (shape.slope, shape.inter) == (1.0, 0.0):
        return stored.astype(dtype, copy=False)
    with np.errstate(over="ignore"):  # infinity says it as well; `check_intensities` refuses it in images
        return (stored.astype(np.float64) * shape.slope + shape.inter).astype(dtype)
