"""Read the voxels of one frame of a file; large arrays are kept on the disk instead of in memory."""

from __future__ import annotations

import gzip
import math
import mmap
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

import numpy as np

from medsam2.errors import InputError, UnsupportedFormat, reading
from medsam2.imaging.volume import check_claim

LARGEST_RATIO = 1032
"""Largest ratio by which deflate (gzip, zip, compressed NRRD) can shrink data: 258 bytes into 2 bits."""

GZIP_MAGIC = b"\x1f\x8b"
"""How compressed files begin."""
_CHUNK_SIZE = 1 << 24


@dataclass(frozen=True)
class Layout:
    """Where the voxels are in the file, and how they are stored."""

    shape: tuple[int, int, int]
    """(z, y, x) of one frame."""
    num_frames: int
    """Product of the dimensions beyond the third."""
    dtype: np.dtype
    """As stored, byte order included."""
    offset: int
    """Of the first voxel, in bytes from the start of the file."""
    slope: float = 1.0
    """Stored values times this ..."""
    inter: float = 0.0
    """... plus this are intensities; 1 and 0 if the file does not scale."""

    @property
    def frame_size(self) -> int:
        """Bytes of one frame."""
        return math.prod(self.shape) * self.dtype.itemsize


@contextmanager
def opened(path: Path) -> Iterator[tuple[IO[bytes], int]]:
    """Open a file, compressed by gzip or not, and give it with the most bytes that it can hold.

    Raises:
        InputError: The file cannot be read.
        UnsupportedFormat: It is damaged, or the block reads beyond its end.
    """
    with reading(path), path.open("rb") as file:
        is_compressed = file.read(len(GZIP_MAGIC)) == GZIP_MAGIC
        file.seek(0)
        size = path.stat().st_size
        try:
            if is_compressed:
                with gzip.GzipFile(fileobj=file) as stream:
                    yield cast(IO[bytes], stream), size * LARGEST_RATIO
            else:
                yield file, size
        except EOFError as error:
            raise UnsupportedFormat(f"{path}: ends before its data do; it is truncated") from error
        except (gzip.BadGzipFile, zlib.error) as error:
            raise UnsupportedFormat(f"{path}: its compressed data are damaged: {error}") from error


def check_layout(layout: Layout, largest_size: float, path: Path) -> None:
    """Refuse a layout that the file cannot have, or whose frames are too large.

    Args:
        layout: As the header has it.
        largest_size: Bytes that the file can hold at most, from `opened`.
        path: Named in errors.

    Raises:
        UnsupportedFormat: The file is truncated, or a frame is too large.
    """
    end = layout.offset + layout.num_frames * layout.frame_size
    num_bytes = math.prod(layout.shape) * max(layout.dtype.itemsize, _result_dtype(layout).itemsize)
    check_claim(path, layout.shape, num_bytes, end, largest_size)


def frame_index(frame: int | None, num_frames: int, path: Path) -> int:
    """Return the frame to read, from 0; `frame` may be None if there is only one.

    Raises:
        InputError: There are several frames and none is named, or there is none of this number.
    """
    if frame is None:
        if num_frames > 1:
            raise InputError(
                f"{path}: holds {num_frames} frames; a volume is one of them, name it by frame=0 ..."
            )
        return 0
    if not 0 <= frame < num_frames:
        raise InputError(f"{path}: has no frame {frame}; it holds {num_frames}, counted from 0")
    return frame


def read_frame(stream: IO[bytes], layout: Layout, index: int) -> np.ndarray:
    """Read one frame as an array (z, y, x) in this machine's byte order, scaled as the layout says.

    Args:
        stream: Open at any place before the frame.
        layout: Checked by `check_layout`.
        index: Of the frame, from 0.

    Raises:
        EOFError: The stream ends before the frame; `opened` turns this into `UnsupportedFormat`.
        InputError: The folder for temporary files has no room for a large volume.
    """
    stream.seek(layout.offset + index * layout.frame_size)
    dtype = _result_dtype(layout)
    slices = (_scaled(part, layout, dtype) for part in _read_slices(stream, layout))
    voxels = gathered(slices, dtype, layout.shape)
    if index == layout.num_frames - 1:
        stream.read(1)  # in a compressed file, this checks the checksum
    return voxels


