"""Pictures that can be made again, kept in the project's hidden folder."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from pathlib import Path

from medsam2.annotation.layout import HIDDEN
from medsam2.errors import InputError
from medsam2.imaging.replacing import replacing


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
