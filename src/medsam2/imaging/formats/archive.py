"""Recognise files by their first bytes, and unpack a .zip into a temporary folder."""

from __future__ import annotations

import gzip
import stat
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from medsam2.errors import InputError, UnsupportedFormat, in_a_line, reading
from medsam2.imaging.dicom.header import looks_like_dicom
from medsam2.imaging.formats.voxels import GZIP_MAGIC
from medsam2.imaging.volume import LARGEST_VOLUME_BYTES

MAX_MEMBERS = 20_000
"""Files in an archive; a study of ten series has about five thousand."""
MAX_UNPACKED_BYTES = LARGEST_VOLUME_BYTES

_CHUNK_SIZE = 1 << 20
_ENCRYPTED = 1  # the first of a member's flags
# What file managers add.
_IGNORED_FOLDERS = ("__MACOSX",)


def is_zip(path: Path) -> bool:
    """Whether a path is a file whose name ends in .zip."""
    return path.suffix.lower() == ".zip" and path.is_file()


@contextmanager
def unpacked(
    path: Path, *, max_members: int = MAX_MEMBERS, max_bytes: int = MAX_UNPACKED_BYTES
) -> Iterator[Path]:
    """Unpack an archive into a folder that is removed at the end.

    Our errors and warnings in the block name the archive, not the folder.

    Args:
        path: The .zip file.
        max_members: How many files it may hold.
        max_bytes: How many bytes they may have, unpacked.

    Raises:
        InputError: The archive cannot be read, its content is too large, or there is no room for it.
        UnsupportedFormat: It is no .zip, is damaged or encrypted, or holds a link or a path that leads
            out of it.
    """
    with tempfile.TemporaryDirectory(prefix="medsam2-") as name:
        folder = Path(name)
        try:
            with zipfile.ZipFile(path) as archive:
                _unpack(archive, folder, path, max_members, max_bytes)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
            raise UnsupportedFormat(f"{path}: cannot be read as .zip: {in_a_line(error)}") from error
        except OSError as error:
            raise InputError(f"{path}: cannot be unpacked: {error.strerror or error}") from error
        with _renamed(folder, path):
            yield folder


def _unpack(archive: zipfile.ZipFile, folder: Path, path: Path, max_members: int, max_bytes: int) -> None:
    # Not `is_dir`, which fails for a member without a name; such a member is refused below.
    members = [member for member in archive.infolist() if not member.filename.endswith("/")]
    if len(members) > max_members:
        raise InputError(f"{path}: holds {len(members)} files; at most {max_members} are unpacked")
    num_bytes = sum(member.file_size for member in members)
    if num_bytes > max_bytes:
        raise InputError(f"{path}: unpacks to {num_bytes} bytes; at most {max_bytes} are unpacked")
    for member in members:
        _check_member(member, path)
    # `ZipExtFile` gives no more bytes than the directory says, so the sum above is an upper limit.
    for member in members:
        if _inner_path(member).parts[0] in _IGNORED_FOLDERS:
            continue
        target = folder / _inner_path(member)
        target.parent.mkdir(parents=True, exist_ok=True)
        with archive.open(member) as stream, target.open("xb") as file:
            while chunk := stream.read(_CHUNK_SIZE):
                file.write(chunk)


def _check_member(member: zipfile.ZipInfo, path: Path) -> None:
    name, inner = member.filename, _inner_path(member)
    if not inner.parts or inner.is_absolute() or ".." in inner.parts or inner.parts[0][1:2] == ":":
        raise UnsupportedFormat(f"{path}: holds a file named {name!r}, which would lie outside of it")
    if stat.S_ISLNK(member.external_attr >> 16):
        raise UnsupportedFormat(f"{path}: holds a link, {name!r}; files are read")
    if member.flag_bits & _ENCRYPTED:
        raise UnsupportedFormat(f"{path}: is encrypted; unpack it first")


def _inner_path(member: zipfile.ZipInfo) -> PurePosixPath:
    """Return a member's path in its archive; some programs for Windows write backslashes."""
    return PurePosixPath(member.filename.replace("\\", "/"))


@contextmanager
def _renamed(folder: Path, path: Path) -> Iterator[None]:
    """Let errors and warnings name the archive, since users do not know the folder."""

    def rename(text: object) -> str:
        return str(text).replace(f"{folder}/", f"{path}/").replace(str(folder), str(path))

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            yield
        except InputError as error:
            raise type(error)(rename(error)) from error
    for one in caught:
        warnings.warn_explicit(rename(one.message), one.category, one.filename, one.lineno)


_HEAD_SIZE = 512
_NIFTI_MARKS = ((344, (b"n+1", b"ni1")), (4, (b"n+2", b"ni2")))  # place in the header, and marks
# First bytes of a file -> what it is, and its usual suffixes.
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
    """Say what a file is, with its usual suffixes, such as "NRRD (.nrrd)"; None if it is not known.

    Raises:
        InputError: The file cannot be read.
    """
    with reading(path), path.open("rb") as file:
        head = file.read(_HEAD_SIZE)
        if head.startswith(GZIP_MAGIC):
            file.seek(0)
            try:
                head = gzip.GzipFile(fileobj=file).read(_HEAD_SIZE)
            except (EOFError, zlib.error, gzip.BadGzipFile):
                return None
    return _kind(head)


def _kind(head: bytes) -> str | None:
    if any(head[place : place + 3] in marks for place, marks in _NIFTI_MARKS):
        return "NIfTI (.nii, .nii.gz)"
    for start, kind in _STARTS:
        if head.startswith(start):
            return kind
    return "DICOM" if looks_like_dicom(head) else None
