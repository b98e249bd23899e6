"""The application: routes, the layers around them, and the contract as OpenAPI."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from fastapi import FastAPI, Request, Response
from fastapi.middleware.cors import CORSMiddleware
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from medsam2.errors import MedSAM2Error
from medsam2.serving.guard import Guard, fault_response
from medsam2.serving.http_errors import Fault, fault_of
from medsam2.serving.limits import usage_of
from medsam2.serving.monailabel.dialect import open_dialect
from medsam2.serving.monailabel.routes import add_monailabel
from medsam2.serving.observe import Observer
from medsam2.serving.rows import MASK_FORMATS, MEMORIES, REQUIRED, WRAPPERS
from medsam2.serving.score import score
from medsam2.serving.service import Service
from medsam2.serving.sessions.routes import session_routes
from medsam2.serving.settings import ServerSettings

if TYPE_CHECKING:
    from medsam2.inference.predictor import Predictor


class Head:
    """Lets the application see a GET."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def send_head(message: Message) -> None:
            if message["type"] != "http.response.body":
                await send(message)
            elif not message.get("more_body"):
                await send({"type": "http.response.body", "body": b""})

        # In the scope itself, not in a copy: layers outside look there for the route.
        scope["method"] = "GET"
        try:
            await self._app(scope, receive, send_head)
        finally:
            scope["method"] = "HEAD"


_STATUSES = {
    400: "Not JSON, or not the table.",
    401: "No key.",
    403: "The wrong key, or called by a name or a page that is not allowed.",
    408: "The body arrived too slowly.",
    413: "Too large.",
    422: "A value that cannot be; the sentence names row, column, value and what would do.",
    503: "The queue is full; try again after Retry-After.",
    504: "Too slow to fetch, to read or to compute.",
}


def _list_of(schema: dict[str, object], about: str) -> dict[str, object]:
    return {"type": "array", "items": schema, "description": about}


def _numbers(count: int) -> dict[str, object]:
    return {"type": "array", "items": {"type": "number"}, "minItems": count, "maxItems": count}


_COLUMNS: dict[str, object] = {
    "type": "object",
    "required": list(REQUIRED),
    "additionalProperties": False,
    "properties": {
        "nii_image": _list_of({"type": "string"}, "Base64 of a .nii or .nii.gz file, or a URL of one."),
        "bbox": _list_of(
            _numbers(4), "x_min, y_min, x_max, y_max in pixels of the key slice, both ends included."
        ),
        "key_slice_idx": _list_of({"type": "integer", "minimum": 0}, "The key slice, in the whole series."),
        "dicom_window": _list_of(_numbers(2), "Intensities shown as black and as white."),
        "slice_offset": _list_of({"type": "integer", "minimum": 0}, "The file's first slice in the series."),
        "points": _list_of({"type": "array", "items": _numbers(2)}, "x, y each, on the key slice."),
        "point_labels": _list_of({"type": "array", "items": {"enum": [0, 1]}}, "1 inside, 0 outside."),
        "mask_format": _list_of({"enum": list(MASK_FORMATS)}, "How the mask is written."),
        "memory": _list_of({"enum": list(MEMORIES)}, "Which slices the model looks back at."),
        "frame": _list_of({"type": "integer", "minimum": 0}, "Which volume of a 4D file, from 0."),
    },
}
_SPLIT: dict[str, object] = {
    "type": "object",
    "required": ["columns", "data"],
    "properties": {
        "columns": {"type": "array", "items": {"type": "string"}},
        "data": {"type": "array", "items": {"type": "array", "items": {}}},
    },
}
_RECORDS: dict[str, object] = {"type": "array", "items": {"type": "object"}}

SCORE_SCHEMA: dict[str, object] = {
    "required": True,
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "minProperties": 1,
                "properties": {name: {"anyOf": [_COLUMNS, _SPLIT, _RECORDS]} for name in WRAPPERS},
            }
        }
    },
}
SCORE_RESPONSES: dict[int | str, dict[str, object]] = {
    200: {"description": "A mask with its metadata; of several rows a list of masks and errors."},
    **{status: {"description": text} for status, text in _STATUSES.items()},
}


