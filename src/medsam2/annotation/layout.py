"""Where the files of a project lie; small pictures, which can be made again, among them."""

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
from scipy import ndimage

from medsam2.annotation.names import check_case_name
from medsam2.errors import InputError
from medsam2.imaging.formats.archive import kind_of_content
from medsam2.imaging.intensity import resolve_window, to_uint8
from medsam2.imaging.io import READ_SUFFIXES, read
from medsam2.imaging.replacing import replacing
from medsam2.imaging.volume import Volume

MARKER = "medsam2.json"
"""The file that makes a folder a project: its name, its key and where its database is."""
DATABASE = "medsam2.db"
HIDDEN = ".medsam2"
"""For what can be made again: thumbnails, and the weights of rounds."""
LABELS = "labels"
VERSIONS = "versions"
MASK_SUFFIX = ".nii.gz"

_ARCHIVE = ".zip"
_DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
_LOOKED_AT = 50  # files of a folder, to see whether there is DICOM in it


@dataclass(frozen=True)
class Scan:
    """A scan in the project's folder."""

    name: str
    """What the case is called: the file's name without its suffix, or the folder's."""
    path: str
    """Below the project's folder."""


@dataclass(frozen=True)
class LeftOut:
    """Something in the folder that is no case, and why."""

    path: str
    reason: str


def find_scans(folder: Path) -> tuple[list[Scan], list[LeftOut]]:
    """List the scans that lie in a folder: files that `read` takes, .zip files and folders of DICOM.

    Folders that hold anything else are not searched.

    Raises:
        InputError: The folder cannot be read.
    """
    try:
        entries = sorted(folder.iterdir(), key=lambda entry: entry.name)
    except OSError as error:
        raise InputError(f"{folder}: cannot be read: {error.strerror or error}") from error
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
        # One name would stand for two masks; systems that ignore case would mix up names that differ in it.
        if (other := scans.get(name.casefold())) is not None:
            left.append(LeftOut(entry.name, f"has the name of {other.path}; rename one of them"))
            continue
        scans[name.casefold()] = Scan(name, entry.name)
    return list(scans.values()), left


def final_path(folder: Path, name: str) -> Path:
    """Where the latest finished mask of a case lies, for MONAI Label and everybody else."""
    return folder / LABELS / "final" / f"{name}{MASK_SUFFIX}"


def original_path(folder: Path, name: str) -> Path:
    """Where the latest proposal of a model for a case lies."""
    return folder / LABELS / "original" / f"{name}{MASK_SUFFIX}"


def version_path(folder: Path, name: str, at_ms: int, sha256: str) -> Path:
    """Where a version is kept: the name tells time and content, so that no two share one."""
    moment = datetime.fromtimestamp(at_ms / 1000, UTC)
    stamp = moment.strftime("%Y%m%dT%H%M%S") + f"{at_ms % 1000:03d}Z"
    return folder / VERSIONS / name / f"{stamp}-{sha256[:12]}{MASK_SUFFIX}"


def publish(version: Path, target: Path) -> None:
    """Put a copy of a version where others look for it; a copy, as others may write into theirs.

    Raises:
        InputError: It cannot be written.
    """
    make_folder(target.parent)
    with replacing(target, MASK_SUFFIX) as temporary:
        shutil.copyfile(version, temporary)
        flush(temporary)


def make_folder(folder: Path) -> None:
    """Make a folder in a project, if it is not there.

    Raises:
        InputError: It cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made: {error.strerror or error}") from error


def flush(path: Path) -> None:
    """Wait until a file's bytes are on the disk, so that its new name never stands for half of it."""
    with path.open("rb") as file:
        try:
            os.fsync(file.fileno())
        except OSError as error:
            # Some network file systems cannot say.
            if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
                raise


