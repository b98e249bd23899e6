"""The protocol of SlicerNNInteractive 0.1 to 0.3, the first generation of 3D Slicer's extension.

It has no ids: an image belongs to whoever uses the same address with the same user name. Its plug-in shows no
text of an error, but that of an answer that says `"status": "error"`.
"""

from __future__ import annotations

import gzip
import math
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial, wraps
from typing import Annotated, Any, ParamSpec

import numpy as np
import numpy.typing as npt
from fastapi import APIRouter, Request, Response
from pydantic import Field
from starlette.responses import JSONResponse

from medsam2.errors import InputError, MedSAM2Error, SessionError
from medsam2.serving.http_errors import BadRequest, BodyTooSlow, NotAllowed, shown, status_of
from medsam2.serving.limits import header
from medsam2.serving.monailabel.forms import Form
from medsam2.serving.schemas import Expected
from medsam2.serving.settings import is_loopback
from medsam2.serving.viewers.error_answers import answer_route
from medsam2.serving.viewers.interactions import Voxel, click_at, drawing_of, region_between
from medsam2.serving.viewers.leases import Lease, Leases, grid_volume, no_image
from medsam2.serving.viewers.paths import NAME, PREFIX, basic_pair
from medsam2.serving.viewers.uploads import ViewerMessage, file_of, read_multipart, read_npy
from medsam2.serving.viewers.windows import read_window

DIALECT = "nninteractive 0.x"
_PAINT = 1  # what a stroke erased is 255
_NPY_HEAD = 4096  # bytes of an npy file before its voxels, at most
_GZIP_LEVEL = 1

_Voxel = Annotated[
    list[float], Field(min_length=3, max_length=3), Expected("three numbers [k, j, i] are expected")
]
_Arguments = ParamSpec("_Arguments")


class PointValues(ViewerMessage):
    """A click."""

    voxel_coord: _Voxel
    positive_click: bool


class BoxValues(ViewerMessage):
    """A box; both corners are inside."""

    outer_point_one: _Voxel
    outer_point_two: _Voxel
    positive_click: bool


def _tells_errors(
    answer: Callable[_Arguments, Awaitable[Response]],
) -> Callable[_Arguments, Coroutine[Any, Any, Response]]:
    """Let a route answer errors that a user can do something about where the plug-in shows them."""

    @wraps(answer)
    async def answered(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> Response:
        try:
            return await answer(*args, **kwargs)
        except (BadRequest, BodyTooSlow):
            raise
        except MedSAM2Error as error:
            if status_of(error) == 500:
                raise
            return JSONResponse({"status": "error", "message": str(error)})

    return answered


def routes(leases: Leases) -> APIRouter:
    """The routes whose paths nnInteractive 2.x does not have; for the others see `viewers.routes`."""
    router = APIRouter(route_class=answer_route({}))
    service = leases.service

    @router.post("/upload_image")
    @_tells_errors
    async def upload_image(request: Request) -> Response:
        """Open an image."""
        owner = _owner(request)
        form = await read_multipart(request, service)
        array = await read_npy(service, request, file_of(form))
        lease = leases.owned_by(DIALECT, owner)
        if lease is None:
            lease = await leases.claim(DIALECT, owner=owner, window=read_window(request, service.settings))
        async with lease.used():
            await leases.open_image(lease, grid_volume(array))
        return JSONResponse({"status": "ok"})

    @router.post("/upload_segment")
    @_tells_errors
    async def upload_segment(request: Request) -> Response:
        """Take a mask as the object; an empty one begins the next object."""
        form = await read_multipart(request, service)
        lease = _find(leases, request)
        async with lease.used():
            viewed = lease.image()
            mask = np.asarray(await _read_drawing(leases, request, form, viewed.shape) != 0)
            if mask.shape != viewed.shape:
                raise InputError(f"the segment has {mask.shape} voxels, the image {viewed.shape}")
            viewed.reset()
            if mask.any():
                viewed.give(mask)
        return JSONResponse({"status": "ok"})

    return router


@_tells_errors
async def add_point(leases: Leases, request: Request, values: PointValues) -> Response:
    """Answer a click."""
    click = partial(click_at, values.voxel_coord, is_positive=values.positive_click)
    return await leases.answer(_find(leases, request), request, click, _mask_answer)


@_tells_errors
async def add_box(leases: Leases, request: Request, values: BoxValues) -> Response:
    """Answer a box."""
    pairs = list(zip(values.outer_point_one, values.outer_point_two, strict=True))
    first, end = [min(pair) for pair in pairs], [max(pair) + 1 for pair in pairs]
    region = partial(region_between, first, end, is_positive=values.positive_click)
    return await leases.answer(_find(leases, request), request, region, _mask_answer)


@_tells_errors
async def add_drawing(leases: Leases, request: Request, *, is_outline: bool) -> Response:
    """Answer a stroke or an outline."""
    form = await read_multipart(request, leases.service)
    try:
        lease = _find(leases, request)
        shape = lease.image().shape
    except SessionError:
        # The usual words would make the plug-in send its form again, without the body that it has read.
        raise SessionError("the image is not open any more: set a point, which sends it again") from None
    sign = form.fields.get("positive_click", "").lower()
    if sign not in ("true", "false"):
        raise BadRequest(f"positive_click is {shown(sign)}; True or False is expected")
    array = await _read_drawing(leases, request, form, shape)
    drawn = array if is_outline else np.asarray(array == _PAINT)
    drawing = partial(drawing_of, drawn, None, is_outline=is_outline, is_positive=sign == "true")
    return await leases.answer(lease, request, drawing, _mask_answer)


async def _read_drawing(
    leases: Leases, request: Request, form: Form, shape: Voxel
) -> npt.NDArray[np.generic]:
    """Read the array of a form, in gzip, that has one byte for each voxel of the image."""
    return await read_npy(leases.service, request, file_of(form), limit=math.prod(shape) + _NPY_HEAD)


def _owner(request: Request) -> str:
    """Whose image a request is about.

    Raises:
        NotAllowed: Several people may have the same address.
    """
    name = str(request.path_params.get(NAME, ""))
    user, _ = basic_pair(header(request.scope, b"authorization"))
    is_own = request.client is not None and is_loopback(request.client.host)
    if not (name or user or is_own):
        raise NotAllowed(
            f"give the address a name of your own, as http://HOST:PORT{PREFIX}NAME; without one, "
            "others who use this server would get your image"
        )
    return f"{name}\n{user}"


def _find(leases: Leases, request: Request) -> Lease:
    lease = leases.owned_by(DIALECT, _owner(request))
    if lease is None:
        raise no_image()
    lease.note_use()
    return lease


def _mask_answer(lease: Lease) -> Response:
    """One bit for each voxel, the first in the highest bit of a byte."""
    packed = gzip.compress(np.packbits(lease.image().mask.ravel()).tobytes(), _GZIP_LEVEL)
    return Response(packed, media_type="application/octet-stream", headers={"Content-Encoding": "gzip"})
