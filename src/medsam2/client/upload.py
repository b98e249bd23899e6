"""A scan as one file that can be sent."""

from __future__ import annotations

import os
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from medsam2.errors import InputError
from medsam2.imaging.io import read, write
from medsam2.imaging.volume import Volume

_NIFTI = "scan.nii.gz"
_OF_TWO_FILES = (".mhd",)


@contextmanager
def file_to_send(
    scan: str | os.PathLike[str] | Volume, *, as_nifti: bool = False, frame: int | None = None
) -> Iterator[tuple[Path, int | None]]:
    """Make one file of a scan, gone afterwards if it was made for this.

    Args:
        scan: A file as it is, a folder with DICOM files as a .zip, a volume as .nii.gz.
        as_nifti: Turn every other format into .nii.gz as well.
        frame: Which volume of a 4D file is meant, from 0.

    Yields:
        The file, and which frame of it is meant: None where the file holds that frame alone.

    Raises:
        InputError: There is no such file, it cannot be read or written, or a volume has no such frame.
    """
    with tempfile.TemporaryDirectory(prefix="medsam2-") as name:
        made = Path(name) / _NIFTI
        if isinstance(scan, Volume):
            if frame is not None:
                raise InputError(
                    f"frame {frame} of a volume that was read already: read the file by this frame"
                )
            write(scan, made)
            yield made, None
            return
        path = Path(scan)
        if not path.exists():
            raise InputError(f"{path}: no such file")
        is_nifti = path.name.lower().endswith((".nii", ".nii.gz"))
        if path.suffix.lower() in _OF_TWO_FILES or (as_nifti and not is_nifti):
            write(read(path, frame=frame), made)
            yield made, None
        elif path.is_dir():
            yield _packed(path, made.with_suffix(".zip")), frame
        else:
            yield path, frame


def _packed(folder: Path, archive: Path) -> Path:
    with zipfile.ZipFile(archive, "x", zipfile.ZIP_DEFLATED, compresslevel=1) as packed:
        for place, _, names in os.walk(folder):
            for name in sorted(names):
                file = Path(place, name)
                if file.is_file():  # a pipe would be waited for
                    packed.write(file, file.relative_to(folder))
    return archive
