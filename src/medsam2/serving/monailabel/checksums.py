"""SHA-256 of images, counted once for as long as a file stays as it is."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

_KEPT = 1024
PREFIX = "SHA256:"


def checksum(path: Path) -> str:
    """A file's checksum as clients write it."""
    stat = path.stat()
    return PREFIX + _digest(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=_KEPT)
def _digest(path: Path, *_: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
