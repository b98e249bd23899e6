"""Read the image of a request in another process; find files in the one folder that sessions may open."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import numpy as np

from medsam2.errors import InputError
from medsam2.imaging.volume import Volume
from medsam2.serving.http_errors import NotAllowed, NotFound, TooLarge, shown
from medsam2.serving.limits import Reservation
from medsam2.serving.service import Service
from medsam2.serving.settings import MIB, ServerSettings

MAX_FILES = 50_000
"""In a folder of a DICOM series, as the reader has it."""


def file_within(folder: Path | None, path: str) -> Path:
    """Find what a caller names.

    Args:
        folder: What the operator allows, if anything.
        path: Of a file, or of a folder with a DICOM series, from that folder.

    Returns:
        The path without links.

    Raises:
        NotAllowed: It leads out of the folder, by itself or by a link.
        NotFound: Nothing is there.
        InputError: It is not a path.
    """
    if folder is None:
        raise NotAllowed(
            "this server opens no files of its own (it was started without --folder); send the file"
        )
    if "\0" in path or "\\" in path:
        raise InputError(
            f"path is {shown(path)}; names of folders and of a file, between slashes, are expected"
        )
    leads_out = NotAllowed(f"path is {shown(path)}, which leads out of the server's folder; stay below it")
    wanted = Path(path)
    if wanted.is_absolute() or ".." in wanted.parts:
        raise leads_out
    try:
        root = folder.resolve(strict=True)
        found = (root / wanted).resolve()
        if not found.is_relative_to(root):
            raise leads_out
        if not (found.is_file() or found.is_dir()):
            raise NotFound(f"there is no file {shown(path)} in the server's folder")
        if found.is_dir() and _has_way_out(found, root):
            raise leads_out
    except (OSError, RuntimeError, ValueError):  # a circle of links, a name that is too long, a closed folder
        raise NotFound(f"there is no file {shown(path)} in the server's folder") from None
    return found


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder and below."""
    if path.is_file():
        return path.stat().st_size
    files = (Path(place, name) for place, _, names in os.walk(path) for name in names)
    return sum(file.stat().st_size for file in files if file.is_file())


def _has_way_out(found: Path, root: Path) -> bool:
    """Whether a link among the files of a folder leads out; links to folders are not followed."""
    num_files = 0
    for place, _, names in os.walk(found):
        for name in names:
            num_files += 1
            file = Path(place, name)
            if num_files > MAX_FILES:
                raise TooLarge(f"the folder holds more than {MAX_FILES} files; name that of one series")
            if file.is_symlink() and not file.resolve().is_relative_to(root):
                return True
    return False


_MEASURED = (".nii.gz", ".nii", ".zip")
_LABEL_COPIES = 2  # bytes per voxel while masks become labels


async def read_volume(
    path: Path, service: Service, reservation: Reservation, frame: int | None = None
) -> Volume:
    """Read an image; the voxels are mapped from a file that is deleted already.

    Args:
        path: In a folder of the server; a link is allowed. A folder holds a DICOM series.
        service: Lends the process.
        reservation: Grows by the image and its labels before either is in memory. NIfTI files and archives
            say how much they need; for other files it is their size, until they are read.
        frame: Which volume of a 4D file, from 0.

    Raises:
        InputError: It cannot be read.
        HttpError: It is too large, there is no memory for it, or reading it takes too long.
    """
    async with service.readers.lend() as reader:
        if path.name.endswith(_MEASURED):
            claim = await reader.measure(path)
            num_bytes, num_voxels = claim.num_bytes, claim.num_voxels
        else:
            num_bytes, num_voxels = await service.workers.run(partial(size_of, path)), 0
        check_volume_size(num_bytes, service.settings)
        counted = num_bytes + _LABEL_COPIES * num_voxels
        reservation.grow(counted)
        volume = await reader.read(path, frame)
    array = volume.array
    check_volume_size(array.nbytes, service.settings)
    reservation.shrink(counted)
    reservation.grow(num_bytes_with_labels(array))
    return volume


def check_volume_size(num_bytes: int, settings: ServerSettings) -> None:
    """Refuse a volume that is larger than one file may hold.

    Raises:
        TooLarge: It is.
    """
    limit = settings.max_volume
    if num_bytes > limit * MIB:
        raise TooLarge(
            f"the image has {num_bytes} bytes once it is unpacked; this server takes {limit} MiB "
            "(MEDSAM2_MAX_VOLUME)"
        )


def num_bytes_with_labels(array: np.ndarray) -> int:
    """Memory of a volume's voxels, and of its masks while they become labels."""
    return array.nbytes + _LABEL_COPIES * array.size
