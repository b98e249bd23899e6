"""Read and write NIfTI: the grid and the voxels, and nothing about the patient."""

from __future__ import annotations

import gzip
import math
import re
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.nifti1 import Nifti1Header, Nifti1Image
from nibabel.nifti2 import Nifti2Header, Nifti2Image
from nibabel.spatialimages import HeaderDataError

from medsam2.errors import GeometryError, InputError, UnsupportedFormat, naming
from medsam2.imaging.formats.voxels import Layout, check_layout, frame_index, opened, read_frame, scaled
from medsam2.imaging.geometry import itk_from_affine
from medsam2.imaging.replacing import replacing
from medsam2.imaging.volume import Volume

_GZIP_LEVEL = 6
_PAIRED = re.compile(r"(.+)\.(hdr|img)(\.gz)?", re.IGNORECASE)


def read(path: Path, *, frame: int | None = None) -> Volume:
    """Read a .nii file or a .hdr and .img pair, NIfTI-1 or 2, of either byte order, in its own voxel order.

    Stored integers keep their type. Voxels that the header scales become float32 (float64 if stored in more
    than 16 bits).

    Args:
        path: The file, or one of the pair. Its content tells whether it is compressed.
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
    with naming(path):
        return Volume(voxels, _grid_affine(header), nifti_header=_grid_only(header))


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

    The grid of a volume from NIfTI is written to the bit as it was: affine, both codes, pixdim and units.
    Texts and extensions of that file are not written, since they can name the patient.

    Args:
        volume: Booleans are written as uint8, other dtypes as they are.
        path: Compressed if it ends in .gz.

    Raises:
        InputError: The file cannot be written, or NIfTI has no such dtype.
    """
    dtype = np.dtype(np.uint8) if volume.array.dtype == bool else volume.array.dtype
    header = _header_for(volume, dtype)
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


def from_nibabel(image: Any) -> Volume:
    """Make a volume of an image that nibabel holds: the same as of its file, where that is NIfTI.

    Args:
        image: Of any format, with one frame.

    Raises:
        InputError: It has several frames, or not one number per voxel.
        GeometryError: Its affine is impossible.
    """
    if len(image.shape) < 2 or math.prod(image.shape[3:]) != 1:
        raise InputError(
            f"this nibabel image has the shape {image.shape}; a volume has 3 dimensions, so give one frame, "
            "image.slicer[..., 0] for the first"
        )
    if hasattr(image.dataobj, "get_unscaled"):  # still in the file
        voxels = scaled(image.dataobj.get_unscaled(), image.dataobj.slope, image.dataobj.inter)
    else:
        voxels = np.asarray(image.dataobj)
    voxels = np.ascontiguousarray(voxels.reshape((*image.shape, 1)[:3]).T)
    if isinstance(image.header, Nifti1Header):
        kind = Nifti2Header if image.header.sizeof_hdr == HEADER_SIZES[1] else Nifti1Header
        header = kind(image.header.binaryblock, endianness=image.header.endianness, check=False)
        if np.allclose(header.get_best_affine(), image.affine):  # or somebody has changed the affine since
            return Volume(voxels, _grid_affine(header), nifti_header=_grid_only(header))
    return Volume(voxels, image.affine)


def as_nibabel(volume: Volume, shape: tuple[int, ...]) -> Nifti1Image:
    """Return a volume as an image of nibabel, with the header that `write` gives it.

    Args:
        volume: Booleans become uint8.
        shape: (x, y, z), without the z of a single slice, or with axes of length 1 behind it.
    """
    array = volume.array.astype(np.uint8) if volume.array.dtype == bool else volume.array
    header = _header_for(volume, array.dtype)
    kind = Nifti2Image if isinstance(header, Nifti2Header) else Nifti1Image
    return kind(array.T.reshape(shape), header.get_best_affine(), header)


HEADER_SIZES = (348, 540)
"""Bytes of a NIfTI-1 and of a NIfTI-2 header."""

