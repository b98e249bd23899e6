"""All viewers' protocols at one address, told apart by path, type and keys of a request."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from fastapi import APIRouter, FastAPI, Request, Response
from pydantic import BaseModel
from starlette.responses import JSONResponse

from medsam2.serving.http_errors import BadRequest, NotFound
from medsam2.serving.limits import header
from medsam2.serving.schemas import validated
from medsam2.serving.service import Service
from medsam2.serving.viewers import itksnap, nninteractive, nninteractive_0x
from medsam2.serving.viewers.error_answers import answer_route
from medsam2.serving.viewers.leases import Leases
from medsam2.serving.viewers.paths import NAME, PREFIX
from medsam2.serving.viewers.uploads import read_json_body
from medsam2.serving.viewers.windows import check_window

_Protocols = tuple[tuple[str, type[BaseModel], Callable[..., Awaitable[Response]]], ...]
_POINTS: _Protocols = (
    ("coordinates", nninteractive.PointValues, nninteractive.add_point),
    ("voxel_coord", nninteractive_0x.PointValues, nninteractive_0x.add_point),
)
"""The key that tells a protocol, its form of a click, and what answers it."""
_BOXES: _Protocols = (
    ("bbox_coords", nninteractive.BoxValues, nninteractive.add_box),
    ("outer_point_one", nninteractive_0x.BoxValues, nninteractive_0x.add_box),
)
_BELOW = f"{PREFIX}{{{NAME}}}"
_FORM = "multipart/form-data"
_NO_STUDIES = (
    "this server has no studies for MONAI Label's extension: start it with --studies FOLDER; nnInteractive's "
    "extension and ITK-SNAP send their own images and need none"
)
_MONAILABEL_BELOW = "MONAI Label's extension takes the address without a path, as http://HOST:PORT"
_UNKNOWN = (
    "nothing is here; an address for nnInteractive's clients and SlicerNNInteractive 0.x ends behind "
    "/viewers/NAME, ITK-SNAP takes host and port alone"
)


def add_viewers(app: FastAPI, service: Service) -> frozenset[str]:
    """Answer viewers at the root, and below a name of their users' choice.

    Returns:
        The paths of the routes, for logs and meters; they are no part of this server's own contract.

    Raises:
        InputError: The server's choice of a window names none.
    """
    # Who sends a damaged form gets the error; the warnings of the parser would only fill the log.
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)
    check_window(service.settings.viewer_window)
    leases = Leases(service)
    protocols = [protocol.routes(leases) for protocol in (nninteractive, nninteractive_0x, itksnap)]
    protocols.append(_shared(leases))
    paths = set()
    for beginning, explanations in (("", _no_studies(service)), (_BELOW, _explanations(service))):
        for router in (*protocols, explanations):
            app.include_router(router, prefix=beginning, include_in_schema=False)
            paths |= {beginning + str(getattr(route, "path", "")) for route in router.routes}
    return frozenset(paths)


def _shared(leases: Leases) -> APIRouter:
    """The paths that both generations of nnInteractive have."""
    router = APIRouter(route_class=answer_route({NotFound: 410}))

    @router.post("/add_point_interaction")
    async def add_point(request: Request) -> Response:
        """Answer a click."""
        return await add(request, _POINTS, "a click has coordinates (nnInteractive 2.x) or voxel_coord (0.x)")

    @router.post("/add_bbox_interaction")
    async def add_box(request: Request) -> Response:
        """Answer a box."""
        return await add(request, _BOXES, "a box has bbox_coords (2.x) or outer_point_one and _two (0.x)")

    async def add(request: Request, protocols: _Protocols, expected: str) -> Response:
        values = await read_json_body(request, leases.service)
        for key, model, answer in protocols:
            if isinstance(values, dict) and key in values:
                return await answer(leases, request, validated(model, values))
        raise BadRequest(expected)

    @router.post("/add_scribble_interaction")
    async def add_stroke(request: Request) -> Response:
        """Answer a stroke."""
        return await add_drawing(request, is_outline=False)

    @router.post("/add_lasso_interaction")
    async def add_outline(request: Request) -> Response:
        """Answer an outline."""
        return await add_drawing(request, is_outline=True)

    async def add_drawing(request: Request, *, is_outline: bool) -> Response:
        is_form = header(request.scope, b"content-type").lower().startswith(_FORM)
        answer = nninteractive_0x.add_drawing if is_form else nninteractive.add_drawing
        return await answer(leases, request, is_outline=is_outline)

    return router


def _no_studies(service: Service) -> APIRouter:
    """Tell MONAI Label's extension what is missing, where it is."""
    router = APIRouter(route_class=answer_route({}))
    if not service.settings.studies:

        @router.get("/info/")
        async def get_info() -> Response:
            """Answer 404 in words."""
            raise NotFound(_NO_STUDIES)

    return router


def _explanations(service: Service) -> APIRouter:
    """What an address with a name says beside the protocols."""
    router = APIRouter(route_class=answer_route({}))

    @router.get("")
    @router.get("/healthz")
    async def is_alive() -> Response:
        """Say that the process runs, to viewers that ask below their own path."""
        return JSONResponse({"ok": service.is_ready, "speaks": ["nnInteractive 2.x", "0.x", "ITK-SNAP"]})

    @router.get("/info/")
    async def get_info() -> Response:
        """Answer 404 in words."""
        raise NotFound(_MONAILABEL_BELOW)

    @router.api_route("/{rest:path}", methods=["GET", "POST"])
    async def nothing(rest: str) -> Response:
        """Answer 404 in words."""
        raise NotFound(_UNKNOWN)

    return router
