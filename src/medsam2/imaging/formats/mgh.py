"""Read FreeSurfer's volumes, .mgz and .mgh."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from nibabel.freesurfer.mghformat import DATA_OFFSET, MGHHeader

from medsam2.errors import InputError, UnsupportedFormat, naming
from medsam2.imaging.formats.voxels import Layout, check_layout, frame_index, opened, read_frame
from medsam2.imaging.volume import Volume

_VERSION = 1
# https://surfer.nmr.mgh.harvard.edu/fswiki/FsTutorial/MghFormat, the field "type"
_DTYPES = {0: np.uint8, 1: np.int32, 3: np.float32, 4: np.int16, 10: np.uint16}


def read(path: Path, *, frame: int | None = None) -> Volume:
    """Read a .mgz or .mgh file in its own voxel order.

    Args:
        path: The file. Its content tells whether it is compressed.
        frame: Which frame of several to read, from 0; not needed if there is one.

    Raises:
        InputError: The file cannot be read, is no volume, holds several frames and none is named, or not
            the one that is.
        UnsupportedFormat: It is no FreeSurfer volume, is damaged, truncated or too large, or holds bits,
            colours or tensors.
        GeometryError: Its affine is impossible.
    """
    with opened(path) as (stream, largest_size):
        block = stream.read(DATA_OFFSET)
        header = MGHHeader(block, check=False) if len(block) == DATA_OFFSET else None
        if header is None or header["version"] != _VERSION:
            raise UnsupportedFormat(f"{path}: not a FreeSurfer volume (.mgz, .mgh)")
        layout = _layout(header, path)
        check_layout(layout, largest_size, path)
        voxels = read_frame(stream, layout, frame_index(frame, layout.num_frames, path))
    with np.errstate(over="ignore", invalid="ignore"):  # infinite values are refused by `Volume`
        affine = header.get_affine()
    with naming(path):
        return Volume(voxels, affine)


def _layout(header: MGHHeader, path: Path) -> Layout:
    num_x, num_y, num_z, num_frames = (int(size) for size in header["dims"])
    if min(num_x, num_y, num_z, num_frames) < 1:
        sizes = (num_x, num_y, num_z, num_frames)
        raise InputError(f"{path}: has the dimensions {sizes}, of which none may be smaller than 1")
    code = int(header["type"])
    if code not in _DTYPES:
        raise UnsupportedFormat(
            f"{path}: holds data of the type {code}; FreeSurfer's types {', '.join(map(str, _DTYPES))}, "
            "integers and floats, are read"
        )
    dtype = np.dtype(_DTYPES[code]).newbyteorder(">")
    return Layout((num_z, num_y, num_x), num_frames, dtype, DATA_OFFSET)
