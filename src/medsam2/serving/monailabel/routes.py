"""The routes of MONAI Label's protocol, with the paths and slashes that its clients expect."""

from __future__ import annotations

import asyncio
import hmac
import random
import time
from collections.abc import Mapping
from importlib.metadata import version
from urllib.parse import quote

from fastapi import APIRouter, FastAPI, Request, Response
from starlette.responses import FileResponse, JSONResponse

from medsam2.errors import InputError
from medsam2.serving.http_errors import NotAllowed, NotFound, shown
from medsam2.serving.monailabel.batch import start_batch
from medsam2.serving.monailabel.datastore import FINAL, ImageEntry, statistics
from medsam2.serving.monailabel.datastore_routes import add_images, add_labels, add_proxy, checksum
from medsam2.serving.monailabel.infer import MODELS, infer
from medsam2.serving.monailabel.params import LABEL, flag
from medsam2.serving.monailabel.state import ViewerRoute, ViewerState

_NAME = "medsam2"
_MAX_TOKEN_BYTES = 1 << 16  # anybody may send them
_NO_TRAINING = (
    "this server does not train models for viewers; to fine-tune on labels, open their folder with "
    "medsam2 annotate, or use medsam2 data prepare and medsam2 train"
)
STRATEGIES: Mapping[str, str] = {
    "first": "The first image without a final label",
    "random": "Any image without a final label; those not offered for long come sooner",
}


def add_monailabel(app: FastAPI, state: ViewerState) -> None:
    """Let a server speak MONAI Label's protocol."""
    router = APIRouter(tags=["MONAI Label"], default_response_class=JSONResponse, route_class=ViewerRoute)
    _add_model(router, state)
    add_images(router, state)
    add_labels(router, state)
    _add_sessions(router, state)
    _add_batch(router, state)
    _add_absent(router)
    settings = state.service.settings
    if state.datastore.is_archive:
        from medsam2.serving.monailabel.dicomweb import Address

        add_proxy(router, Address.of(settings.studies), settings.fetch_timeout_s)
    if settings.key is not None:  # clients see by the missing routes that no password is needed
        _add_auth(router, state, settings.key)
    app.include_router(router)


def _add_model(router: APIRouter, state: ViewerState) -> None:
    @router.get("/info/")
    def get_info() -> Response:
        """Describe the server."""
        return JSONResponse(_info(state))

    @router.post("/infer/{model}")
    async def post_infer(
        request: Request, model: str, image: str = "", session_id: str = "", output: str = ""
    ) -> Response:
        """Segment the object that the form's params prompt."""
        return await infer(state, request, model=model, image=image, session_id=session_id, output=output)

    @router.post("/activelearning/{strategy}")
    async def post_strategy(request: Request, strategy: str) -> Response:
        """Choose the next image to look at."""
        params = await state.read_object(request)
        return JSONResponse(await asyncio.to_thread(_next_image, state, strategy, params.get("client_id")))


def _info(state: ViewerState) -> dict[str, object]:
    """What the plug-ins read, in a form that all their versions understand."""
    return {
        "name": _NAME,
        "description": "Draw a box or click on one slice and get the whole 3D structure. Research software, "
        "not a medical device.",
        "version": version(_NAME),
        "labels": [LABEL],
        "models": {name: model.info for name, model in MODELS.items()},
        "trainers": {},
        "strategies": {name: {"description": text} for name, text in STRATEGIES.items()},
        "scoring": {},
        "train_stats": {},
        "datastore": statistics(state.datastore.entries()),
        # Old plug-ins read it; newer ones call the server too old if there is anything in it.
        "config": {},
    }


def _next_image(state: ViewerState, strategy: str, client: object) -> dict[str, object]:
    if strategy not in STRATEGIES:
        raise NotFound(f"there is no strategy {shown(strategy)}; strategies are {', '.join(STRATEGIES)}")
    left = [entry for entry in state.datastore.entries().values() if FINAL not in entry.labels]
    if not left:
        return {}
    now = int(time.time())
    ages = [max(1.0, now - _last_offer(entry)) for entry in left]
    entry = left[0] if strategy == "first" else random.choices(left, ages)[0]
    note = {"strategy": {**_offers(entry), strategy: {"ts": now, "client_id": client}}}
    state.datastore.note(entry, note)
    # A series has no checksum, and an archive's series is not fetched before somebody opens it.
    path = state.datastore.image_path(entry) if entry.suffix else None
    return {
        "weight": 1,
        "ts": now,
        **entry.info,
        **note,
        "id": entry.image_id,
        "name": entry.name,
        "path": "",  # a path on this machine is of no use to a viewer on another one; it fetches the image
        "url": f"/datastore/image?image={quote(entry.image_id, safe='')}",
        **({} if path is None else {"checksum": checksum(path)}),
    }


