"""The files in a project's folder: where each lies, and small pictures that can be drawn again."""

from __future__ import annotations

import errno
import hashlib
import io
import itertools
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from PIL import Image, ImageColor

from medsam2.annotation.names import check_case_name
from medsam2.errors import InputError, reading
from medsam2.imaging.formats.archive import kind_of_content
from medsam2.imaging.intensity import resolve_window, to_uint8
from medsam2.imaging.io import READ_SUFFIXES, read
from medsam2.imaging.replacing import replacing
from medsam2.imaging.volume import Volume
from medsam2.measure.preview import outline_of

MARKER = "medsam2.json"
"""The file that makes a folder a project: its name, its key and the URL of its database."""
DATABASE = "medsam2.db"
HIDDEN = ".medsam2"
"""The folder for thumbnails and for the weights of rounds."""
LABELS = "labels"
VERSIONS = "versions"
MASK_SUFFIX = ".nii.gz"

_ARCHIVE = ".zip"
_DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
_MOST_FILES = 50  # that are read to see whether a folder contains DICOM


@dataclass(frozen=True)
class Scan:
    """A scan in the project's folder."""

    name: str
    """Name of the case: that of the file without its suffix, or that of the folder."""
    path: str
    """Relative to the project's folder."""


@dataclass(frozen=True)
class LeftOut:
    """An entry of the folder that cannot be a case, and why."""

    path: str
    reason: str


def find_scans(folder: Path) -> tuple[list[Scan], list[LeftOut]]:
    """List the scans in a folder: files that `read` can read, .zip files and folders of DICOM.

    Other folders are not searched.

    Raises:
        InputError: The folder cannot be read.
    """
    with reading(folder):
        entries = sorted(folder.iterdir(), key=lambda entry: entry.name)
    scans: dict[str, Scan] = {}
    left: list[LeftOut] = []
    for entry in entries:
        if entry.name.startswith(".") or entry.name in (LABELS, VERSIONS, MARKER):
            continue
        if (stem := _stem(entry)) is None:
            continue
        try:
            name = check_case_name(stem)
        except InputError as error:
            left.append(LeftOut(_shown(entry.name), str(error)))
            continue
        # Two scans with one name would share a mask file; some file systems ignore upper and lower case.
        if (other := scans.get(name.casefold())) is not None:
            left.append(LeftOut(entry.name, f"has the same name as {other.path}; rename one of them"))
            continue
        scans[name.casefold()] = Scan(name, entry.name)
    return list(scans.values()), left


def final_path(folder: Path, name: str) -> Path:
    """Path of the latest finished mask of a case, where MONAI Label and other programs find it."""
    return folder / LABELS / "final" / f"{name}{MASK_SUFFIX}"


def original_path(folder: Path, name: str) -> Path:
    """Path of the latest proposal of a model for a case."""
    return folder / LABELS / "original" / f"{name}{MASK_SUFFIX}"


def version_path(folder: Path, name: str, at_ms: int, sha256: str) -> Path:
    """Path of a version; its name has the time and a digest of the content, so each is unique."""
    moment = datetime.fromtimestamp(at_ms / 1000, UTC)
    stamp = moment.strftime("%Y%m%dT%H%M%S") + f"{at_ms % 1000:03d}Z"
    return folder / VERSIONS / name / f"{stamp}-{sha256[:12]}{MASK_SUFFIX}"


def publish(version: Path, target: Path) -> None:
    """Copy a version to the path where other programs find it; they may change that copy.

    Raises:
        InputError: It cannot be written.
    """
    make_folder(target.parent)
    with replacing(target, MASK_SUFFIX) as temporary:
        shutil.copyfile(version, temporary)
        flush(temporary)


def make_folder(folder: Path) -> None:
    """Make a folder in a project, unless it exists.

    Raises:
        InputError: It cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made: {error.strerror or error}") from error


def flush(path: Path) -> None:
    """Wait until a file's bytes are on the disk, so that a power cut cannot leave half of it."""
    with path.open("rb") as file:
        try:
            os.fsync(file.fileno())
        except OSError as error:
            # Some network file systems do not support it.
            if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
                raise


