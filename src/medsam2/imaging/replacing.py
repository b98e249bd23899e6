"""Write a file, or a folder of files, whole or not at all."""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from medsam2.errors import InputError


@contextmanager
def replacing(path: Path, suffix: str) -> Iterator[Path]:
    """Give a temporary name beside a file; put the temporary file in the file's place at the end.

    If anything fails, the temporary file is removed and the file at `path` stays as it was. The content is
    flushed to the disk before the file gets its name, since some disks report only then that they are full.

    Args:
        path: The final name. If it is a symbolic link, the file behind it is replaced, and the link stays.
        suffix: How the temporary name ends, for writers that choose a format by it.

    Raises:
        InputError: The folder or the file cannot be written.
    """
    target = Path(os.path.realpath(path)) if path.is_symlink() else path
    # The final name may be a patient's, so the temporary one does not repeat it.
    temporary = target.parent / f".medsam2-{secrets.token_hex(8)}{suffix}"
    try:
        yield temporary
        flush(temporary)
        temporary.replace(target)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        # If the folder is missing or is a file, there is nothing to remove.
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def filling(folder: Path) -> Iterator[Path]:
    """Give a temporary folder to fill; give it the new folder's name at the end.

    If anything fails, the temporary folder is removed and there is no new folder.

    Raises:
        InputError: The folder exists and is not empty, or cannot be made.
    """
    check_new_folder(folder)
    temporary = folder.absolute().parent / f".medsam2-{secrets.token_hex(8)}"
    try:
        temporary.mkdir()
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                flush(file)
        if folder.is_dir():
            folder.rmdir()
        temporary.rename(folder)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def flush(path: Path) -> None:
    """Wait until a file's content is on the disk.

    Raises:
        OSError: The disk is full, or not there any more.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_new_folder(folder: Path) -> None:
    """Refuse a folder that cannot be made and filled, before the work that would fill it.

    Raises:
        InputError: It exists and is not empty, is a file, or its parent folder is missing.
    """
    if folder.is_dir():
        if any(folder.iterdir()):
            raise InputError(f"{folder}: is not empty; give a new folder for the results")
    elif folder.exists():
        raise InputError(f"{folder}: is a file; give a new folder for the results")
    elif not folder.absolute().parent.is_dir():
        raise InputError(f"{folder}: cannot be made, there is no folder {folder.parent}")