def _offers(entry: ImageEntry) -> dict[str, object]:
    found = entry.info.get("strategy")
    return dict(found) if isinstance(found, dict) else {}


def _last_offer(entry: ImageEntry) -> float:
    times = [offer.get("ts") for offer in _offers(entry).values() if isinstance(offer, dict)]
    return max((float(at) for at in times if isinstance(at, (int, float))), default=0.0)


def _add_sessions(router: APIRouter, state: ViewerState) -> None:
    sessions = state.sessions

    @router.put("/session/")
    async def put_session(request: Request, expiry: str = "") -> Response:
        """Open an image, or the files of a series; archives need not be unpacked."""
        form = await state.read_form(request)
        session = await sessions.add(form.files, state.service.folder, _seconds(expiry))
        return JSONResponse({"session_id": session.session_id, "session_info": session.info})

    @router.get("/session/{session_id}")
    async def get_session(session_id: str, image: str = "") -> Response:
        """Describe a session; viewers ask before each click, which keeps it open."""
        session = sessions.find(session_id)
        if not flag(image, "image"):
            return JSONResponse(session.info)
        if not session.suffix:
            raise InputError("the session has several files, which are not given back")
        return FileResponse(session.path, filename=f"image{session.suffix}")

    @router.delete("/session/{session_id}")
    async def delete_session(session_id: str) -> Response:
        """Close a session."""
        return JSONResponse(sessions.remove(session_id).info)


def _seconds(text: str) -> int:
    if not text:
        return 0
    if not text.isdecimal() or len(text) > 9:
        raise InputError(f"expiry is {shown(text)}; seconds are expected, or 0 for the longest time")
    return int(text)


def _add_batch(router: APIRouter, state: ViewerState) -> None:
    batches = state.batches

    @router.post("/batch/infer/{model}")
    async def post_batch(request: Request, model: str, images: str = "", run_sync: str = "") -> Response:
        """Start to segment images of the datastore."""
        sent = await state.read_object(request)
        task = await start_batch(state, sent, model=model, images=images, run_sync=run_sync)
        return JSONResponse(task.answer)

    @router.get("/batch/infer/")
    async def get_batch(all: str = "", check_if_running: str = "") -> Response:  # noqa: A002
        """Return the latest batch, all batches, or the one that runs."""
        if flag(check_if_running, "check_if_running"):
            return JSONResponse(batches.running().answer)
        if not batches.tasks:
            raise NotFound("No Batch Infer Tasks Found")
        answers = [task.answer for task in batches.tasks]
        return JSONResponse(answers if flag(all, "all") else answers[-1])

    @router.delete("/batch/infer/")
    async def delete_batch() -> Response:
        """Stop the batch that runs."""
        return JSONResponse(batches.stop().answer)


def _add_absent(router: APIRouter) -> None:
    """Answer as a MONAI Label server that neither trains nor scores."""

    @router.get("/train/", operation_id="get_train")
    @router.delete("/train/", operation_id="delete_train")
    async def find_training() -> Response:
        """Answer 404: no training runs or has run."""
        raise NotFound("No Train Tasks Found")

    @router.post("/train/", operation_id="post_train")
    @router.post("/train/{model}", operation_id="post_train_model")
    async def start_training() -> Response:
        """Answer 404: there is no model to train."""
        raise NotFound(_NO_TRAINING)

    @router.get("/scoring/", operation_id="get_scoring")
    @router.delete("/scoring/", operation_id="delete_scoring")
    async def find_scoring() -> Response:
        """Answer 404: no scoring runs or has run."""
        raise NotFound("No Scoring Tasks Found")


def _add_auth(router: APIRouter, state: ViewerState, key: bytes) -> None:
    """Let viewers turn a password into the header that the guard checks."""

    @router.get("/auth/")
    async def get_auth() -> Response:
        """Say that a password is needed."""
        return JSONResponse({"enabled": True, "client_id": _NAME, "realm": _NAME})

    @router.post("/auth/token")
    async def post_token(request: Request) -> Response:
        """Take the key as a password."""
        form = await state.read_form(request, _MAX_TOKEN_BYTES)
        if not hmac.compare_digest(form.fields.get("password", "").strip().encode(), key):
            raise NotAllowed("the password is not this server's key")
        return JSONResponse({"access_token": key.decode(), "token_type": "Bearer"})

    @router.get("/auth/token/valid")
    async def get_valid() -> Response:
        """Say that the guard has let the caller through."""
        return JSONResponse({"username": _NAME, "roles": []})
