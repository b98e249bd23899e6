"""Arrays too large to be worth their memory: in a nameless file on disk, read where they are looked at."""

import mmap
import tempfile
from collections.abc import Iterable

import numpy as np

from medsam2.errors import InputError

SPILL_BYTES = 64 * 2**20
"""Volumes of more bytes are mapped; about 120 slices of CT."""


def spill(slices: Iterable[np.ndarray], dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    """Write slices one by one to a file that has no name and vanishes with the array.

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
    """Let the system take back the memory behind a mapped array, which it reads again when asked for."""
    owner: object = array
    while isinstance(owner, np.ndarray):
        owner = owner.base
    if isinstance(owner, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        owner.madvise(mmap.MADV_DONTNEED)
