"""The application: routes, the layers around them, and the contract as OpenAPI."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request, Response
from fastapi.middleware.cors import CORSMiddleware
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from medsam2.errors import MedSAM2Error
from medsam2.serving.guard import Guard
from medsam2.serving.http_errors import Busy, ServerFailed, error_response
from medsam2.serving.limits import usage_of
from medsam2.serving.monailabel.routes import add_monailabel
from medsam2.serving.monailabel.state import open_viewer_state
from medsam2.serving.observe import Observer
from medsam2.serving.rows import score_schema
from medsam2.serving.schemas import Answer, error_responses, json_response
from medsam2.serving.score import score
from medsam2.serving.service import Service
from medsam2.serving.sessions.routes import session_routes
from medsam2.serving.settings import ServerSettings
from medsam2.serving.viewers.routes import add_viewers

if TYPE_CHECKING:
    from medsam2.inference.predictor import Predictor


class Head:
    """Answers HEAD as GET, without the body."""

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

        # Changed in the scope itself, since outer layers read the route from it.
        scope["method"] = "GET"
        try:
            await self._app(scope, receive, send_head)
        finally:
            scope["method"] = "HEAD"


class ProbeAnswer(Answer):
    """Whether the process runs, or answers requests."""

    status: str


_SCORE_REQUEST = {
    "requestBody": {"required": True, "content": {"application/json": {"schema": score_schema()}}}
}
_SCORE_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"description": "A mask with its metadata; for several rows a list of masks and errors."},
    **error_responses(400, 401, 403, 408, 413, 422, 503, 504),
}

TITLE = "medsam2"
SETTINGS_KEY = "medsam2_settings"
"""Where the connection's protocol finds the settings."""
_KNOWN_PATHS = "POST /score, /invocations or /v1/sessions, GET /ping, /healthz, /readyz or /metrics"
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
    viewers = open_viewer_state(service) if settings.studies else None

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[Mapping[str, object]]:
        async with service.running():
            try:
                yield {SETTINGS_KEY: settings}
            finally:
                if viewers is not None:
                    await viewers.batches.close()

    # No pages with documentation: they would load scripts from elsewhere.
    app = FastAPI(title=TITLE, lifespan=lifespan, docs_url=None, redoc_url=None)
    _add_contract(app, service)
    if viewers is not None:
        add_monailabel(app, viewers)
    _add_probes(app, service)
    app.include_router(session_routes(service))
    viewer_paths = add_viewers(app, service)
    for extend in extensions:
        extend(app, service)
    _add_error_handlers(app)
    if settings.allowed_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.allowed_origins),
            allow_methods=["GET", "POST", "PUT", "DELETE"],
            allow_headers=["Authorization", "Content-Type"],
        )
    app.add_middleware(Head)
    app.add_middleware(Guard, settings=settings)
    paths = frozenset(app.openapi()["paths"]) | viewer_paths | {"/openapi.json"}
    app.add_middleware(Observer, service=service, paths=paths)  # the last one added is outermost
    return app


def _add_contract(app: FastAPI, service: Service) -> None:
    async def answer(request: Request) -> Response:
        """Segment what a table of images and prompts asks for."""
        return await score(service, request)

    for path in ("/score", "/invocations"):
        app.add_api_route(
            path, answer, methods=["POST"], openapi_extra=_SCORE_REQUEST,
            responses=_SCORE_RESPONSES, operation_id=path.strip("/"),
        )  # fmt: skip


def _add_probes(app: FastAPI, service: Service) -> None:
    @app.get("/healthz", response_model=ProbeAnswer)
    async def is_alive() -> Response:
        """Say that the process runs."""
        return json_response(ProbeAnswer(status="alive"))

    @app.get("/ping", response_model=ProbeAnswer)
    @app.get("/readyz", response_model=ProbeAnswer)
    async def is_ready() -> Response:
        """Say whether requests are answered."""
        if not service.is_ready:
            raise Busy("the server is starting or ending", retry_after_s=1)
        return json_response(ProbeAnswer(status="ready"))

    @app.get("/metrics", response_class=PlainTextResponse)
    async def show_meters() -> Response:
        """Show what was counted and timed, for Prometheus."""
        return Response(service.meters.text(), media_type=_METRICS_TYPE)


def _add_error_handlers(app: FastAPI) -> None:
    """Give every error the contract's form."""

    @app.exception_handler(MedSAM2Error)
    async def refuse(_: Request, error: Exception) -> Response:
        assert isinstance(error, MedSAM2Error)
        return error_response(error)

    @app.exception_handler(ClientDisconnect)
    async def caller_left(request: Request, _: Exception) -> Response:
        usage_of(request.scope).is_abandoned = True
        return Response(status_code=400)  # nobody receives it

    @app.exception_handler(HTTPException)
    async def no_such_route(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        text = f"{error.detail}: {_KNOWN_PATHS}"
        return JSONResponse({"error": text, "status": error.status_code}, error.status_code, error.headers)

    @app.exception_handler(Exception)
    async def failed(request: Request, _: Exception) -> Response:
        request_id = usage_of(request.scope).request_id
        failure = ServerFailed(f"the server failed; its log says where, at request {request_id}")
        return error_response(failure, closes=True)
