"""Tell what a file is by its first bytes, whatever its name."""

import gzip
import zlib
from pathlib import Path

from medsam2.errors import InputError
from medsam2.imaging.dicom_header import looks_like_dicom

_HEAD_SIZE = 512
_NIFTI_MARKS = ((344, (b"n+1", b"ni1")), (4, (b"n+2", b"ni2")))  # place in the header, and what is there
_GZIP_MAGIC = b"\x1f\x8b"
# What a file starts with -> what it is, and the suffixes that are right for it.
_STARTS = (
    (b"NRRD", "NRRD (.nrrd)"),
    (b"ObjectType", "MetaImage (.mha, .mhd)"),
    (b"NDims", "MetaImage (.mha, .mhd)"),
    (b"PK\x03\x04", "a zip archive (.zip, .npz)"),
    (b"\x89PNG", "a PNG picture (.png)"),
    (b"\xff\xd8\xff", "a JPEG picture (.jpg, .jpeg)"),
    (b"II*\0", "a TIFF picture (.tif, .tiff)"),
    (b"MM\0*", "a TIFF picture (.tif, .tiff)"),
    (b"\x89HDF", "HDF5"),
    (b"CDF", "MINC"),
    (b"%PDF", "PDF"),
    (b"GIF8", "a GIF"),
)


def kind_of_content(path: Path) -> str | None:
    """Say what a file is, with the suffixes it should have: "NRRD (.nrrd)"; None if nothing is known.

    Raises:
        InputError: The file cannot be read.
    """
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_SIZE)
        if head[:2] == _GZIP_MAGIC:
            with gzip.open(path) as stream:
                return _kind(stream.read(_HEAD_SIZE))
    except (EOFError, zlib.error, gzip.BadGzipFile):
        return None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    return _kind(head)


def _kind(head: bytes) -> str | None:
    if any(head[place : place + 3] in marks for place, marks in _NIFTI_MARKS):
        return "NIfTI (.nii, .nii.gz)"
    for start, kind in _STARTS:
        if head.startswith(start):
            return kind
    return "DICOM" if looks_like_dicom(head) else None