TITLE = "medsam2"
SETTINGS_KEY = "medsam2_settings"
"""Where the connection's protocol finds the settings."""
_THERE = "POST /score, /invocations or /v1/sessions, GET /ping, /healthz, /readyz or /metrics"
Extension = Callable[[FastAPI, Service], object]
"""Adds routes to the application, before its layers are put around it."""
_METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"

logger = logging.getLogger(__name__)


def create_app(
    predictor: Predictor,
    settings: ServerSettings,
    extensions: Sequence[Extension] = (),
) -> FastAPI:
    """Make a server's application.

    Args:
        predictor: Weights on a device, shared by all requests.
        settings: Limits, and who may ask.
        extensions: Add further routes.

    Raises:
        InputError: The studies cannot be opened.
    """
    service = Service(predictor, settings)
    dialect = open_dialect(service) if settings.studies else None

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[Mapping[str, object]]:
        async with service.running():
            try:
                yield {SETTINGS_KEY: settings}
            finally:
                if dialect is not None:
                    await dialect.batches.close()

    # No pages with documentation: they would load scripts from elsewhere.
    app = FastAPI(title=TITLE, lifespan=lifespan, docs_url=None, redoc_url=None)
    _add_contract(app, service)
    if dialect is not None:
        add_monailabel(app, dialect)
    _add_probes(app, service)
    app.include_router(session_routes(service))
    for extend in extensions:
        extend(app, service)
    _add_faults(app)
    if settings.allowed_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.allowed_origins),
            allow_methods=["GET", "POST", "PUT", "DELETE"],
            allow_headers=["Authorization", "Content-Type"],
        )
    app.add_middleware(Head)
    app.add_middleware(Guard, settings=settings)
    paths = frozenset(app.openapi()["paths"]) | {"/openapi.json"}
    app.add_middleware(Observer, service=service, paths=paths)  # the last one added is outermost
    return app


def _add_contract(app: FastAPI, service: Service) -> None:
    async def answer(request: Request) -> Response:
        """Segment what a table of images and prompts asks for."""
        return await score(service, request)

    for path in ("/score", "/invocations"):
        app.add_api_route(
            path, answer, methods=["POST"], openapi_extra={"requestBody": SCORE_SCHEMA},
            responses=SCORE_RESPONSES, response_model=None, operation_id=path.strip("/"),
        )  # fmt: skip


def _add_probes(app: FastAPI, service: Service) -> None:
    @app.get("/healthz", response_model=None)
    async def is_alive() -> dict[str, str]:
        """Say that the process runs."""
        return {"status": "alive"}

    @app.get("/ping", response_model=None)
    @app.get("/readyz", response_model=None)
    async def is_ready() -> dict[str, str]:
        """Say whether requests are answered."""
        if not service.is_ready:
            raise Fault(503, "the server is starting or ending", retry_after_s=1)
        return {"status": "ready"}

    @app.get("/metrics", response_model=None, response_class=PlainTextResponse)
    async def show_meters() -> Response:
        """Show what was counted and timed, for Prometheus."""
        return Response(service.meters.text(), media_type=_METRICS_TYPE)


def _add_faults(app: FastAPI) -> None:
    """Give every failure the contract's form."""

    @app.exception_handler(MedSAM2Error)
    async def refuse(_: Request, error: Exception) -> Response:
        assert isinstance(error, MedSAM2Error)
        fault = fault_of(error)
        if fault.status in (400, 408, 413):  # what was sent may not have been read to its end
            return fault_response(fault)
        return JSONResponse(fault.answer, fault.status, fault.headers)

    @app.exception_handler(ClientDisconnect)
    async def let_go(request: Request, _: Exception) -> Response:
        usage_of(request.scope).is_abandoned = True
        return Response(status_code=400)  # nobody receives it

    @app.exception_handler(HTTPException)
    async def not_here(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        text = f"{error.detail}: {_THERE}"
        return JSONResponse({"error": text, "status": error.status_code}, error.status_code, error.headers)

    @app.exception_handler(Exception)
    async def failed(request: Request, _: Exception) -> Response:
        request_id = usage_of(request.scope).request_id
        return fault_response(Fault(500, f"the server failed; its log says where, at request {request_id}"))
