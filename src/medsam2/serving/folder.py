"""The one folder of the server's machine that sessions may open files from, and nothing beside it."""

from __future__ import annotations

import os
from pathlib import Path

from medsam2.serving.faults import Fault, shown

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
        Fault: 403, it leads out of the folder, by itself or by a link; 404, nothing is there; 422, no path.
    """
    if folder is None:
        raise Fault(
            403, "this server opens no files of its own (it was started without --folder); send the file"
        )
    if "\0" in path or "\\" in path:
        raise Fault(
            422, f"path is {shown(path)}; names of folders and of a file, between slashes, are expected"
        )
    leads_out = Fault(403, f"path is {shown(path)}, which leads out of the server's folder; stay below it")
    wanted = Path(path)
    if wanted.is_absolute() or ".." in wanted.parts:
        raise leads_out
    try:
        root = folder.resolve(strict=True)
        found = (root / wanted).resolve()
        if not found.is_relative_to(root):
            raise leads_out
        if not (found.is_file() or found.is_dir()):
            raise Fault(404, f"there is no file {shown(path)} in the server's folder")
        if found.is_dir() and _has_way_out(found, root):
            raise leads_out
    except (OSError, RuntimeError, ValueError):  # a ring of links, a name too long, a folder that is closed
        raise Fault(404, f"there is no file {shown(path)} in the server's folder") from None
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
                raise Fault(413, f"the folder holds more than {MAX_FILES} files; name that of one series")
            if file.is_symlink() and not file.resolve().is_relative_to(root):
                return True
    return False
