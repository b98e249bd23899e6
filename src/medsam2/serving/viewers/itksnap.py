"""The protocol of ITK-SNAP's deep-learning servers, as 4.4 speaks it and as 4.6 does below /v2."""

from __future__ import annotations

import base64
import gzip
import math
from contextlib import suppress
from functools import partial
from typing import Annotated

import numpy as np
import numpy.typing as npt
from fastapi import APIRouter, Request, Response
from pydantic import Field
from starlette.responses import JSONResponse

from medsam2.errors import InputError
from medsam2.imaging.volume import Volume
from medsam2.serving.http_errors import NotFound, shown
from medsam2.serving.limits import read_body, usage_of
from medsam2.serving.schemas import Expected, validated
from medsam2.serving.viewers.error_answers import answer_route
from medsam2.serving.viewers.interactions import Click, Voxel, drawing_of
from medsam2.serving.viewers.leases import Lease, Leases
from medsam2.serving.viewers.uploads import ViewerMessage, file_of, inflate, read_multipart
from medsam2.serving.viewers.windows import read_window
from medsam2.serving.volumes import check_volume_size

DIALECT = "itksnap"
VERSION = "0.1.6"
"""Of the protocol. ITK-SNAP reads digits and dots, and ends at anything else."""
MODEL = "nnInteractive"
"""The one id for which ITK-SNAP offers polygons; the answers are our model's."""
_TRUE, _FALSE = ("true", "1"), ("false", "0", "")
_FLOAT_BYTES = 4
_MAX_BODY = 1 << 10  # of a request that has none
_GZIP_LEVEL = 1  # a mask shrinks a hundredfold at any level

_Three = Annotated[tuple[float, float, float], Expected("three numbers are expected")]


class ImageFacts(ViewerMessage):
    """What comes with an image, a stroke or a polygon, in the order x, y, z."""

    dimensions: Annotated[
        list[Annotated[int, Field(ge=1)]],
        Field(min_length=3, max_length=3),
        Expected("three sizes [x, y, z] of at least 1 are expected"),
    ]
    spacing: _Three = (1.0, 1.0, 1.0)
    origin: _Three = (0.0, 0.0, 0.0)
    direction: Annotated[
        tuple[float, ...],
        Field(min_length=9, max_length=9),
        Expected("nine numbers, row by row, are expected"),
    ] = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
    components_per_pixel: int = 1
    component_type: str = "float32"

    @property
    def shape(self) -> Voxel:
        """Of the array, (z, y, x)."""
        x, y, z = self.dimensions
        return z, y, x


def routes(leases: Leases) -> APIRouter:
    """All routes, in both dialects."""
    router = APIRouter(route_class=answer_route({}))
    _add_sessions(router, leases)
    _add_images(router, leases)
    _add_changes(router, leases)
    return router


def _add_sessions(router: APIRouter, leases: Leases) -> None:
    @router.get("/status")
    async def status() -> Response:
        """Say that the server is there; the program checks every ten seconds."""
        return JSONResponse({"status": "ok", "version": VERSION})

    @router.get("/v2/models")
    async def models() -> Response:
        """List the one model."""
        interactions = ["point", "box", "scribble", "lasso"]
        model = {"id": MODEL, "dimensions": 3, "channels": [1], "interactions": interactions}
        return JSONResponse({"models": [model]})

    @router.get("/start_session")
    @router.get("/v2/start_session/{model}")
    async def start_session(request: Request, model: str = MODEL) -> Response:
        """Give a viewer a place."""
        if model != MODEL:
            raise NotFound(f"there is no model {shown(model)}; the model is {MODEL}")
        lease = await leases.claim(DIALECT, window=read_window(request, leases.service.settings))
        return JSONResponse({"session_id": lease.id})

    @router.get("/end_session/{session_id}")
    @router.get("/v2/end_session/{session_id}")
    async def end_session(session_id: str) -> Response:
        """Close an image."""
        with suppress(NotFound):  # one that has ended already is no reason for a message
            await leases.end(_find(leases, session_id))
        return JSONResponse({"message": "Session ended"})


def _add_images(router: APIRouter, leases: Leases) -> None:
    @router.post("/upload_raw/{session_id}")
    @router.post("/v2/upload_raw/{session_id}")
    async def upload_raw(request: Request, session_id: str) -> Response:
        """Open an image."""
        lease = _find(leases, session_id)
        array, facts = await _read_image(leases, request)
        volume = Volume.from_array(array, facts.spacing, facts.origin, facts.direction)
        async with lease.used():
            await leases.open_image(lease, volume)
        return JSONResponse({"message": "image opened"})

    @router.get("/reset_interactions/{session_id}")
    @router.get("/v2/reset_interactions/{session_id}")
    async def reset_interactions(session_id: str) -> Response:
        """Begin the next object."""
        lease = _find(leases, session_id)
        async with lease.used():
            lease.image().reset()
        return JSONResponse({"status": "success"})


