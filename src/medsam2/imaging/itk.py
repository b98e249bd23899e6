"""Read and write NRRD and MetaImage files through SimpleITK."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import SimpleITK

from medsam2.errors import GeometryError, InputError, UnsupportedFormat
from medsam2.imaging.geometry import ItkGrid, affine_from_itk
from medsam2.imaging.replacing import replacing
from medsam2.imaging.volume import Volume

_IMAGE_IO = {".nrrd": "NrrdImageIO", ".mha": "MetaImageIO", ".mhd": "MetaImageIO"}
_HEADER_LIMIT = 1 << 16
# What the header says when voxels are not in the same file, or not compressed.
_MARKS_ELSEWHERE = (b"data file:", b"datafile:")
_MARKS_RAW = (b"encoding: raw", b"compresseddata = false")
_LARGEST_RATIO = 1032  # deflate's limit


@contextmanager
def quiet_itk() -> Iterator[None]:
    """Keep ITK from writing its warnings to standard error; what matters in them we check ourselves."""
    before = SimpleITK.ProcessObject.GetGlobalWarningDisplay()
    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        SimpleITK.ProcessObject.SetGlobalWarningDisplay(before)


def read(path: Path) -> Volume:
    """Read an .nrrd, .mha or .mhd file; a 2D image becomes a volume of one slice.

    Raises:
        InputError: The file cannot be read, holds several frames, or has not 2 or 3 dimensions.
        UnsupportedFormat: It is not in the format its name says, is truncated, or holds vectors or colours.
        GeometryError: Its grid is impossible.
    """
    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(os.fspath(path))
    reader.SetImageIO(_IMAGE_IO[path.suffix.lower()])
    try:
        with quiet_itk():
            reader.ReadImageInformation()
            _check_content(reader, path)
            image = reader.Execute()
    except RuntimeError as error:
        raise UnsupportedFormat(f"{path}: cannot be read as {path.suffix}: {_last_line(error)}") from error
    return volume_from_itk(image, path)


def write(volume: Volume, path: Path) -> None:
    """Write a volume as compressed .nrrd or .mha, with its grid and nothing else.

    Args:
        volume: Booleans are written as uint8, other dtypes as they are.
        path: The file, ending in .nrrd or .mha.

    Raises:
        InputError: The file cannot be written.
    """
    array = volume.array
    image = SimpleITK.GetImageFromArray(array.astype(np.uint8) if array.dtype == bool else array)
    image.SetSpacing(volume.spacing)
    image.SetOrigin(volume.origin)
    image.SetDirection(volume.direction)
    with replacing(path, path.suffix.lower()) as temporary, quiet_itk():
        try:
            SimpleITK.WriteImage(image, os.fspath(temporary), useCompression=True)
        except RuntimeError as error:
            raise InputError(f"{path}: cannot be written: {_last_line(error)}") from error


def volume_from_itk(image: SimpleITK.Image, path: Path, modality: str | None = None) -> Volume:
    """Make a volume of a SimpleITK image of 2 or 3 dimensions.

    Args:
        image: With one number per voxel.
        path: Named in errors.
        modality: "CT", "MR", "US" or None.

    Raises:
        GeometryError: Its grid is impossible.
    """
    array = SimpleITK.GetArrayFromImage(image)
    spacing, origin, direction = image.GetSpacing(), image.GetOrigin(), image.GetDirection()
    if image.GetDimension() == 2:
        array = array[np.newaxis]
        a, b, c, d = direction
        spacing, origin, direction = (*spacing, 1.0), (*origin, 0.0), (a, b, 0.0, c, d, 0.0, 0.0, 0.0, 1.0)
    grid = ItkGrid(spacing, origin, direction)
    try:
        return Volume(array, affine_from_itk(grid), modality, itk_grid=grid)
    except GeometryError as error:
        raise GeometryError(f"{path}: {error}") from error


def _check_content(reader: SimpleITK.ImageFileReader, path: Path) -> None:
    """Refuse from the header alone what is no volume, or cannot be in the file; drop a fourth axis of 1."""
    num_components, size = reader.GetNumberOfComponents(), reader.GetSize()
    if num_components > 1:
        raise UnsupportedFormat(f"{path}: holds {num_components} numbers per voxel; one is read")
    if len(size) > 3:
        num_frames = int(np.prod(size[3:]))
        if num_frames > 1:
            raise InputError(f"{path}: holds {num_frames} frames; a volume is one of them")
        reader.SetExtractSize((*size[:3], *(0,) * (len(size) - 3)))
    num_bytes = int(np.prod(size, dtype=object)) * _bytes_per_voxel(reader.GetPixelID())
    if num_bytes > _largest_content(path):
        raise UnsupportedFormat(
            f"{path}: the header claims {num_bytes} bytes, the file holds less; it is truncated"
        )


def _bytes_per_voxel(pixel_id: int) -> int:
    return int(SimpleITK.Image(1, 1, pixel_id).GetSizeOfPixelComponent())


def _largest_content(path: Path) -> float:
    """Return how many bytes of voxels a file can hold.

    ITK fills the memory it is told to, which takes its time, before it finds that there is nothing to read.
    """
    with path.open("rb") as file:
        head = file.read(_HEADER_LIMIT).lower()
    if path.suffix.lower() == ".mhd" or any(mark in head for mark in _MARKS_ELSEWHERE):
        return float("inf")
    is_raw = any(mark in head for mark in _MARKS_RAW)
    return path.stat().st_size * (1 if is_raw else _LARGEST_RATIO)


def _last_line(error: RuntimeError) -> str:
    """Return the part of an ITK exception that says what went wrong; before it come places in its source."""
    return str(error).strip().splitlines()[-1].removeprefix("sitk::ERROR: ").strip()
