"""What can go wrong, as types a caller can catch; how files and packages are named in messages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path


class MedSAM2Error(Exception):
    """Base of every exception this package raises on purpose."""


class InputError(MedSAM2Error, ValueError):
    """Something the caller gave is not usable."""


class UnsupportedFormat(InputError):
    """A file is not, or not completely, in a format we read."""


class GeometryError(InputError):
    """A grid is impossible, or two grids that should agree do not."""


class PromptError(InputError):
    """A box, point, mask or slice does not lie in the image."""


class CheckpointError(MedSAM2Error):
    """Weights are missing, damaged or belong to another network."""


class SessionError(MedSAM2Error):
    """The session's state does not allow the operation."""


class ServerError(MedSAM2Error):
    """A server is not there, is busy or has failed.

    Args:
        text: One sentence.
        retry_after_s: When the server says that it is worth trying again, if it says so.
    """

    def __init__(self, text: str, *, retry_after_s: int | None = None) -> None:
        super().__init__(text)
        self.retry_after_s = retry_after_s


_LONGEST = 200


def in_a_line(text: object) -> str:
    """Return the first line of a text, cut where it is too long, in characters that can be printed."""
    line = next(iter(str(text).splitlines()), "")[:_LONGEST]
    return line if line.isprintable() else repr(line)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn the system's errors over a file into ours.

    Raises:
        InputError: The file cannot be read.
    """
    try:
        yield
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Put a file's name before the words of our errors, for code that does not know the file."""
    try:
        yield
    except InputError as error:
        raise type(error)(f"{path}: {error}") from error


def require(package: str, use: str, extra: str, name: str | None = None) -> None:
    """Make sure that an optional package is installed.

    Args:
        package: As it is imported.
        use: What needs it, with the verb: "STL files need".
        extra: Our extra that installs it.
        name: What people call the package; as it is imported if not given.

    Raises:
        InputError: It is not installed.
    """
    try:
        import_module(package)
    except ImportError as error:
        raise InputError(f"{use} {name or package}: pip install 'medsam2[{extra}]'") from error


class Conflict(MedSAM2Error):
    """Somebody else holds the case, or its state does not allow it.

    Args:
        text: One sentence.
        holder: Who holds the case, if that is the reason.
        until_ms: Until when, in milliseconds since 1970 (UTC).
    """

    def __init__(self, text: str, *, holder: str | None = None, until_ms: int | None = None) -> None:
        super().__init__(text)
        self.holder = holder
        self.until_ms = until_ms


class UnknownCase(InputError):
    """The project has no such case, or the case no such version."""


class DatabaseAway(MedSAM2Error):
    """The project's database does not answer."""
