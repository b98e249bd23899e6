"""The errors of the server, and the one table that gives each of them its HTTP status."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import TypeVar

import orjson
from starlette.responses import Response

from medsam2.errors import Conflict, DatabaseAway, InputError, MedSAM2Error, SessionError, UnknownCase

_NO_ROOM_RETRY_S = 60
_FRAME_WORDS = re.compile(r"name it by frame=0 \.\.\.")  # what `imaging` says to callers from Python
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 60
_SHORT.maxlist = _SHORT.maxdict = 6
_SHORT.maxlevel = 3

_Error = TypeVar("_Error", bound=MedSAM2Error)


class HttpError(MedSAM2Error):
    """A request, or a row of one, that gets no result. A value that is not usable is an `InputError`.

    Args:
        text: One sentence: what is wrong, and what would be right.
        retry_after_s: When it is worth trying again, where the caller has done nothing wrong.
        details: Entries that the answer has beside the sentence and the status.
    """

    def __init__(
        self, text: str, *, retry_after_s: int | None = None, details: Mapping[str, object] | None = None
    ) -> None:
        super().__init__(text)
        self.retry_after_s = retry_after_s
        self.details = details or {}


class BadRequest(HttpError):
    """The request is not JSON, or does not have the expected form."""


class KeyMissing(HttpError):
    """The request has no key, and this server needs one."""


class NotAllowed(HttpError):
    """The key, the page, the server's name or the path is not allowed."""


class NotFound(HttpError):
    """There is no such session, case or file."""


class BodyTooSlow(HttpError):
    """The body did not arrive in time."""


class StateConflict(HttpError):
    """Another user has the case, or its state does not allow this."""


class TooLarge(HttpError):
    """The request needs more than this server ever gives."""


class AlreadyRunning(HttpError):
    """Work of this kind runs already, and only one may."""


class NotOffered(HttpError):
    """This server does not do that."""


class ArchiveFailed(HttpError):
    """The DICOMweb archive behind this server does not answer as it should."""


class Busy(HttpError):
    """The server is full at the moment."""


class TooSlow(HttpError):
    """Fetching, reading or computing took too long."""


class ServerFailed(HttpError):
    """A bug of ours."""


STATUSES: Mapping[type[MedSAM2Error], int] = MappingProxyType(
    {
        BadRequest: 400,
        KeyMissing: 401,
        NotAllowed: 403,
        NotFound: 404,
        UnknownCase: 404,
        BodyTooSlow: 408,
        StateConflict: 409,
        Conflict: 409,
        SessionError: 409,
        TooLarge: 413,
        InputError: 422,
        AlreadyRunning: 429,
        ServerFailed: 500,
        MedSAM2Error: 500,
        NotOffered: 501,
        ArchiveFailed: 502,
        Busy: 503,
        DatabaseAway: 503,
        TooSlow: 504,
    }
)
_BODY_UNREAD = (400, 408, 413)  # what was sent may not have been read to its end


def status_of(error: MedSAM2Error) -> int:
    """The HTTP status of an error: its own type's, or that of the nearest type it inherits from."""
    return next(STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES)


def error_answer(error: MedSAM2Error) -> dict[str, object]:
    """The object that an answer holds for an error."""
    details = error.details if isinstance(error, HttpError) else {}
    return {"error": str(error), "status": status_of(error), **details}


def error_headers(error: MedSAM2Error) -> dict[str, str]:
    """The headers of an answer with an error."""
    headers = {}
    if isinstance(error, HttpError) and error.retry_after_s is not None:
        headers["Retry-After"] = str(error.retry_after_s)
    if isinstance(error, KeyMissing):
        headers["WWW-Authenticate"] = "Bearer"
    return headers


def error_response(error: MedSAM2Error, *, closes: bool = False) -> Response:
    """The answer to a request that failed.

    Args:
        error: What is wrong.
        closes: Whether the connection ends with the answer, whatever the status.
    """
    status, headers = status_of(error), error_headers(error)
    if closes or status in _BODY_UNREAD:
        headers["Connection"] = "close"
    return Response(orjson.dumps(error_answer(error)), status, headers, media_type="application/json")


def reworded(error: _Error, text: str) -> _Error:
    """The same error with another sentence; its type, and so its status, stay."""
    other = type(error).__new__(type(error), text)
    other.__dict__.update(error.__dict__)
    return other


def row_error(row: int, column: str, error: MedSAM2Error) -> MedSAM2Error:
    """Say which row and column of a table an error is about."""
    return reworded(error, f"row {row}, column {column}: {error}")


def frame_error(error: MedSAM2Error, how: str) -> MedSAM2Error:
    """Let an error about a file of several frames say how to choose one here, or that none can be chosen."""
    return reworded(error, _FRAME_WORDS.sub(how, str(error)))


def no_room() -> Busy:
    """The error of a server whose disk is full."""
    return Busy("the server has no room for files at the moment", retry_after_s=_NO_ROOM_RETRY_S)


def shown(value: object) -> str:
    """A caller's value, short enough for a sentence."""
    return _SHORT.repr(value)
