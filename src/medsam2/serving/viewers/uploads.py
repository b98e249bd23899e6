"""Receive what viewers send: arrays, forms and JSON, within the server's limits."""

from __future__ import annotations

import asyncio
import gzip
import tempfile
import zlib
from io import BytesIO
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict
from starlette.requests import Request

from medsam2.errors import InputError
from medsam2.serving.http_errors import BadRequest, no_room
from medsam2.serving.limits import LEAST_RATE, header, read_body, store_body, usage_of
from medsam2.serving.monailabel.forms import Form, read_form
from medsam2.serving.schemas import json_in, read_json, validated
from medsam2.serving.service import Service
from medsam2.serving.viewers.packed_arrays import read_layout
from medsam2.serving.volumes import check_volume_size

META = "X-Meta"
"""Header with the JSON that belongs to a packed array."""
_MAX_JSON = 1 << 16
_CONTENT_ENCODING = b"content-encoding"


class ViewerMessage(BaseModel):
    """JSON of a viewer. Keys without a meaning here are passed over: newer viewers send more of them."""

    model_config = ConfigDict(extra="ignore", frozen=True)


_Model = TypeVar("_Model", bound=ViewerMessage)


async def read_json_body(request: Request, service: Service) -> object:
    """Read a request's JSON; an empty body is an empty object.

    Raises:
        BadRequest: It is not JSON.
    """
    return read_json(await read_body(request, service.settings, _MAX_JSON) or b"{}")


def read_meta(request: Request, model: type[_Model]) -> _Model:
    """Read the JSON beside a packed array.

    Raises:
        BadRequest: It is missing or not JSON.
        InputError: A value is missing or not usable.
    """
    try:
        values = json_in(request.headers.get(META, "").encode())
    except ValueError:
        raise BadRequest(
            f"the header {META} is missing or not JSON; an object that describes the array is expected"
        ) from None
    return validated(model, values)


async def read_packed(request: Request, service: Service) -> npt.NDArray[np.generic]:
    """Receive a packed array; its sizes are checked before another process unpacks it.

    Returns:
        The array, mapped from a file that is deleted already.

    Raises:
        InputError: It is damaged.
        HttpError: It is too large, or there is no memory for it.
    """
    with _folder(service) as folder:
        path = Path(folder) / "sent.nnia"
        reservation = usage_of(request.scope).reservation
        await store_body(request, service.settings, reservation, path, least_rate=LEAST_RATE)
        layout = await asyncio.to_thread(read_layout, path)
        check_volume_size(layout.num_bytes, service.settings)
        reservation.grow(layout.num_bytes)
        return await _unpacked(service, path)


async def read_npy(
    service: Service, request: Request, content: bytes, *, limit: int | None = None
) -> npt.NDArray[np.generic]:
    """Read an npy file, in another process.

    Args:
        service: Lends the process.
        request: Its memory is counted.
        content: The file.
        limit: Bytes that it has at most, if it is packed by gzip; then it is unpacked first.

    Raises:
        InputError: It is damaged.
        HttpError: It is too large, or there is no memory for it.
    """
    reservation = usage_of(request.scope).reservation
    with _folder(service) as folder:
        path = Path(folder) / "sent.npy"
        if limit is not None:
            reservation.grow(limit)
            content = await asyncio.to_thread(inflate, content, limit)
        reservation.grow(len(content))
        check_volume_size(len(content), service.settings)
        try:
            await asyncio.to_thread(path.write_bytes, content)
        except OSError as error:
            raise no_room() from error
        return await _unpacked(service, path)


async def read_multipart(request: Request, service: Service) -> Form:
    """Read a form. Slicer's older extension says that its forms are gzip; only the file inside is.

    Raises:
        HttpError: It is damaged, too large or too slow.
    """
    scope = request.scope
    scope["headers"] = [pair for pair in scope["headers"] if pair[0] != _CONTENT_ENCODING]
    body = await read_body(request, service.settings, least_rate=LEAST_RATE)
    return await asyncio.to_thread(read_form, header(scope, b"content-type"), body)


def file_of(form: Form) -> bytes:
    """The file of a form.

    Raises:
        BadRequest: There is none.
    """
    upload = form.file("file")
    if upload is None:
        raise BadRequest("the form has no part file; the array is expected there")
    return upload.content


def inflate(content: bytes, limit: int) -> bytes:
    """Unpack gzip that has at most so many bytes.

    Raises:
        InputError: It is damaged, or has more bytes.
    """
    try:
        unpacked = gzip.GzipFile(fileobj=BytesIO(content)).read(limit + 1)
    except EOFError:
        raise InputError("the file ends before its gzip data do") from None
    except (OSError, zlib.error) as error:
        raise InputError(f"the file is not gzip: {error}") from None
    if len(unpacked) > limit:
        raise InputError(f"the file has more than the {limit} bytes that it should have once it is unpacked")
    return unpacked


async def _unpacked(service: Service, path: Path) -> npt.NDArray[np.generic]:
    async with service.readers.lend() as reader:
        return await reader.unpack(path)


def _folder(service: Service) -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(dir=service.folder, ignore_cleanup_errors=True)
