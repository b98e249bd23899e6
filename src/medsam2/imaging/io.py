"""Read and write volumes by the name of the file."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

from medsam2.errors import InputError, UnsupportedFormat, reading
from medsam2.imaging.dicom.read import read_dicom
from medsam2.imaging.formats import archive, itk, mgh, nifti, npz, still
from medsam2.imaging.formats.archive import kind_of_content
from medsam2.imaging.volume import Volume

_Entry = TypeVar("_Entry")
_STILLS = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
_ONE_VOLUME = (".npz", *_STILLS)
_VOXELS_OF_PAIRS = (".img", ".img.gz")
_READERS: Mapping[str, Callable[..., Volume]] = MappingProxyType(
    {
        **dict.fromkeys((".nii", ".nii.gz", ".hdr", ".hdr.gz", *_VOXELS_OF_PAIRS), nifti.read),
        **dict.fromkeys((".nhdr", ".nrrd", ".mha", ".mhd"), itk.read),
        **dict.fromkeys((".mgz", ".mgh"), mgh.read),
        ".npz": npz.read,
        **dict.fromkeys(_STILLS, still.read),
    }
)
READ_SUFFIXES = tuple(suffix for suffix in _READERS if suffix not in _VOXELS_OF_PAIRS)
"""Suffixes of the files that are read, beside DICOM and archives; for a pair, the header's."""
_VOLUME_SUFFIXES = tuple(suffix for suffix in READ_SUFFIXES if suffix not in _STILLS)
_DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
_WRITERS: Mapping[str, Callable[[Volume, Path], None]] = MappingProxyType(
    {".nii": nifti.write, ".nii.gz": nifti.write, ".nrrd": itk.write, ".mha": itk.write}
)


def read(
    path: str | os.PathLike[str], *, frame: int | None = None, series: int | str | None = None
) -> Volume:
    """Read a scan, a mask or a picture in its own voxel order.

    Args:
        path: A .nii, .nii.gz, .hdr or .img, .nrrd, .nhdr, .mha, .mhd, .mgz, .mgh, .npz, .png, .jpg, .jpeg,
            .tif or .tiff file, a DICOM file with any name, a folder with DICOM files, or a .zip that holds
            DICOM files or one volume.
        frame: Which frame of a 4D file, or which of several images at each position of a DICOM series, from
            0; not needed if there is one.
        series: Number or UID of a DICOM series. If there are several and none is named, the one with most
            slices is read, with a warning.

    Raises:
        InputError: There is no such file, or it is no volume. Its subclasses:
        UnsupportedFormat: The format is not one of these, or the file is damaged, truncated or too large.
        GeometryError: The grid is impossible.
    """
    path = Path(path)
    with reading(path):
        is_there, is_folder = path.exists(), path.is_dir()
    if not is_there:
        raise InputError(f"{path}: no such file")
    if archive.is_zip(path):
        with archive.unpacked(path) as folder:
            return _read_unpacked(folder, frame, series)
    if is_folder or _is_dicom(path):
        return read_dicom(path, frame=frame, series=series)
    reader = _by_suffix(
        path, _READERS, "read", ", or DICOM: a file, a folder or a .zip; `medsam2 video` takes videos"
    )
    if series is not None:
        raise InputError(f"{path}: only DICOM has series; series {series!r} cannot be read from this file")
    try:
        if path.name.lower().endswith(_ONE_VOLUME):
            if frame is not None:
                raise InputError(f"{path}: files of this format have no frames; frame {frame} cannot be read")
            return reader(path)
        return reader(path, frame=frame)
    except UnsupportedFormat as error:
        raise _explained(error, path) from error


def _read_unpacked(folder: Path, frame: int | None, series: int | str | None) -> Volume:
    """Read the content of a .zip: one volume, or DICOM files."""
    found = sorted(
        file for file in folder.rglob("*") if file.is_file() and file.name.lower().endswith(_VOLUME_SUFFIXES)
    )
    if len(found) > 1:
        names = ", ".join(str(file.relative_to(folder)) for file in found[:5])
        raise InputError(
            f"{folder}: holds {len(found)} volumes, {names}{' ...' * (len(found) > 5)}; one is read"
        )
    return read(found[0] if found else folder, frame=frame, series=series)


def _is_dicom(path: Path) -> bool:
    """Whether this is DICOM; such files often have no suffix, or a number as suffix."""
    name = path.name.lower()
    if name.endswith(_DICOM_SUFFIXES):
        return True
    return not name.endswith(READ_SUFFIXES) and kind_of_content(path) == "DICOM"


def _explained(error: UnsupportedFormat, path: Path) -> UnsupportedFormat:
    """Say what a file is whose content does not fit its name."""
    suffix = next(suffix for suffix in _READERS if path.name.lower().endswith(suffix))
    kind = kind_of_content(path)
    if kind is None or suffix in kind.lower():
        return error
    return UnsupportedFormat(f"{path}: is named {suffix}, but its content is {kind}; rename it")


def write(volume: Volume, path: str | os.PathLike[str]) -> None:
    """Write a volume, for example a mask, on its own grid; an existing file is replaced at the end.

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
    """Refuse a path to which no file can be written, before the work begins.

    Of a symbolic link, the target counts.

    Raises:
        InputError: The folder is missing or read-only, or the path is a folder itself.
    """
    folder = Path(os.path.realpath(path)).parent if path.is_symlink() else path.parent
    if not folder.is_dir():
        raise InputError(f"{path}: cannot be written, there is no folder {folder}")
    if path.is_dir():
        raise InputError(f"{path}: cannot be written, it is a folder")
    if not os.access(folder, os.W_OK):
        raise InputError(f"{path}: cannot be written, the folder {folder} is read-only")


def _by_suffix(path: Path, table: Mapping[str, _Entry], done: str, also: str = "") -> _Entry:
    for suffix, entry in table.items():
        if path.name.lower().endswith(suffix):
            return entry
    raise UnsupportedFormat(f"{path}: this suffix is not {done}; {', '.join(table)} are{also}")
