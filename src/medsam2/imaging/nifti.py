"""Read NIfTI files into volumes, and write them with the grid they came with."""

import gzip
import re
from contextlib import nullcontext
from pathlib import Path

import numpy as np

from medsam2.errors import GeometryError, InputError
from medsam2.imaging.nifti_header import HEADER_SIZES, grid_affine, grid_only, header_for, layout, parse
from medsam2.imaging.replacing import replacing
from medsam2.imaging.volume import Volume
from medsam2.imaging.voxels import check_layout, frame_index, opened, read_frame

_GZIP_LEVEL = 6
_PAIRED = re.compile(r"(.+)\.(hdr|img)(\.gz)?", re.IGNORECASE)


def read(path: Path, *, frame: int | None = None) -> Volume:
    """Read a .nii file or a .hdr and .img pair, NIfTI-1 or 2, of either byte order, in its own voxel order.

    Stored integers stay what they are. Voxels that the header scales become float32 (float64 if stored in
    more than 16 bits).

    Args:
        path: The file, or one of the pair. Whether it is compressed is seen from its content.
        frame: Which frame of a series to read, from 0; not needed if there is one.

    Raises:
        InputError: The file cannot be read, is no volume, holds several frames and none is named, or not
            the one that is.
        UnsupportedFormat: It is no NIfTI file, is damaged, truncated or too large, or holds colours or
            complex numbers.
        GeometryError: Its affine is impossible.
    """
    pair = _pair(path)
    if pair is not None:
        with opened(pair[0]) as (stream, _):
            header = parse(stream.read(HEADER_SIZES[-1]), pair[0], is_pair=True)
    with opened(path if pair is None else pair[1]) as (stream, largest_size):
        if pair is None:
            header = parse(stream.read(HEADER_SIZES[-1]), path)
        stored = layout(header, path, is_pair=pair is not None)
        check_layout(stored, largest_size, path)
        voxels = read_frame(stream, stored, frame_index(frame, stored.num_frames, path))
    try:
        return Volume(voxels, grid_affine(header), nifti_header=grid_only(header))
    except GeometryError as error:
        raise GeometryError(f"{path}: {error}") from error


def _pair(path: Path) -> tuple[Path, Path] | None:
    """Return the header's and the voxels' file of a pair; None for a single file.

    Raises:
        InputError: One of them is missing.
    """
    named = _PAIRED.fullmatch(path.name)
    if named is None:
        return None
    stem, suffix, packed = named.group(1), named.group(2), named.group(3) or ""
    upper = suffix.isupper()
    found = []
    for wanted in ("hdr", "img"):
        ending = wanted.upper() if upper else wanted
        names = [f"{stem}.{ending}{packed}", f"{stem}.{ending}", f"{stem}.{ending}.gz"]
        file = next((path.with_name(name) for name in names if path.with_name(name).is_file()), None)
        if file is None:
            raise InputError(f"{path}: is half of a pair, and {names[1]} is not beside it")
        found.append(file)
    return found[0], found[1]


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
