"""Write a file whole or not at all."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from medsam2.errors import InputError


@contextmanager
def replacing(path: Path, suffix: str) -> Iterator[Path]:
    """Give a temporary name beside a file; put it in the file's place at the end.

    If anything fails, the temporary file is gone and what was at `path` before is still there.

    Args:
        path: The final name.
        suffix: How the temporary name ends, for writers that choose a format by it.

    Raises:
        InputError: The folder or the file cannot be written.
    """
    # The name says nothing of the final one, which may be a patient's.
    temporary = path.parent / f".medsam2-{secrets.token_hex(8)}{suffix}"
    try:
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        # Where the folder itself is missing or is a file there is nothing to remove, and no way to ask.
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
