"""The routes of MONAI Label's protocol, in the places and with the slashes that its clients know."""

from __future__ import annotations

import asyncio
import hmac
import time
from urllib.parse import quote

from fastapi import APIRouter, FastAPI, Request, Response
from starlette.responses import FileResponse, JSONResponse

from medsam2.serving.http_errors import Fault, shown
from medsam2.serving.monailabel.batch import start_batch
from medsam2.serving.monailabel.datastore import FINAL, ImageEntry
from medsam2.serving.monailabel.datastore_routes import add_images, checksum
from medsam2.serving.monailabel.dialect import Dialect, read_params, read_sent_form, told
from medsam2.serving.monailabel.infer import infer
from medsam2.serving.monailabel.info import describe_server, next_image, offered
from medsam2.serving.monailabel.labels import take_label
from medsam2.serving.monailabel.requests import flag

_NAME = "medsam2"
_MAX_BYTES = 1 << 16  # anybody may send them
_NO_TRAINING = (
    "this server does not train models for viewers; to fine-tune on labels, open their folder with "
    "medsam2 annotate, or use medsam2 data prepare and medsam2 train"
)


def add_auth(router: APIRouter, dialect: Dialect, key: bytes) -> None:
    """Let viewers turn a password into the header that the guard looks at.

    Args:
        router: Gets the routes.
        dialect: The server's parts.
        key: The server's.
    """

    @router.get("/auth/", response_model=None)
    @told
    async def get_auth() -> Response:
        """Say that a password is needed."""
        return JSONResponse({"enabled": True, "client_id": _NAME, "realm": _NAME})

    @router.post("/auth/token", response_model=None)
    @told
    async def post_token(request: Request) -> Response:
        """Take the key as a password."""
        form = await read_sent_form(dialect, request, _MAX_BYTES)
        if not hmac.compare_digest(form.fields.get("password", "").strip().encode(), key):
            raise Fault(403, "the password is not this server's key")
        return JSONResponse({"access_token": key.decode(), "token_type": "Bearer"})

    @router.get("/auth/token/valid", response_model=None)
    @told
    async def get_valid() -> Response:
        """Say that the guard has let the caller through."""
        return JSONResponse({"username": _NAME, "roles": []})


def add_sessions(router: APIRouter, dialect: Dialect) -> None:
    """Open, look at and close sessions."""
    sessions = dialect.sessions

    @router.put("/session/", response_model=None)
    @told
    async def put_session(request: Request, expiry: str = "") -> Response:
        """Open an image, or the files of a series; archives are read as they are."""
        form = await read_sent_form(dialect, request)
        session = await sessions.add(form.files, dialect.service.folder, _seconds(expiry))
        return JSONResponse({"session_id": session.session_id, "session_info": session.info})

    @router.get("/session/{session_id}", response_model=None)
    @told
    async def get_session(session_id: str, image: str = "") -> Response:
        """Say how a session stands; viewers ask before each click, which keeps it open."""
        session = sessions.find(session_id)
        if not flag(image or None, "image", default=False):
            return JSONResponse(session.info)
        if not session.suffix:
            raise Fault(422, "the session is of several files, which are not given back")
        return FileResponse(session.path, filename=f"image{session.suffix}")

    @router.delete("/session/{session_id}", response_model=None)
    @told
    async def delete_session(session_id: str) -> Response:
        """Close a session."""
        return JSONResponse(sessions.remove(session_id).info)


def _seconds(text: str) -> int:
    if not text:
        return 0
    if not text.isdecimal() or len(text) > 9:
        raise Fault(422, f"expiry is {shown(text)}; seconds are expected, 0 for as long as any")
    return int(text)