def _stem(entry: Path) -> str | None:
    """Name of the case that an entry would be, None if it is not a scan."""
    lower = entry.name.lower()
    if entry.is_dir():
        return entry.name if _holds_dicom(entry) else None
    for suffix in sorted((*READ_SUFFIXES, _ARCHIVE, *_DICOM_SUFFIXES), key=len, reverse=True):
        if lower.endswith(suffix):
            return entry.name[: -len(suffix)]
    return None


def _holds_dicom(folder: Path) -> bool:
    files = (path for path in folder.rglob("*") if path.is_file())
    return any(_is_dicom(path) for path in itertools.islice(files, _MOST_FILES))


def _is_dicom(path: Path) -> bool:
    try:
        return path.name.lower().endswith(_DICOM_SUFFIXES) or kind_of_content(path) == "DICOM"
    except InputError:
        return False


def _shown(name: str) -> str:
    """A name for messages, with unprintable characters escaped."""
    return (
        name.encode("unicode_escape", "surrogateescape").decode("ascii") if not name.isprintable() else name
    )


def find_picture(folder: Path, key: str, *, newer_than: Path | None = None) -> bytes | None:
    """Return a stored picture of a project.

    Args:
        folder: The project's folder.
        key: Says what the picture shows.
        newer_than: A file; an older picture does not count.

    Returns:
        PNG; None if there is no such picture.
    """
    kept = _path(folder, key)
    with suppress(OSError):
        if newer_than is None or kept.stat().st_mtime_ns >= newer_than.stat().st_mtime_ns:
            return kept.read_bytes()
    return None


def keep_picture(folder: Path, key: str, picture: bytes) -> None:
    """Store a picture; if that fails, it is drawn again the next time."""
    path = _path(folder, key)
    with suppress(OSError, InputError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path, ".png") as temporary:
            temporary.write_bytes(picture)


def _path(folder: Path, key: str) -> Path:
    # A digest, because a key may have any characters.
    return folder / HIDDEN / "pictures" / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.png"


SIDE = 160
"""Longer side of a thumbnail, in pixels."""
REPORT_SIDE = 300
"""Longer side of a picture with outlines, in pixels."""
_LINE = 2  # pixels


def thumbnail(folder: Path, scan: str) -> bytes:
    """Return a scan's middle slice as PNG; a stored picture is used unless the scan is newer.

    Args:
        folder: The project's folder.
        scan: Path of the scan in the folder.

    Raises:
        InputError: The scan cannot be read.
    """
    found = find_picture(folder, scan, newer_than=folder / scan)
    return found if found is not None else store_thumbnail(folder, scan, read(folder / scan))


def store_thumbnail(folder: Path, scan: str, volume: Volume) -> bytes:
    """Draw a scan's middle slice in true proportions and store the picture.

    A scan without contrast gives a grey square.

    Args:
        folder: The project's folder.
        scan: Path of the scan in the folder.
        volume: The scan.

    Returns:
        PNG.
    """
    index = volume.shape[0] // 2
    picture = _png(_enlarged(_grey(volume, index), volume, SIDE))
    keep_picture(folder, scan, picture)
    return picture


def outlined(volume: Volume, labels: np.ndarray, colours: Mapping[int, str]) -> bytes:
    """Draw the slice with the largest area of objects, each outlined in its colour.

    Args:
        volume: The scan.
        labels: Labels (z, y, x) in the scan's shape.
        colours: Label -> #rrggbb.

    Returns:
        PNG.
    """
    index = int((labels > 0).sum(axis=(1, 2)).argmax())
    picture = _enlarged(_grey(volume, index), volume, REPORT_SIDE).convert("RGB")
    pixels = np.array(picture)
    for label in np.unique(labels[index][labels[index] > 0]):
        edge = outline_of(labels[index] == label, picture.size, _LINE)
        pixels[edge] = ImageColor.getrgb(colours.get(int(label), "#e63c3c"))
    return _png(Image.fromarray(pixels))


def _grey(volume: Volume, index: int) -> np.ndarray:
    plane = volume.array[index]
    try:
        return to_uint8(plane, resolve_window(volume))
    except InputError:
        return np.full(plane.shape, 64, np.uint8)


def _enlarged(grey: np.ndarray, volume: Volume, side: int) -> Image.Image:
    x_mm, y_mm, _ = volume.spacing
    height, width = grey.shape[0] * y_mm, grey.shape[1] * x_mm
    scale = side / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return Image.fromarray(grey).resize(size, Image.Resampling.BICUBIC)


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()
