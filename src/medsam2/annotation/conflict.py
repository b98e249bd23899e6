"""What cannot be done because of what others did, or because it is not there."""

from __future__ import annotations

from medsam2.errors import InputError, MedSAM2Error


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
