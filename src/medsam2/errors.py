"""What can go wrong, as types a caller can catch."""

from __future__ import annotations


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


def in_a_line(said: object) -> str:
    """Return how a text begins: its first line, not too long, with nothing that cannot be printed."""
    line = next(iter(str(said).splitlines()), "")[:_LONGEST]
    return line if line.isprintable() else repr(line)


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