# https://nifti.nimh.nih.gov/pub/dist/src/niftilib/nifti1.h, DT_* codes
_DTYPES = {
    2: np.uint8,
    4: np.int16,
    8: np.int32,
    16: np.float32,
    64: np.float64,
    256: np.int8,
    512: np.uint16,
    768: np.uint32,
    1024: np.int64,
    1280: np.uint64,
}
_REFUSED_DTYPES = {
    1: "single bits",
    32: "complex numbers",
    128: "RGB colours",
    1536: "128-bit floats",
    1792: "complex numbers",
    2048: "complex numbers",
    2304: "RGBA colours",
}
_GRID_FIELDS = (
    *("dim", "pixdim", "dim_info", "xyzt_units", "qform_code", "sform_code"),
    *("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
    *("srow_x", "srow_y", "srow_z"),
)
_MM_PER_UNIT = {1: 1000.0, 2: 1.0, 3: 0.001}  # metre, millimetre, micrometre
_SCANNER = 1  # qform and sform code: coordinates of the scanner
_LARGEST_NIFTI1_DIM = 32767
_EXTENSION_FLAG_SIZE = 4


def parse(block: bytes, path: Path, *, is_pair: bool = False) -> Nifti1Header:
    """Read the fields of a header, of either version and byte order.

    Args:
        block: The first 540 bytes of the file, or all if it has fewer.
        path: Named in errors.
        is_pair: Whether the voxels lie in a file of their own, .hdr and .img.

    Raises:
        UnsupportedFormat: This is no NIfTI file, or a single file where a pair is expected, or the reverse.
    """
    sizes = {int.from_bytes(block[:4], "little"): "<", int.from_bytes(block[:4], "big"): ">"}
    for size, header_class in zip(HEADER_SIZES, (Nifti1Header, Nifti2Header), strict=True):
        if size not in sizes or len(block) < size:
            continue
        header = header_class(block[:size], endianness=sizes[size], check=False)
        magic = bytes(header["magic"].item())[:3]
        if magic in (b"ni1", b"ni2") and not is_pair:
            raise UnsupportedFormat(
                f"{path}: is the header of a pair; name the two files alike, one .hdr and one .img"
            )
        if magic in ((b"ni1", b"ni2") if is_pair else (b"n+1", b"n+2")):
            return header
        if is_pair and size == HEADER_SIZES[0] and not magic.strip(b"\0"):
            raise UnsupportedFormat(
                f"{path}: is ANALYZE 7.5, which does not tell left from right; convert it to NIfTI where it "
                "comes from"
            )
    raise UnsupportedFormat(f"{path}: not a NIfTI {'pair' if is_pair else 'file'}")


def layout(header: Nifti1Header, path: Path, *, is_pair: bool = False) -> Layout:
    """Return how the voxels are stored.

    Args:
        header: From `parse`.
        path: Named in errors.
        is_pair: Whether the voxels lie in a file of their own.

    Raises:
        InputError: The image has fewer than 2 dimensions, or an empty one.
        UnsupportedFormat: Voxels are not real numbers of at most 64 bits, or the header contradicts itself.
    """
    num_dims = int(header["dim"][0])
    if not 0 <= num_dims <= 7:
        raise UnsupportedFormat(f"{path}: the header claims {num_dims} dimensions; the file is damaged")
    dims = [int(size) for size in header["dim"][1 : num_dims + 1]]
    if num_dims < 2:
        raise InputError(f"{path}: has {num_dims} dimensions {dims}; a volume has 3, a single slice 2 or 3")
    if min(dims) < 1:
        raise InputError(f"{path}: has the dimensions {dims}, of which none may be smaller than 1")
    num_x, num_y, num_z, *frames = *dims, *([1] if num_dims == 2 else [])
    offset = float(header["vox_offset"])
    if not offset >= (0 if is_pair else header.sizeof_hdr) or not offset.is_integer():
        raise UnsupportedFormat(f"{path}: the header puts its data at byte {offset:g}; the file is damaged")
    slope, inter = _scaling(header, path)
    return Layout((num_z, num_y, num_x), math.prod(frames), _dtype(header, path), int(offset), slope, inter)


def _grid_affine(header: Nifti1Header) -> np.ndarray:
    """Return the affine (4, 4), voxel (x, y, z) to RAS+ mm: of the sform, or else of the qform.

    A header with neither gets the grid that ITK assumes: x to the left, y to the back, z up, the first voxel
    at the origin. A single slice without thickness is 1 mm thick, as for ITK.
    """
    header = _with_thickness(header)
    affine = np.eye(4)
    if header["sform_code"] > 0:
        affine[:3] = [header["srow_x"], header["srow_y"], header["srow_z"]]
    elif header["qform_code"] > 0:
        affine = _qform(header)
    else:
        np.fill_diagonal(affine[:3, :3], header["pixdim"][1:4] * np.array((-1.0, -1.0, 1.0)))
    with np.errstate(over="ignore"):  # infinite values are refused by `Volume`
        affine[:3] *= _mm_per_unit(header)
    for axis in _single_axes(header):
        if not affine[:3, axis].any():
            normal = np.cross(affine[:3, axis - 2], affine[:3, axis - 1])
            length = np.linalg.norm(normal)
            affine[:3, axis] = normal / length if length else 0
    return affine


def _mm_per_unit(header: Nifti1Header) -> float:
    return _MM_PER_UNIT.get(int(header["xyzt_units"]) & 7, 1.0)


def _single_axes(header: Nifti1Header) -> list[int]:
    """The axes, of 0 to 2, that hold one voxel."""
    return [axis for axis in range(3) if axis >= header["dim"][0] or header["dim"][axis + 1] == 1]


def _with_thickness(header: Nifti1Header) -> Nifti1Header:
    """Give axes of one voxel and no spacing a spacing of 1 mm."""
    missing = [axis for axis in _single_axes(header) if header["pixdim"][axis + 1] == 0]
    if not missing:
        return header
    thick = header.copy()
    for axis in missing:
        thick["pixdim"][axis + 1] = 1 / _mm_per_unit(header)
    return thick


def _grid_only(header: Nifti1Header) -> bytes:
    """Return a header block with the grid of one frame, to the bit, and every other field at its default.

    Fields that can name a patient are left out: descrip, db_name, aux_file, intent_name, extensions.
    """
    clean = type(header)(endianness=header.endianness)
    header = _with_thickness(header)
    for name in _GRID_FIELDS:
        clean[name] = header[name]
    if header["dim"][0] == 2:
        clean["dim"][3:] = 1
    if header["sform_code"] > 0:
        affine = _grid_affine(header) / _mm_per_unit(header)
        for axis in _single_axes(header):
            if not any(header[name][axis] for name in ("srow_x", "srow_y", "srow_z")):
                for world, name in enumerate(("srow_x", "srow_y", "srow_z")):
                    clean[name][axis] = affine[world, axis]
    if header["dim"][0] > 3:
        clean["dim"][0] = 3
        clean["dim"][4:] = 1
    return bytes(clean.binaryblock)


def _header_for(volume: Volume, dtype: np.dtype) -> Nifti1Header:
    """Return the header for a volume: version, byte order and grid are those of its NIfTI file, if any."""
    header = _header_read(volume) or _header_made(volume)
    codes = {np.dtype(known): code for code, known in _DTYPES.items()}
    if dtype.newbyteorder("=") not in codes:
        accepted = ", ".join(str(known) for known in codes)
        raise InputError(f"voxels of type {dtype} cannot be written as NIfTI; {accepted} can")
    header["datatype"] = codes[dtype.newbyteorder("=")]
    header["bitpix"] = dtype.itemsize * 8
    header["vox_offset"] = -(-(header.sizeof_hdr + _EXTENSION_FLAG_SIZE) // 16) * 16
    header["scl_slope"], header["scl_inter"] = 1, 0
    return header


def _header_read(volume: Volume) -> Nifti1Header | None:
    """Return the header of the volume's file, unless the volume has another grid now."""
    if volume.nifti_header is None:
        return None
    header = parse(volume.nifti_header, Path("header"))
    has_shape = tuple(header["dim"][3:0:-1]) == volume.shape
    return header if has_shape and np.array_equal(_grid_affine(header), volume.affine) else None


def _header_made(volume: Volume) -> Nifti1Header:
    header = Nifti2Header() if max(volume.shape) > _LARGEST_NIFTI1_DIM else Nifti1Header()
    num_z, num_y, num_x = volume.shape
    header["dim"] = (3, num_x, num_y, num_z, 1, 1, 1, 1)
    header["pixdim"][1:4] = itk_from_affine(volume.affine).spacing
    header.set_xyzt_units("mm")
    header["sform_code"] = _SCANNER
    header["srow_x"], header["srow_y"], header["srow_z"] = volume.affine[:3]
    # A qform has no shear. ITK prefers the qform, and so reads the nearest grid without shear.
    header.set_qform(volume.affine, code=_SCANNER, strip_shears=True)
    return header


def _qform(header: Nifti1Header) -> np.ndarray:
    readable = header.copy()
    if readable["pixdim"][0] == 0:  # means 1 in the standard, but nibabel refuses it
        readable["pixdim"][0] = 1
    try:
        return np.array(readable.get_qform(), dtype=np.float64)
    except (HeaderDataError, ValueError) as error:
        raise GeometryError(f"the header's qform is impossible: {error}") from error


def _scaling(header: Nifti1Header, path: Path) -> tuple[float, float]:
    slope, inter = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0 or not math.isfinite(slope):  # both mean that nothing is scaled
        return 1.0, 0.0
    if not math.isfinite(inter):
        raise UnsupportedFormat(f"{path}: the header scales voxels by {slope:g} and adds {inter:g}")
    return slope, inter


def _dtype(header: Nifti1Header, path: Path) -> np.dtype:
    code = int(header["datatype"])
    if code not in _DTYPES:
        what = _REFUSED_DTYPES.get(code, f"data of the unknown type {code}")
        raise UnsupportedFormat(f"{path}: holds {what}; integers and floats of at most 64 bits are read")
    return np.dtype(_DTYPES[code]).newbyteorder(header.endianness)
