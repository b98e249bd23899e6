"""Do the work of a project off the event loop, with its refusals as statuses."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

from medsam2.annotation.cases import moment
from medsam2.annotation.conflict import Conflict, DatabaseAway, UnknownCase
from medsam2.errors import InputError
from medsam2.serving.faults import Fault

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")
_RETRY_S = 5


class Held(Fault):
    """A case that somebody else has, with who it is."""

    def __init__(self, conflict: Conflict) -> None:
        super().__init__(409, str(conflict))
        until = conflict.until_ms
        self._holder = {"user": conflict.holder, "until": None if until is None else moment(until)}

    @property
    def answer(self) -> dict[str, object]:
        """The contract's object for an error, and the holder."""
        return {**super().answer, "holder": self._holder}


async def in_thread(
    work: Callable[_Arguments, _Result], *arguments: _Arguments.args, **named: _Arguments.kwargs
) -> _Result:
    """Call a function of `annotation` and wait for it.

    Raises:
        Fault: 404, there is no such case; 409, others or the state stand in the way; 503, no database.
    """
    try:
        return await asyncio.to_thread(work, *arguments, **named)
    except Conflict as error:
        raise (Held(error) if error.holder else Fault(409, str(error))) from error
    except UnknownCase as error:
        raise Fault(404, str(error)) from error
    except DatabaseAway as error:
        raise Fault(
            503, "the project's database does not answer; try again", retry_after_s=_RETRY_S
        ) from error


async def in_folder(
    folder: Path, work: Callable[_Arguments, _Result], *arguments: _Arguments.args, **named: _Arguments.kwargs
) -> _Result:
    """Do the same with a project's files, of which a caller hears no more than where in the project they lie.

    Raises:
        Fault: As in `in_thread`, and 422, a file cannot be used.
    """
    try:
        return await in_thread(work, *arguments, **named)
    except InputError as error:
        raise Fault(422, str(error).replace(f"{folder}/", "")) from error
