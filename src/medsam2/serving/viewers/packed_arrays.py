"""Arrays as viewers send them: the packed form of nnInteractive's clients, and npy files.

`read_layout` only looks at sizes, so that an array can be refused before it is unpacked. `unpack` calls
C libraries: for what strangers send, it runs in a reader process.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from medsam2.errors import UnsupportedFormat

MAGIC = b"NNIA"
_NPY_MAGIC = b"\x93NUMPY"
_VERSION, _ZSTD = 1, 1
_TYPES = (
    "bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64",
    "float16", "float32", "float64",
)  # fmt: skip
_DIMENSIONS = (3, 4)
_CHUNK = 1 << 30  # bytes, unpacked: what clients cut arrays into
_MOST_CHUNKS = 64
_HEAD, _CHUNK_HEAD = struct.Struct("<4sBBBB"), struct.Struct("<QQ")
_COUNT = struct.Struct("<I")


@dataclass(frozen=True, kw_only=True)
class Packed:
    """What a packed array says about itself; its sizes agree with each other."""

    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    chunks: tuple[tuple[int, int, int], ...]
    """Of each: where it begins, its bytes once unpacked, its bytes in the file."""

    @property
    def num_bytes(self) -> int:
        """Bytes once it is unpacked."""
        return math.prod(self.shape) * self.dtype.itemsize


def read_layout(path: Path) -> Packed:
    """Read the sizes of a packed array; nothing is unpacked.

    Raises:
        UnsupportedFormat: It is none, it is cut off, or its sizes do not agree.
    """
    with path.open("rb") as file:
        magic, version, _, num_dimensions, name_length = _HEAD.unpack(_read(file, _HEAD.size))
        if magic != MAGIC or version != _VERSION:
            raise UnsupportedFormat("the array does not begin as one of nnInteractive's clients (NNIA 1)")
        name = _read(file, name_length).decode("ascii", "replace")
        if name not in _TYPES:
            raise UnsupportedFormat(f"the array is of type {name[:20]!r}; one of {', '.join(_TYPES)} is read")
        if num_dimensions not in _DIMENSIONS:
            raise UnsupportedFormat(
                f"the array has {num_dimensions} dimensions; 3 are expected, or 4 with a channel"
            )
        shape = struct.unpack(f"<{num_dimensions}q", _read(file, 8 * num_dimensions))
        if min(shape) < 1:
            raise UnsupportedFormat(f"the array has the shape {shape}; each side has at least one voxel")
        packed = Packed(shape=shape, dtype=np.dtype(name), chunks=_chunks(file, path.stat().st_size))
    claimed = sum(length for _, length, _ in packed.chunks)
    if claimed != packed.num_bytes:
        raise UnsupportedFormat(f"the array's parts have {claimed} bytes, its shape needs {packed.num_bytes}")
    if any(length % packed.dtype.itemsize for _, length, _ in packed.chunks):
        raise UnsupportedFormat("a part of the array ends within a voxel")
    return packed


def _chunks(file: BinaryIO, size: int) -> tuple[tuple[int, int, int], ...]:
    (count,) = _COUNT.unpack(_read(file, _COUNT.size))
    if count > _MOST_CHUNKS:
        raise UnsupportedFormat(f"the array has {count} parts; at most {_MOST_CHUNKS} are read")
    found = []
    for _ in range(count):
        length, stored = _CHUNK_HEAD.unpack(_read(file, _CHUNK_HEAD.size))
        start = file.tell()
        if length > _CHUNK or stored > size - start:
            raise UnsupportedFormat("a part of the array is longer than what was sent")
        found.append((start, length, stored))
        file.seek(start + stored)
    if file.tell() != size:
        raise UnsupportedFormat("the array goes on behind its last part")
    return tuple(found)


def _read(file: BinaryIO, count: int) -> bytes:
    found = file.read(count)
    if len(found) < count:
        raise UnsupportedFormat("the array is cut off")
    return found


def unpack(path: Path, target: Path) -> dict[str, object]:
    """Unpack an array into an npy file, in C order and this machine's byte order.

    Args:
        path: A packed array, or an npy file of three dimensions without objects.
        target: Written.

    Returns:
        Nothing; it is the answer of a reader process.

    Raises:
        UnsupportedFormat: It is damaged.
    """
    with path.open("rb") as file:
        is_npy = file.read(len(_NPY_MAGIC)) == _NPY_MAGIC
    array = _load(path) if is_npy else _decompressed(path)
    if array.dtype == np.float16:  # half precision is for the wire
        array = array.astype(np.float32)
    np.save(target, np.ascontiguousarray(array, array.dtype.newbyteorder("=")), allow_pickle=False)
    return {}


def _load(path: Path) -> npt.NDArray[np.generic]:
    try:
        found = np.load(path, allow_pickle=False)
    except (OSError, EOFError, ValueError, OverflowError) as error:
        raise UnsupportedFormat("the npy file is damaged") from error
    array = np.asarray(found)
    if array.ndim != _DIMENSIONS[0] or array.dtype.name not in _TYPES or not array.size:
        raise UnsupportedFormat(
            f"the npy file holds {array.dtype} of shape {array.shape}; numbers in 3 dimensions are expected"
        )
    return array


def _decompressed(path: Path) -> npt.NDArray[np.generic]:
    import blosc2

    packed = read_layout(path)
    blosc2.set_nthreads(1)
    array = np.empty(math.prod(packed.shape), packed.dtype)
    place = 0
    try:
        with path.open("rb") as file:
            for start, length, stored in packed.chunks:
                file.seek(start)
                chunk = file.read(stored)
                if blosc2.get_cbuffer_sizes(chunk)[0] != length:
                    raise UnsupportedFormat("a part of the array has another length than it says")
                end = place + length // packed.dtype.itemsize
                blosc2.decompress2(chunk, dst=array[place:end])
                place = end
    except (RuntimeError, ValueError, TypeError) as error:
        raise UnsupportedFormat("the array is damaged") from error
    return array.reshape(packed.shape)


def pack(array: npt.NDArray[np.uint8]) -> bytes:
    """Pack an array for nnInteractive's clients.

    Args:
        array: A part of a mask, 0 and 1.
    """
    import blosc2

    raw = np.ascontiguousarray(array)
    name = raw.dtype.name.encode("ascii")
    parts = [_HEAD.pack(MAGIC, _VERSION, _ZSTD, raw.ndim, len(name)), name]
    parts.append(struct.pack(f"<{raw.ndim}q", *raw.shape))
    view = memoryview(raw.reshape(-1).view(np.uint8).data)
    starts = range(0, raw.nbytes, _CHUNK)
    parts.append(_COUNT.pack(len(starts)))
    for start in starts:
        part = view[start : start + _CHUNK]
        packed = blosc2.compress2(
            part, typesize=1, codec=blosc2.Codec.ZSTD, clevel=3, filters=[blosc2.Filter.NOFILTER], nthreads=1
        )
        parts += [_CHUNK_HEAD.pack(len(part), len(packed)), packed]
    return b"".join(parts)
