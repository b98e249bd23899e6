"""The routes of MONAI Label's protocol, in the places and with the slashes that its clients know."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from urllib.parse import quote

from fastapi import APIRouter, FastAPI, Request, Response
from starlette.responses import JSONResponse

from medsam2.serving.faults import Fault
from medsam2.serving.monailabel.auth_routes import add_auth
from medsam2.serving.monailabel.batch import start_batch
from medsam2.serving.monailabel.checksums import checksum
from medsam2.serving.monailabel.datastore_routes import add_images
from medsam2.serving.monailabel.dialect import Dialect, read_params, told
from medsam2.serving.monailabel.infer import infer
from medsam2.serving.monailabel.info import describe_server
from medsam2.serving.monailabel.label_routes import add_labels
from medsam2.serving.monailabel.params import flag
from medsam2.serving.monailabel.session_routes import add_sessions
from medsam2.serving.monailabel.strategies import next_image, offered
from medsam2.serving.monailabel.tasks import Task, Tasks
from medsam2.serving.monailabel.training import TRAINER, configured, pairs_of, work_of


def add_monailabel(app: FastAPI, dialect: Dialect) -> None:
    """Let a server speak MONAI Label's protocol."""
    router = APIRouter(tags=["MONAI Label"], default_response_class=JSONResponse)
    _add_model(router, dialect)
    add_images(router, dialect)
    add_labels(router, dialect)
    add_sessions(router, dialect)
    _add_training(router, dialect)
    _add_batch(router, dialect)
    settings = dialect.service.settings
    if dialect.studies.is_archive:
        from medsam2.serving.monailabel.dicomweb import Address
        from medsam2.serving.monailabel.proxy_routes import add_proxy

        add_proxy(router, Address.of(settings.studies), settings.fetch_timeout_s)
    key = settings.key
    if key is not None:  # without one the routes are missing, by which clients know
        add_auth(router, dialect, key)
    app.include_router(router)


def _add_model(router: APIRouter, dialect: Dialect) -> None:
    @router.get("/info/", response_model=None)
    @told
    async def get_info() -> Response:
        """Say what this server can do."""
        return JSONResponse(await asyncio.to_thread(describe_server, dialect))

    @router.post("/infer/{model}", response_model=None)
    @told
    async def post_infer(
        request: Request, model: str, image: str = "", session_id: str = "", output: str = ""
    ) -> Response:
        """Segment what the form's params ask for."""
        return await infer(dialect, request, model=model, image=image, session_id=session_id, output=output)

    @router.post("/activelearning/{strategy}", response_model=None)
    @told
    async def post_strategy(request: Request, strategy: str) -> Response:
        """Choose the image to look at next."""
        params = await read_params(dialect, request)
        return JSONResponse(await asyncio.to_thread(_offer, dialect, strategy, params.get("client_id")))


def _offer(dialect: Dialect, strategy: str, client: object) -> dict[str, object]:
    entry = next_image(strategy, dialect.studies.entries())
    if entry is None:
        return {}
    note = offered(entry, strategy, client)
    dialect.studies.note(entry, note)
    # A series has no checksum, and an archive's is fetched when somebody looks at it.
    path = dialect.studies.image_path(entry) if entry.suffix else None
    return {
        "weight": 1,
        "ts": int(time.time()),
        **entry.info,
        **note,
        "id": entry.image_id,
        "name": entry.name,
        "path": "",  # a place on this machine is nobody else's; viewers then fetch the image
        "url": f"/datastore/image?image={quote(entry.image_id, safe='')}",
        **({} if path is None else {"checksum": checksum(path)}),
    }


def _add_training(router: APIRouter, dialect: Dialect) -> None:
    _add_status(router, "/train/", dialect.training)

    async def begin(request: Request, run_sync: str) -> Task:
        trainer = configured(dialect.trainer)
        params = await read_params(dialect, request)
        pairs = await asyncio.to_thread(pairs_of, dialect.studies)
        waits = flag(run_sync or None, "run_sync", default=False)
        return await dialect.training.start(
            {"model": TRAINER, **params}, work_of(trainer, pairs, params), waits=waits
        )

    @router.post("/train/", response_model=None)
    @told
    async def post_all(request: Request, run_sync: str = "") -> Response:
        """Begin to train, as OHIF asks for it."""
        task = await begin(request, run_sync)
        return JSONResponse({TRAINER: {"result": task.answer, "detail": None}})

    @router.post("/train/{model}", response_model=None)
    @told
    async def post_one(request: Request, model: str, run_sync: str = "") -> Response:
        """Begin to train."""
        configured(dialect.trainer)
        if model != TRAINER:
            raise Fault(404, f"there is no trainer {model[:60]!r}; {TRAINER} is")
        return JSONResponse((await begin(request, run_sync)).answer)


def _add_batch(router: APIRouter, dialect: Dialect) -> None:
    _add_status(router, "/batch/infer/", dialect.batches)

    @router.post("/batch/infer/{model}", response_model=None)
    @told
    async def post_batch(request: Request, model: str, images: str = "", run_sync: str = "") -> Response:
        """Begin to segment images of the datastore."""
        params = await read_params(dialect, request)
        task = await start_batch(dialect, params, model=model, images=images, run_sync=run_sync)
        return JSONResponse(task.answer)

    _add_status(router, "/scoring/", Tasks("scoring"))


def _add_status(router: APIRouter, path: str, tasks: Tasks) -> None:
    """Let clients ask after work in the background, and end it."""

    def named(verb: str) -> Callable[[Callable[..., object]], Callable[..., object]]:
        name = f"{verb}{path.replace('/', '_').rstrip('_')}"
        return router.api_route(path, methods=[verb.upper()], response_model=None, operation_id=name)

    @named("get")
    @told
    async def get_status(all: str = "", check_if_running: str = "") -> Response:  # noqa: A002
        """Say how the latest work stands, or 404."""
        if flag(check_if_running or None, "check_if_running", default=False):
            return JSONResponse(tasks.running().answer)
        if flag(all or None, "all", default=False):
            return JSONResponse([task.answer for task in tasks.all()])
        return JSONResponse(tasks.latest().answer)

    @named("delete")
    @told
    async def delete_task() -> Response:
        """Stop what runs."""
        return JSONResponse(tasks.end().answer)
