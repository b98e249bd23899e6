"""Read and write NRRD and MetaImage files through SimpleITK."""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import SimpleITK

from medsam2.errors import InputError, UnsupportedFormat, naming, reading
from medsam2.imaging.formats.voxels import LARGEST_RATIO, frame_index
from medsam2.imaging.geometry import ItkGrid, affine_from_itk
from medsam2.imaging.replacing import replacing
from medsam2.imaging.volume import Volume, check_claim

_IMAGE_IO = {".nrrd": "NrrdImageIO", ".nhdr": "NrrdImageIO", ".mha": "MetaImageIO", ".mhd": "MetaImageIO"}
_HEADER_LIMIT = 1 << 16
_DATA_FILE = re.compile(
    rb"^[ \t]*(?:ElementDataFile\s*[=:]|data ?file:)[ \t]*([^\r\n]*)", re.IGNORECASE | re.MULTILINE
)
_END_OF_NRRD = re.compile(rb"^\r?\n", re.MULTILINE)
_IS_PACKED = re.compile(
    rb"^(?:CompressedData\s*=\s*T|encoding:\s*(?:gz|bz|hex|t[ex]))", re.IGNORECASE | re.MULTILINE
)
_IN_THE_HEADER = b"local"
_PACKED_BITS = {".nrrd": 31, ".mha": 15}  # zlib's name for gzip, and for its own format
_CHUNK_SIZE = 1 << 14  # bytes; 1000 times as many may be unpacked of one
_NUM_DIMS = re.compile(rb"^[ \t]*NDims\s*[=:]?[ \t]*([^\r\n]*)", re.IGNORECASE | re.MULTILINE)
# Other beginnings make ITK write its own words to standard error.
_METAIMAGE = (re.compile(rb"^NDims\s*=", re.IGNORECASE | re.MULTILINE), "a MetaImage")
_NRRD = (re.compile(rb"\ANRRD"), "an NRRD")
_STARTS = {".nrrd": _NRRD, ".nhdr": _NRRD, ".mha": _METAIMAGE, ".mhd": _METAIMAGE}
_SEQUENCE = ".seq.nrrd"  # 3D Slicer's, with a number a voxel for each frame


@contextmanager
def quiet_itk() -> Iterator[None]:
    """Keep ITK from writing its warnings to standard error; we check what matters in them."""
    before = SimpleITK.ProcessObject.GetGlobalWarningDisplay()
    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        SimpleITK.ProcessObject.SetGlobalWarningDisplay(before)


def read(path: Path, *, frame: int | None = None) -> Volume:
    """Read an .nrrd, .nhdr, .mha or .mhd file; a 2D image becomes a volume of one slice.

    Args:
        path: The file. Voxels in a file of their own lie in the same folder, or below.
        frame: Which frame of a 4D image, or of 3D Slicer's .seq.nrrd, to read, from 0; not needed if there
            is one.

    Raises:
        InputError: The file cannot be read, has not 2 to 4 dimensions, or holds several frames and none is
            named, or not the one that is.
        UnsupportedFormat: It is not in the format its name says, is truncated or too large, or holds vectors
            or colours.
        GeometryError: Its grid is impossible.
    """
    with _described(path) as (reader, num_available):
        component = _choose_frame(reader, frame, path)
        image = _pixels(reader, num_available, path)
        if component is not None:
            image = SimpleITK.VectorIndexSelectionCast(image, component)
        return _volume(image, path)


def read_layers(path: Path) -> tuple[list[Volume], dict[str, str]]:
    """Read an .nrrd file that may hold several numbers a voxel, as 3D Slicer's overlapping segments do.

    Returns:
        A volume for each of the numbers, and the texts of the header.

    Raises:
        MedSAM2Error: As for `read`.
    """
    with _described(path) as (reader, num_available):
        if reader.GetDimension() > 3:
            raise InputError(f"{path}: has {reader.GetDimension()} dimensions; a mask has 3")
        image = _pixels(reader, num_available, path)
        texts = {key: image.GetMetaData(key) for key in image.GetMetaDataKeys()}
        count = image.GetNumberOfComponentsPerPixel()
        layers = [image]
        if count > 1:
            layers = [SimpleITK.VectorIndexSelectionCast(image, number) for number in range(count)]
        return [_volume(layer, path) for layer in layers], texts