def gathered(slices: Iterator[np.ndarray], dtype: np.dtype, shape: tuple[int, int, int]) -> np.ndarray:
    """Stack slices (y, x) in memory, or a large volume in a temporary file on the disk.

    Args:
        slices: As many as the shape says.
        dtype: Of the stack.
        shape: (z, y, x).

    Raises:
        InputError: The folder for temporary files has no room for a large volume.
    """
    if math.prod(shape) * dtype.itemsize > SPILL_BYTES:
        return spill(slices, dtype, shape)
    voxels = np.empty(shape, dtype)
    for target, part in zip(voxels, slices, strict=True):
        target[...] = part
    return voxels


def _read_slices(stream: IO[bytes], layout: Layout) -> Iterator[np.ndarray]:
    """Read slice by slice, in chunks: a decompressing stream needs the memory of each read a second time."""
    num_slices, height, width = layout.shape
    for _ in range(num_slices):
        part = np.empty(height * width, layout.dtype)
        buffer = part.view(np.uint8)
        start = 0
        while start < buffer.size:
            chunk = stream.read(min(_CHUNK_SIZE, buffer.size - start))
            if not chunk:
                raise EOFError
            buffer[start : start + len(chunk)] = np.frombuffer(chunk, np.uint8)
            start += len(chunk)
        yield part.reshape(height, width)


def _result_dtype(layout: Layout) -> np.dtype:
    if (layout.slope, layout.inter) == (1.0, 0.0):
        return layout.dtype.newbyteorder("=")
    is_short = layout.dtype.itemsize <= 2 or layout.dtype.newbyteorder("=") == np.float32
    return np.dtype(np.float32 if is_short else np.float64)


def _scaled(stored: np.ndarray, layout: Layout, dtype: np.dtype) -> np.ndarray:
    """Apply the header's slope and intercept to a slice, computed in float64."""
    if (layout.slope, layout.inter) == (1.0, 0.0):
        return stored.astype(dtype, copy=False)
    with np.errstate(over="ignore"):  # `check_intensities` refuses infinite values in images
        return (stored.astype(np.float64) * layout.slope + layout.inter).astype(dtype)


def scaled(stored: np.ndarray, slope: float, inter: float) -> np.ndarray:
    """Return the intensities of stored voxels, with the dtype that a file with these voxels is read with."""
    layout = Layout(stored.shape, 1, stored.dtype, 0, slope, inter)
    return _scaled(stored, layout, _result_dtype(layout))


SPILL_BYTES = 64 * 2**20
"""Larger volumes are kept in a file; 64 MiB are about 120 slices of CT."""


def spill(slices: Iterable[np.ndarray], dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    """Write slices one by one to a temporary file that is deleted with the array.

    Args:
        slices: Arrays of `shape[1:]`.
        dtype: Of all of them.
        shape: (z, y, x).

    Returns:
        The read-only array.

    Raises:
        InputError: The folder for temporary files has no room.
    """
    try:
        with tempfile.TemporaryFile() as file:
            for part in slices:
                file.write(np.ascontiguousarray(part, dtype).data)
            file.flush()
            return np.asarray(np.memmap(file, dtype, mode="r", shape=shape))
    except OSError as error:
        raise InputError(
            f"a volume of shape {shape} (z, y, x) does not fit into the folder for temporary files "
            f"{tempfile.gettempdir()}: {error.strerror or error}"
        ) from error


def release(array: np.ndarray) -> None:
    """Give the memory behind a mapped array back to the system, which reads it again when it is needed."""
    owner: object = array
    while isinstance(owner, np.ndarray):
        owner = owner.base
    if isinstance(owner, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        owner.madvise(mmap.MADV_DONTNEED)
