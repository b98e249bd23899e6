"""Read and write volumes by the name of the file."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

from medsam2.errors import InputError, UnsupportedFormat
from medsam2.imaging import dicom, itk, nifti, still
from medsam2.imaging.volume import Volume

_Entry = TypeVar("_Entry")

_READERS: Mapping[str, Callable[[Path], Volume]] = MappingProxyType(
    {
        ".nii": nifti.read,
        ".nii.gz": nifti.read,
        ".nrrd": itk.read,
        ".mha": itk.read,
        ".mhd": itk.read,
        ".png": still.read,
        ".jpg": still.read,
        ".jpeg": still.read,
        ".tif": still.read,
        ".tiff": still.read,
    }
)
_WRITERS: Mapping[str, Callable[[Volume, Path], None]] = MappingProxyType(
    {".nii": nifti.write, ".nii.gz": nifti.write, ".nrrd": itk.write, ".mha": itk.write}
)


def read(path: str | os.PathLike[str], *, frame: int | None = None) -> Volume:
    """Read a scan, a mask or a picture in its own voxel order.

    Args:
        path: A .nii, .nii.gz, .nrrd, .mha, .mhd, .png, .jpg, .jpeg, .tif or .tiff file, or a folder with one
            DICOM series of CT or MR.
        frame: Which frame of a 4D NIfTI file to read, from 0; not needed if there is one.

    Raises:
        InputError: There is no such file, or it is no volume. Its subclasses:
        UnsupportedFormat: The format is not one of these, or the file is damaged or truncated.
        GeometryError: The grid is impossible.
    """
    path = Path(path)
    if path.is_dir():
        reader: Callable[[Path], Volume] = dicom.read
    elif not path.exists():
        raise InputError(f"{path}: no such file")
    else:
        reader = _by_suffix(path, _READERS, "read", ", or a folder with one DICOM series")
    if reader is nifti.read:
        return nifti.read(path, frame=frame)
    if frame is not None:
        raise InputError(
            f"{path}: only NIfTI files have frames to choose from, this one cannot give frame {frame}"
        )
    return reader(path)


def write(volume: Volume, path: str | os.PathLike[str]) -> None:
    """Write a volume, a mask say, on its own grid; an existing file is replaced once all is written.

    Args:
        volume: Booleans are written as uint8, other dtypes as they are.
        path: A .nii, .nii.gz, .nrrd or .mha file.

    Raises:
        UnsupportedFormat: The suffix is not one of these.
        InputError: The file cannot be written.
    """
    path = Path(path)
    _by_suffix(path, _WRITERS, "written")(volume, path)


def check_output(path: Path) -> None:
    """Refuse a place where a file cannot be written, before the work that would fill it.

    Raises:
        InputError: The folder is missing or read-only, or the path is a folder itself.
    """
    folder = path.parent
    if not folder.is_dir():
        raise InputError(f"{path}: cannot be written, there is no folder {folder}")
    if path.is_dir():
        raise InputError(f"{path}: cannot be written, it is a folder")
    if not os.access(folder, os.W_OK):
        raise InputError(f"{path}: cannot be written, the folder {folder} is read-only")


def check_mask_output(path: Path) -> None:
    """Refuse what `write` would, before the work.

    Raises:
        UnsupportedFormat: The suffix is not one of those `write` takes.
        InputError: The place cannot be written to.
    """
    _by_suffix(path, _WRITERS, "written")
    check_output(path)


def _by_suffix(path: Path, table: Mapping[str, _Entry], done: str, also: str = "") -> _Entry:
    for suffix, entry in table.items():
        if path.name.lower().endswith(suffix):
            return entry
    raise UnsupportedFormat(f"{path}: this suffix is not {done}; {', '.join(table)} are{also}")
