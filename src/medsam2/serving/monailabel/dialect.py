"""Everything that a server has one of when it speaks MONAI Label's protocol, and how it says no."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import ParamSpec

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from medsam2.errors import MedSAM2Error
from medsam2.serving.body import header, read_body
from medsam2.serving.faults import Fault, fault_of, no_room
from medsam2.serving.monailabel.forms import MAX_TEXT, Form, read_form, read_object
from medsam2.serving.monailabel.opening import open_studies
from medsam2.serving.monailabel.sessions import Sessions
from medsam2.serving.monailabel.studies import Studies
from medsam2.serving.monailabel.tasks import Tasks
from medsam2.serving.monailabel.training import Trainer
from medsam2.serving.service import Service
from medsam2.serving.usage import usage_of

_UNREAD = (400, 408, 413)  # what was sent may not have been read to its end

logger = logging.getLogger(__name__)

_Given = ParamSpec("_Given")


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """The parts that routes work with."""

    service: Service
    studies: Studies
    trainer: Trainer | None
    sessions: Sessions = field(default_factory=Sessions)
    training: Tasks = field(default_factory=lambda: Tasks("train"))
    batches: Tasks = field(default_factory=lambda: Tasks("batch infer"))

    async def close(self) -> None:
        """Stop what runs in the background."""
        await self.training.close()
        await self.batches.close()


def open_dialect(service: Service, trainer: Trainer | None) -> Dialect:
    """Open the studies that the settings name.

    Raises:
        InputError: They cannot be opened.
    """
    return Dialect(service=service, studies=open_studies(service.settings.studies, service), trainer=trainer)


def told(route: Callable[_Given, Awaitable[Response]]) -> Callable[_Given, Awaitable[Response]]:
    """Have what a route refuses told in MONAI Label's form: `detail`, beside the contract's two entries."""

    @functools.wraps(route)
    async def answered(*args: _Given.args, **kwargs: _Given.kwargs) -> Response:
        try:
            return await route(*args, **kwargs)
        except MedSAM2Error as error:
            fault = fault_of(error)
            if fault.status == 500:
                logger.exception("a request of a viewer failed")
        except OSError:
            logger.exception("no room for files")
            fault = no_room()
        headers = {**fault.headers, **({"Connection": "close"} if fault.status in _UNREAD else {})}
        return JSONResponse({"detail": str(fault), **fault.answer}, fault.status, headers)

    return answered


async def read_sent(dialect: Dialect, request: Request, max_bytes: int | None = None) -> bytearray:
    """The body of a request, counted.

    Args:
        dialect: The server's parts.
        request: Not read yet.
        max_bytes: A limit below that of the settings.

    Raises:
        Fault: See `serving.body.read_body`.
    """
    usage = usage_of(request.scope)
    settings = dialect.service.settings
    body = await read_body(request.scope, request.receive, settings, usage.reservation, max_bytes)
    usage.num_bytes = len(body)
    return body


async def read_params(dialect: Dialect, request: Request) -> dict[str, object]:
    """The JSON object that a request's body is; empty without a body.

    Raises:
        Fault: 422, it is something else.
    """
    return read_object(await read_sent(dialect, request, MAX_TEXT), "the body")


async def read_sent_form(dialect: Dialect, request: Request, max_bytes: int | None = None) -> Form:
    """The form that a request's body is.

    Raises:
        Fault: See `forms.read_form`.
    """
    body = await read_sent(dialect, request, max_bytes)
    return await asyncio.to_thread(read_form, header(request.scope, b"content-type"), body)


def checked_choice(value: str, name: str, choices: tuple[str, ...]) -> str:
    """A value of the query, the first of its choices if it is not there.

    Raises:
        Fault: 422, it is none of them.
    """
    if value and value not in choices:
        raise Fault(422, f"{name} is {value[:60]!r}; one of {', '.join(choices)} is expected")
    return value or choices[0]