@contextmanager
def _described(path: Path) -> Iterator[tuple[SimpleITK.ImageFileReader, float]]:
    """Give a reader that has read the header, and how many bytes of voxels the file can hold."""
    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(os.fspath(path))
    reader.SetImageIO(_IMAGE_IO[path.suffix.lower()])
    try:
        with reading(path), quiet_itk():
            num_available = _largest_content(path)
            reader.ReadImageInformation()
            yield reader, num_available
    except RuntimeError as error:
        raise UnsupportedFormat(f"{path}: cannot be read as {path.suffix}: {_last_line(error)}") from error


def _pixels(reader: SimpleITK.ImageFileReader, num_available: float, path: Path) -> SimpleITK.Image:
    """Read the voxels, unless they cannot be in the file.

    ITK first fills memory of the size in the header, which takes long, and then finds that the file is short.
    It may read a compressed file as a whole, whichever frame is chosen.
    """
    size = reader.GetSize()
    one = int(SimpleITK.Image(1, 1, reader.GetPixelID()).GetSizeOfPixelComponent())
    num_stored = int(np.prod(size, dtype=object)) * one * reader.GetNumberOfComponents()
    check_claim(path, size[::-1], num_stored, num_stored, num_available)
    return reader.Execute()


def write(volume: Volume, path: Path, *, is_compressed: bool = True) -> None:
    """Write a volume as .nrrd or .mha, with its grid and nothing else.

    Args:
        volume: Booleans are written as uint8, other dtypes as they are.
        path: The file, ending in .nrrd or .mha.
        is_compressed: Some web viewers cannot read compressed voxels.

    Raises:
        InputError: The file cannot be written.
    """
    write_image(as_itk(volume), path, path.suffix.lower(), is_compressed=is_compressed)


def as_itk(volume: Volume) -> SimpleITK.Image:
    """Return a volume as an image of SimpleITK, booleans as uint8."""
    array = volume.array
    image = SimpleITK.GetImageFromArray(array.astype(np.uint8) if array.dtype == bool else array)
    image.SetSpacing(volume.spacing)
    image.SetOrigin(volume.origin)
    image.SetDirection(volume.direction)
    return image


def write_image(image: SimpleITK.Image, path: Path, suffix: str, *, is_compressed: bool = True) -> None:
    """Write an image through ITK, whole or not at all.

    ITK writes through buffers and does not check that the last of them reached the disk; for a small NRRD
    that is the whole file. So the written file is compared with the image before it replaces an old one.

    Args:
        image: With its grid and texts.
        path: The file.
        suffix: Tells ITK the format.
        is_compressed: Whether voxels are compressed.

    Raises:
        InputError: The file cannot be written, because the disk is full for example.
    """
    with replacing(path, suffix) as temporary, quiet_itk():
        try:
            SimpleITK.WriteImage(image, os.fspath(temporary), useCompression=is_compressed)
        except RuntimeError as error:
            raise InputError(f"{path}: cannot be written: {_last_line(error)}") from error
        if not _holds(temporary, SimpleITK.GetArrayViewFromImage(image)):
            raise InputError(f"{path}: cannot be written: a part of it did not reach the disk; is it full?")


def _holds(path: Path, array: np.ndarray) -> bool:
    """Whether an .nrrd or .mha file, as ITK writes them, holds an array to its last byte."""
    voxels = np.ascontiguousarray(array).view(np.uint8).reshape(-1).data
    with path.open("rb") as file:
        header = b"".join(iter(lambda: _header_line(file), b""))
        packed = _PACKED_BITS[path.suffix] if _IS_PACKED.search(header) else None
        unpacker = None if packed is None else zlib.decompressobj(packed)
        start = 0
        try:
            while chunk := file.read(_CHUNK_SIZE):
                part = chunk if unpacker is None else unpacker.decompress(chunk)
                if voxels[start : start + len(part)] != part:
                    return False
                start += len(part)
        except zlib.error:
            return False
    return start == len(voxels) and (unpacker is None or unpacker.eof)


def _header_line(file: BinaryIO) -> bytes:
    """Return the next line of a header, nothing at its end."""
    line = file.readline()
    return b"" if line == b"\n" or line.startswith(b"ElementDataFile") else line