def add_labels(router: APIRouter, dialect: Dialect) -> None:
    """Take in, give out and remove labels, and what is known of them."""
    studies = dialect.studies

    @router.put("/datastore/label", response_model=None)
    @told
    async def put_label(request: Request, image: str = "", tag: str = "") -> Response:
        """Store a label."""
        return JSONResponse(await take_label(dialect, request, image=image, tag=tag))

    @router.get("/datastore/label", response_model=None, operation_id="get_label")
    @router.head("/datastore/label", response_model=None, operation_id="head_label")
    @told
    async def get_label(label: str = "", image: str = "", tag: str = "") -> Response:
        """Give a label out, or say whether it is there."""
        entry = await asyncio.to_thread(studies.find, label or image)
        path = await asyncio.to_thread(studies.label_path, entry, tag or FINAL)
        return FileResponse(path, filename=f"{entry.image_id}{entry.labels[tag or FINAL].suffix}")

    @router.delete("/datastore/label", response_model=None)
    @told
    async def delete_label(id: str = "", tag: str = "") -> Response:  # noqa: A002
        """Remove a label."""
        entry = await asyncio.to_thread(studies.find, id)
        await asyncio.to_thread(studies.remove_label, entry, tag or FINAL)
        return JSONResponse({})

    @router.get("/datastore/label/info", response_model=None)
    @told
    async def get_label_info(label: str = "", tag: str = "") -> Response:
        """Say what is known of a label."""
        entry = await asyncio.to_thread(studies.find, label)
        return JSONResponse(_info(entry, tag or FINAL))

    @router.put("/datastore/label/info", response_model=None, operation_id="put_label_info")
    @router.put("/datastore/updatelabelinfo", response_model=None, operation_id="put_updatelabelinfo")
    @told
    async def put_label_info(request: Request, label: str = "", tag: str = "") -> Response:
        """Add to what is known of a label."""
        entry = await asyncio.to_thread(studies.find, label)
        known = _info(entry, tag or FINAL)
        info = (await read_sent_form(dialect, request)).json("info")
        await asyncio.to_thread(studies.note, entry, info, tag or FINAL)
        return JSONResponse({**known, **info})


def _info(entry: ImageEntry, tag: str) -> dict[str, object]:
    if tag not in entry.labels:
        raise Fault(404, f"{shown(entry.image_id)} has no label tagged {shown(tag)}")
    return dict(entry.labels[tag].info)


def add_monailabel(app: FastAPI, dialect: Dialect) -> None:
    """Let a server speak MONAI Label's protocol."""
    router = APIRouter(tags=["MONAI Label"], default_response_class=JSONResponse)
    _add_model(router, dialect)
    add_images(router, dialect)
    add_labels(router, dialect)
    add_sessions(router, dialect)
    _add_batch(router, dialect)
    _add_absent(router)
    settings = dialect.service.settings
    if dialect.studies.is_archive:
        from medsam2.serving.monailabel.datastore_routes import add_proxy
        from medsam2.serving.monailabel.dicomweb import Address

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


def _add_batch(router: APIRouter, dialect: Dialect) -> None:
    batches = dialect.batches

    @router.post("/batch/infer/{model}", response_model=None)
    @told
    async def post_batch(request: Request, model: str, images: str = "", run_sync: str = "") -> Response:
        """Start to segment images of the datastore."""
        params = await read_params(dialect, request)
        task = await start_batch(dialect, params, model=model, images=images, run_sync=run_sync)
        return JSONResponse(task.answer)

    @router.get("/batch/infer/", response_model=None)
    @told
    async def get_batch(all: str = "", check_if_running: str = "") -> Response:  # noqa: A002
        """Return the latest batch, all batches, or the one that runs."""
        if flag(check_if_running or None, "check_if_running", default=False):
            return JSONResponse(batches.running().answer)
        if not batches.tasks:
            raise Fault(404, "No Batch Infer Tasks Found")
        answers = [task.answer for task in batches.tasks]
        return JSONResponse(answers if flag(all or None, "all", default=False) else answers[-1])

    @router.delete("/batch/infer/", response_model=None)
    @told
    async def delete_batch() -> Response:
        """Stop the batch that runs."""
        return JSONResponse(batches.stop().answer)


def _add_absent(router: APIRouter) -> None:
    """Answer for work that this server does not offer as MONAI Label does where there is none."""

    @router.get("/train/", response_model=None, operation_id="get_train")
    @router.delete("/train/", response_model=None, operation_id="delete_train")
    @told
    async def find_training() -> Response:
        """Answer 404: no training runs or has run."""
        raise Fault(404, "No Train Tasks Found")

    @router.post("/train/", response_model=None, operation_id="post_train")
    @router.post("/train/{model}", response_model=None, operation_id="post_train_model")
    @told
    async def start_training() -> Response:
        """Answer 404: there is no model to train."""
        raise Fault(404, _NO_TRAINING)

    @router.get("/scoring/", response_model=None, operation_id="get_scoring")
    @router.delete("/scoring/", response_model=None, operation_id="delete_scoring")
    @told
    async def find_scoring() -> Response:
        """Answer 404: no scoring runs or has run."""
        raise Fault(404, "No Scoring Tasks Found")