def _stem(entry: Path) -> str | None:
    """The name of the case that an entry is, None if it is none."""
    lower = entry.name.lower()
    if entry.is_dir():
        return entry.name if _holds_dicom(entry) else None
    for suffix in sorted((*READ_SUFFIXES, _ARCHIVE, *_DICOM_SUFFIXES), key=len, reverse=True):
        if lower.endswith(suffix):
            return entry.name[: -len(suffix)]
    return None


def _holds_dicom(folder: Path) -> bool:
    files = (path for path in folder.rglob("*") if path.is_file())
    return any(_is_dicom(path) for path in itertools.islice(files, _LOOKED_AT))


def _is_dicom(path: Path) -> bool:
    try:
        return path.name.lower().endswith(_DICOM_SUFFIXES) or kind_of_content(path) == "DICOM"
    except InputError:
        return False


def _shown(name: str) -> str:
    """A name that may hold anything, as it can stand in a line."""
    return (
        name.encode("unicode_escape", "surrogateescape").decode("ascii") if not name.isprintable() else name
    )


def find_picture(folder: Path, key: str, *, newer_than: Path | None = None) -> bytes | None:
    """Return a picture from the store of a project.

    Args:
        folder: The project's.
        key: What the picture shows.
        newer_than: A file that the picture must not be older than.

    Returns:
        PNG; None if there is none.
    """
    kept = _path(folder, key)
    with suppress(OSError):
        if newer_than is None or kept.stat().st_mtime_ns >= newer_than.stat().st_mtime_ns:
            return kept.read_bytes()
    return None


def keep_picture(folder: Path, key: str, picture: bytes) -> None:
    """Store a picture; where that cannot be done it is drawn again the next time."""
    path = _path(folder, key)
    with suppress(OSError, InputError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path, ".png") as temporary:
            temporary.write_bytes(picture)


def _path(folder: Path, key: str) -> Path:
    # A digest, as what is shown may be called anything.
    return folder / HIDDEN / "pictures" / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.png"


SIDE = 160
"""Pixels of a thumbnail's longer side."""
REPORT_SIDE = 300
"""Pixels of the longer side of a picture with outlines."""
_LINE = 2  # pixels


def thumbnail(folder: Path, scan: str) -> bytes:
    """Return a scan's middle slice as PNG, from the store if it is there and not older than the scan.

    Args:
        folder: The project's.
        scan: Path of the scan below it.

    Raises:
        InputError: The scan cannot be read.
    """
    found = find_picture(folder, scan, newer_than=folder / scan)
    return found if found is not None else store_thumbnail(folder, scan, read(folder / scan))


def store_thumbnail(folder: Path, scan: str, volume: Volume) -> bytes:
    """Draw a scan's middle slice in true proportions and keep it.

    A scan that shows nothing gives a grey square.

    Args:
        folder: The project's.
        scan: Path of the scan below it.
        volume: What is in it.

    Returns:
        PNG.
    """
    index = volume.shape[0] // 2
    picture = _png(_enlarged(_grey(volume, index), volume, SIDE))
    keep_picture(folder, scan, picture)
    return picture


def outlined(volume: Volume, labels: np.ndarray, colours: Mapping[int, str]) -> bytes:
    """Draw the slice with most of the objects, each outlined in its colour.

    Args:
        volume: The scan.
        labels: (z, y, x), of the scan's shape.
        colours: Label -> #rrggbb.

    Returns:
        PNG.
    """
    index = int((labels > 0).sum(axis=(1, 2)).argmax())
    picture = _enlarged(_grey(volume, index), volume, REPORT_SIDE).convert("RGB")
    pixels = np.array(picture)
    for label in np.unique(labels[index][labels[index] > 0]):
        mask = Image.fromarray((labels[index] == label).astype(np.uint8) * 255)
        # Enlarged first and outlined then, so that the line is as thick on every scan.
        inside = np.asarray(mask.resize(picture.size, Image.Resampling.BILINEAR)) > 127
        edge = inside & ~ndimage.binary_erosion(inside, iterations=_LINE, border_value=0)
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