def _volume(image: SimpleITK.Image, path: Path) -> Volume:
    """Make a volume of an image of 2 or 3 dimensions with one number per voxel."""
    array = SimpleITK.GetArrayFromImage(image)
    spacing, origin, direction = image.GetSpacing(), image.GetOrigin(), image.GetDirection()
    if image.GetDimension() == 2:
        array = array[np.newaxis]
        a, b, c, d = direction
        spacing, origin, direction = (*spacing, 1.0), (*origin, 0.0), (a, b, 0.0, c, d, 0.0, 0.0, 0.0, 1.0)
    grid = ItkGrid(spacing, origin, direction)
    with naming(path):
        return Volume(array, affine_from_itk(grid), itk_grid=grid)


def _choose_frame(reader: SimpleITK.ImageFileReader, frame: int | None, path: Path) -> int | None:
    """Restrict the reader to one frame; where frames are numbers of a voxel, return which number to take."""
    num_components, size = reader.GetNumberOfComponents(), reader.GetSize()
    if path.name.lower().endswith(_SEQUENCE) and num_components > 1 and len(size) <= 3:
        return frame_index(frame, num_components, path)
    if num_components > 1:
        raise UnsupportedFormat(f"{path}: holds {num_components} numbers per voxel; one is read")
    if len(size) > 4:
        raise InputError(f"{path}: has {len(size)} dimensions {size}; 2, 3 or 4 are read")
    index = frame_index(frame, size[3] if len(size) == 4 else 1, path)
    if len(size) == 4:
        reader.SetExtractSize((*size[:3], 0))
        reader.SetExtractIndex((0, 0, 0, index))
    return None


def _largest_content(path: Path) -> float:
    """Return how many bytes of voxels a file, or the one that its header names, can hold.

    Raises:
        UnsupportedFormat: This is no such header, or the voxels are in several files, or in another folder.
        InputError: The file of the voxels is missing.
    """
    with path.open("rb") as file:
        header = file.read(_HEADER_LIMIT)
    start, name = _STARTS[path.suffix.lower()]
    if not start.search(header):
        raise UnsupportedFormat(f"{path}: not {name} file")
    for claim in _NUM_DIMS.findall(header):
        if not re.fullmatch(rb"[1-9]\s*", claim):  # ITK allocates memory for so many, and crashes at -1
            raise UnsupportedFormat(
                f"{path}: the header claims {claim[:20]!r} dimensions; a number from 1 to 9 is expected"
            )
    is_nrrd = _STARTS[path.suffix.lower()] is _NRRD
    if is_nrrd:
        header = _END_OF_NRRD.split(header, maxsplit=1)[0]
    named = _DATA_FILE.findall(header)
    # A MetaImage says in its last line where its voxels are; two such lines may be an attack.
    if len(named) > 1 or not (named or is_nrrd):
        raise UnsupportedFormat(f"{path}: not {name} file, as it names {len(named)} places for its voxels")
    holder = path
    if named and named[0].strip().lower() != _IN_THE_HEADER:
        holder = _data_file(named[0].strip().decode("utf-8", "replace"), path)
    return holder.stat().st_size * (LARGEST_RATIO if _IS_PACKED.search(header) else 1)


def _data_file(name: str, path: Path) -> Path:
    """Return the file of a header's voxels.

    A file in another folder is refused: a stranger's header could show any file of this machine as an image.
    """
    if "%" in name or name.split()[:1] == ["LIST"] or not name:
        raise UnsupportedFormat(f"{path}: keeps its voxels in several files; one is read")
    if not name.isprintable():
        raise UnsupportedFormat(f"{path}: keeps its voxels in {name!r}, and no file is called so")
    data, folder = path.parent / name, path.parent.resolve()
    if not data.resolve().is_relative_to(folder):
        raise UnsupportedFormat(f"{path}: keeps its voxels in {name}, which is not in its own folder")
    if not data.is_file():
        raise InputError(f"{path}: keeps its voxels in {name}, and there is no such file beside it")
    return data


def _last_line(error: RuntimeError) -> str:
    """Return the part of an ITK exception that says what went wrong; the lines before name ITK's source."""
    return str(error).strip().splitlines()[-1].removeprefix("sitk::ERROR: ").strip()
