"""What a caller is told when a request cannot be answered: a status and one sentence."""

from __future__ import annotations

import re
import reprlib

import orjson

from medsam2.errors import InputError, MedSAM2Error, SessionError

_NO_ROOM_RETRY_S = 60
_FRAME_WORDS = re.compile(r"name it by frame=0 \.\.\.")  # what `imaging` says to callers from Python
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 60
_SHORT.maxlist = _SHORT.maxdict = 6
_SHORT.maxlevel = 3


class Fault(MedSAM2Error):
    """A request, or a row of one, that gets no mask.

    Args:
        status: The HTTP status that says it.
        text: One sentence: what was wrong, and what would do.
        retry_after_s: When it is worth trying again, for what is not the caller's fault.
    """

    def __init__(self, status: int, text: str, *, retry_after_s: int | None = None) -> None:
        super().__init__(text)
        self.status = status
        self.retry_after_s = retry_after_s

    @property
    def answer(self) -> dict[str, object]:
        """The contract's object for an error."""
        return {"error": str(self), "status": self.status}

    @property
    def body(self) -> bytes:
        """The same as JSON."""
        return orjson.dumps(self.answer)

    @property
    def headers(self) -> dict[str, str]:
        """What goes with it."""
        return {} if self.retry_after_s is None else {"Retry-After": str(self.retry_after_s)}


def busy(text: str, retry_after_s: int) -> Fault:
    """A server that has as much to do as it takes on."""
    return Fault(503, text, retry_after_s=retry_after_s)


def no_room() -> Fault:
    """A server whose disk is full."""
    return busy("the server has no room for files at the moment", _NO_ROOM_RETRY_S)


def in_column(row: int, column: str, problem: MedSAM2Error | str) -> Fault:
    """Say of a row's column what is wrong with it.

    An exception keeps its status; a sentence is about a value that cannot be.
    """
    fault = Fault(422, problem) if isinstance(problem, str) else fault_of(problem)
    return Fault(fault.status, f"row {row}, column {column}: {fault}", retry_after_s=fault.retry_after_s)


def fault_of(error: MedSAM2Error) -> Fault:
    """The status of an exception that the package raises on purpose."""
    if isinstance(error, Fault):
        return error
    if isinstance(error, SessionError):
        return Fault(409, str(error))
    return Fault(422 if isinstance(error, InputError) else 500, str(error))


def choosing_frame(error: MedSAM2Error, how: str) -> MedSAM2Error:
    """Let words about a file of several frames say how one is chosen at this door, or that none can be."""
    fault = fault_of(error)
    text = _FRAME_WORDS.sub(how, str(fault))
    return Fault(fault.status, text, retry_after_s=fault.retry_after_s)


def shown(value: object) -> str:
    """A caller's value as it can stand in a sentence: never longer than a line."""
    return _SHORT.repr(value)
