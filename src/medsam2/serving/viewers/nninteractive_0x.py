"""The protocol of SlicerNNInteractive 0.1 to 0.3, the first generation of 3D Slicer's extension.

It has no ids: an image belongs to whoever uses the same address with the same user name. Its plug-in shows no
text of an error, but that of an answer that says `"status": "error"`.
"""

from __future__ import annotations

import gzip
import logging
import math
from collections.abc import Awaitable, Callable, Generator
from typing import Annotated

import numpy as np
from fastapi import APIRouter, Request, Response
from pydantic import Field
from starlette.responses import JSONResponse

from medsam2.errors import InputError, MedSAM2Error, SessionError
from medsam2.serving.http_errors import BadRequest, BodyTooSlow, NotAllowed, shown, status_of
from medsam2.serving.limits import header
from medsam2.serving.schemas import Expected
from medsam2.serving.score import while_wanted
from medsam2.serving.settings import is_loopback
from medsam2.serving.viewers.error_answers import answer_route, read_window
from medsam2.serving.viewers.interactions import Mask, click_at, drawing_of, region_between
from medsam2.serving.viewers.leases import Lease, Leases, grid_volume
from medsam2.serving.viewers.paths import NAME, PREFIX, basic_pair
from medsam2.serving.viewers.uploads import Words, file_of, read_multipart, read_npy

DIALECT = "slicer"
_PAINT = 1  # what a stroke erased is 255
_NPY_HEAD = 4096  # bytes of an npy file before its voxels, at most
_EVEN = (1.0, 1.0, 1.0)
_GZIP_LEVEL = 1

_Voxel = Annotated[
    list[float], Field(min_length=3, max_length=3), Expected("three numbers [k, j, i] are expected")
]

logger = logging.getLogger(__name__)


class PointSaid(Words):
    """A click."""

    voxel_coord: _Voxel
    positive_click: bool


class BoxSaid(Words):
    """A box; both corners are inside."""

    outer_point_one: _Voxel
    outer_point_two: _Voxel
    positive_click: bool


def routes(leases: Leases) -> APIRouter:
    """All routes but those whose paths nnInteractive 2.x has as well; see `routes`."""
    router = APIRouter(route_class=answer_route({}))

    @router.post("/upload_image")
    async def upload_image(request: Request) -> Response:
        """Open an image."""
        return await _in_words(lambda: _open_image(leases, request))

    @router.post("/upload_segment")
    async def upload_segment(request: Request) -> Response:
        """Take a mask as the object; an empty one begins the next object."""
        return await _in_words(lambda: _give_segment(leases, request))

    return router


async def add_point(leases: Leases, request: Request, said: PointSaid) -> Response:
    """Answer a click."""

    async def answer() -> Response:
        lease = _find(leases, request)
        async with lease.used():
            viewed = lease.image()
            click = click_at(said.voxel_coord, viewed.shape, is_positive=said.positive_click)
            return await _answered(leases, lease, request, viewed.add(click))

    return await _in_words(answer)


async def add_box(leases: Leases, request: Request, said: BoxSaid) -> Response:
    """Answer a box."""

    async def answer() -> Response:
        lease = _find(leases, request)
        pairs = list(zip(said.outer_point_one, said.outer_point_two, strict=True))
        first, end = [min(pair) for pair in pairs], [max(pair) + 1 for pair in pairs]
        async with lease.used():
            viewed = lease.image()
            region = region_between(first, end, viewed.shape, is_positive=said.positive_click)
            return await _answered(leases, lease, request, viewed.add(region))

    return await _in_words(answer)


async def add_drawing(leases: Leases, request: Request, *, is_outline: bool) -> Response:
    """Answer a stroke or an outline."""

    async def answer() -> Response:
        form = await read_multipart(request, leases.service)
        try:
            lease = _find(leases, request)
        except SessionError:
            # The usual words would make the plug-in send its form again, without the body that it has read.
            raise SessionError("the image is not open any more: set a point, which sends it again") from None
        sign = form.fields.get("positive_click", "")
        if sign.lower() not in ("true", "false"):
            raise BadRequest(f"positive_click is {shown(sign)}; True or False is expected")
        async with lease.used():
            viewed = lease.image()
            limit = math.prod(viewed.shape) + _NPY_HEAD
            array = await read_npy(leases.service, request, file_of(form), limit=limit)
            drawing = drawing_of(
                array if is_outline else array == _PAINT, None, viewed.shape,
                is_outline=is_outline, is_positive=sign.lower() == "true",
            )  # fmt: skip
            return await _answered(leases, lease, request, viewed.add(drawing))

    return await _in_words(answer)


async def _open_image(leases: Leases, request: Request) -> Response:
    owner = _owner(request)
    form = await read_multipart(request, leases.service)
    array = await read_npy(leases.service, request, file_of(form))
    lease = leases.owned_by(DIALECT, owner)
    if lease is None:
        lease = await leases.claim(DIALECT, owner=owner, window=read_window(request, leases.service.settings))
    async with lease.used():
        await leases.open_image(lease, grid_volume(array, _EVEN), _EVEN)
    return JSONResponse({"status": "ok"})


async def _give_segment(leases: Leases, request: Request) -> Response:
    form = await read_multipart(request, leases.service)
    lease = _find(leases, request)
    async with lease.used():
        viewed = lease.image()
        limit = math.prod(viewed.shape) + _NPY_HEAD
        mask = await read_npy(leases.service, request, file_of(form), limit=limit) != 0
        if mask.shape != viewed.shape:
            raise InputError(f"the segment has {mask.shape} voxels, the image {viewed.shape}")
        viewed.reset()
        if mask.any():
            viewed.give(np.asarray(mask))
    return JSONResponse({"status": "ok"})


async def _in_words(answer: Callable[[], Awaitable[Response]]) -> Response:
    """Answer; what a user can do something about is said where the plug-in shows it."""
    try:
        return await answer()
    except (BadRequest, BodyTooSlow):
        raise
    except MedSAM2Error as error:
        if status_of(error) == 500:
            raise
        return JSONResponse({"status": "error", "message": str(error)})


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
        raise SessionError("No image uploaded: send the image first")  # the plug-in knows these words
    lease.see()
    return lease


async def _answered(leases: Leases, lease: Lease, request: Request, steps: Generator[int]) -> Response:
    await while_wanted(request.receive, leases.follow(steps))
    mask = lease.image().mask
    packed = await leases.service.workers.run(lambda: _encoded(mask))
    return Response(packed, media_type="application/octet-stream", headers={"Content-Encoding": "gzip"})


def _encoded(mask: Mask) -> bytes:
    """One bit for each voxel, the first in the highest bit of a byte."""
    return gzip.compress(np.packbits(mask.ravel()).tobytes(), _GZIP_LEVEL)