def _add_changes(router: APIRouter, leases: Leases) -> None:
    @router.get("/process_point_interaction/{session_id}")
    @router.get("/v2/process_point_interaction/{session_id}")
    async def process_point(request: Request, session_id: str) -> Response:
        """Answer a click."""
        lease = _find(leases, session_id)
        place, is_positive = _place(request), _is_foreground(request)
        await read_body(request, leases.service.settings, _MAX_BODY)  # then its end can be seen

        def click(shape: Voxel) -> Click:
            if not all(0 <= at < size for at, size in zip(place, shape, strict=True)):
                raise InputError(
                    f"the point {place[::-1]} lies outside the image of {shape[::-1]} voxels (x, y, z)"
                )
            return Click(at=place, is_positive=is_positive)

        return await leases.answer(lease, request, click, _mask_answer)

    @router.post("/process_scribble_interaction/{session_id}")
    @router.post("/v2/process_scribble_interaction/{session_id}")
    async def process_scribble(request: Request, session_id: str) -> Response:
        """Answer a stroke."""
        return await drawn(request, session_id, is_outline=False)

    @router.post("/process_lasso_interaction/{session_id}")
    @router.post("/v2/process_lasso_interaction/{session_id}")
    async def process_lasso(request: Request, session_id: str) -> Response:
        """Answer a polygon."""
        return await drawn(request, session_id, is_outline=True)

    async def drawn(request: Request, session_id: str, *, is_outline: bool) -> Response:
        lease = _find(leases, session_id)
        is_positive = _is_foreground(request)
        array, _ = await _read_image(leases, request)
        drawing = partial(drawing_of, array, None, is_outline=is_outline, is_positive=is_positive)
        return await leases.answer(lease, request, drawing, _mask_answer)


def _find(leases: Leases, session_id: str) -> Lease:
    try:
        lease = leases.get(DIALECT, session_id)
    except NotFound:
        raise NotFound(
            "this session has ended: choose the server again in ITK-SNAP, which sends the image anew"
        ) from None
    lease.note_use()
    return lease


async def _read_image(leases: Leases, request: Request) -> tuple[npt.NDArray[np.float32], ImageFacts]:
    """Read a form with float32 voxels, x fastest, and what is known of them."""
    form = await read_multipart(request, leases.service)
    facts = validated(ImageFacts, form.json("metadata"))
    if facts.components_per_pixel != 1 or facts.component_type != "float32":
        raise InputError(
            f"the image has {facts.components_per_pixel} components of {shown(facts.component_type)}; "
            "choose one component, which ITK-SNAP sends as float32"
        )
    num_bytes = math.prod(facts.shape) * _FLOAT_BYTES
    check_volume_size(num_bytes, leases.service.settings)
    usage_of(request.scope).reservation.grow(num_bytes)
    packed = file_of(form)
    content = await leases.service.workers.run(lambda: inflate(packed, num_bytes))
    if len(content) != num_bytes:
        raise InputError(f"the image has {len(content)} bytes, its dimensions need {num_bytes}")
    return np.frombuffer(content, "<f4").reshape(facts.shape), facts


def _place(request: Request) -> Voxel:
    """The voxel of a query, (z, y, x): `x=1&y=2&z=3`, or `point=1&point=2&point=3`."""
    query = request.query_params
    texts = query.getlist("point") or [query.get(name, "") for name in "xyz"]
    try:
        x, y, z = (int(text) for text in texts if len(text) < 10)
    except ValueError:
        raise InputError(f"the point is {shown(texts)}; three whole numbers x, y, z are expected") from None
    return z, y, x


def _is_foreground(request: Request) -> bool:
    text = request.query_params.get("foreground", "")
    if text.lower() not in (*_TRUE, *_FALSE):
        raise InputError(f"foreground is {shown(text)}; true or false is expected")
    return text.lower() in _TRUE


def _mask_answer(lease: Lease) -> Response:
    """All voxels as int8, x fastest: ITK-SNAP reads exactly as many bytes as the image has voxels."""
    packed = gzip.compress(lease.image().mask.astype(np.int8).tobytes(), _GZIP_LEVEL)
    return JSONResponse({"status": "success", "result": base64.b64encode(packed).decode("ascii")})
