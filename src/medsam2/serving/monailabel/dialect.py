"""Everything that a server has one of when it speaks MONAI Label's protocol."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import ParamSpec

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from medsam2.errors import InputError, MedSAM2Error
from medsam2.serving.http_errors import Fault, fault_of, no_room
from medsam2.serving.limits import header, read_body, usage_of
from medsam2.serving.monailabel.datastore import Studies
from medsam2.serving.monailabel.folder import FolderStudies
from medsam2.serving.monailabel.forms import MAX_TEXT, Form, read_form, read_object
from medsam2.serving.monailabel.sessions import Sessions
from medsam2.serving.monailabel.tasks import Batches
from medsam2.serving.service import Service

_SCHEMES = ("http://", "https://")
_PACKAGES = ("dicomweb_client", "highdicom", "requests")


def open_studies(place: str, service: Service) -> Studies:
    """Open a folder, or name an archive.

    Args:
        place: A folder, or a DICOMweb URL.
        service: For what an archive's series need while they are here.

    Raises:
        InputError: See `check_studies`.
    """
    if not _is_url(place):
        return FolderStudies(Path(place))
    _require_packages()
    from medsam2.serving.monailabel.archive import ArchiveStudies

    return ArchiveStudies(place, service)


def check_studies(place: str) -> None:
    """Refuse what cannot be opened, before weights are loaded. Whether an archive answers is seen later.

    Raises:
        InputError: The folder is not there or its index cannot be used, the URL is none, or a package for
            archives is missing.
    """
    if _is_url(place):
        _require_packages()
        from medsam2.serving.monailabel.dicomweb import Address

        Address.of(place)
    elif place:
        FolderStudies(Path(place))


def _is_url(place: str) -> bool:
    return place.lower().startswith(_SCHEMES)


def _require_packages() -> None:
    try:
        for name in _PACKAGES:
            import_module(name)
    except ModuleNotFoundError as error:
        raise InputError(
            f"a DICOMweb archive needs the package {error.name}: pip install 'medsam2[dicomweb]'"
        ) from error


_UNREAD = (400, 408, 413)  # what was sent may not have been read to its end

logger = logging.getLogger(__name__)

_Given = ParamSpec("_Given")


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """The parts that routes work with."""

    service: Service
    studies: Studies
    sessions: Sessions = field(default_factory=Sessions)
    batches: Batches = field(default_factory=Batches)


def open_dialect(service: Service) -> Dialect:
    """Open the studies that the settings name.

    Raises:
        InputError: They cannot be opened.
    """
    return Dialect(service=service, studies=open_studies(service.settings.studies, service))


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
