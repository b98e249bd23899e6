"""The routes of sessions; a propagation is a stream of events, a slice at a time."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Mapping
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import orjson
from fastapi import APIRouter, Request, Response
from starlette.background import BackgroundTask
from starlette.responses import StreamingResponse

from medsam2.errors import MedSAM2Error, SessionError
from medsam2.imaging.labels import coco_counts
from medsam2.serving.http_errors import NotAllowed, ServerFailed, StateConflict, error_answer
from medsam2.serving.limits import read_body
from medsam2.serving.schemas import error_responses, json_response, read_message
from medsam2.serving.service import Service
from medsam2.serving.sessions.answers import (
    add_prompt,
    find_masks,
    masks_answer,
    masks_file,
    measure,
    session_info,
    session_state,
    volume_file,
)
from medsam2.serving.sessions.opening import open_session
from medsam2.serving.sessions.schemas import (
    MAX_JSON_BYTES,
    OPENING_REQUEST,
    PROMPT_REQUEST,
    DoneEvent,
    ListedSession,
    Measurements,
    PromptedSlice,
    PromptMessage,
    SessionInfo,
    SessionList,
    SessionMasks,
    SessionState,
    SliceEvent,
    read_export_type,
    read_names,
    read_whole_number,
)
from medsam2.serving.sessions.store import OpenSession
from medsam2.serving.settings import is_loopback

if TYPE_CHECKING:
    from medsam2.inference.session import Session

_AHEAD = 4  # slices that may be done before the caller has taken them

logger = logging.getLogger(__name__)

_Events = asyncio.Queue[bytes | None]


async def propagation(service: Service, opened: OpenSession) -> Response:
    """Propagate the objects of a session, as a stream of events.

    Raises:
        SessionError: No object has a prompt.
        NotFound: The session has ended.
    """
    turn = opened.next_turn()
    async with opened.locked() as session:
        if not session.status.objects:
            raise SessionError("nothing to propagate: add a box, a point or a mask first")
    events: _Events = asyncio.Queue(_AHEAD)
    # A task of its own: it ends with the slice at hand, however the response does.
    task = asyncio.create_task(_follow(service, opened, turn, events))
    service.sessions.follow(task)

    async def end() -> None:  # a coroutine, since Starlette runs a plain function in a thread
        task.cancel()

    return StreamingResponse(
        _taken(events, task), media_type="text/event-stream", background=BackgroundTask(end)
    )


async def _taken(events: _Events, task: asyncio.Task[None]) -> AsyncIterator[bytes]:
    try:
        while (event := await events.get()) is not None:
            yield event
    finally:
        task.cancel()


async def _follow(service: Service, opened: OpenSession, turn: int, events: _Events) -> None:
    try:
        async for event in _events(service, opened, turn):
            await events.put(event)
    except MedSAM2Error as error:
        await events.put(_event("error", orjson.dumps(error_answer(error))))
    except Exception:
        logger.exception("a propagation failed")
        failure = ServerFailed("the server failed; its log says where")
        await events.put(_event("error", orjson.dumps(error_answer(failure))))
    await events.put(None)


async def _events(service: Service, opened: OpenSession, turn: int) -> AsyncIterator[bytes]:
    started = time.perf_counter()
    seen: set[int] = set()
    steps = opened.session.propagate()
    while True:
        # The lock is kept for one slice only, so that other requests of the session come in between.
        async with opened.locked() as session:
            if opened.turn != turn:
                raise StateConflict("the session was changed, which ended this propagation; propagate again")
            service.budget.check_room()
            step = await service.model.step(steps)
            opened.masks = None
            if step is None:
                break
            z, masks = step
            seen.add(z)
            answer = await service.workers.run(partial(_slice_event, session, z, masks, len(seen)))
        yield _event("slice", answer.model_dump_json().encode())
    done = DoneEvent(seconds=round(time.perf_counter() - started, 3), num_slices=len(seen))
    yield _event("done", done.model_dump_json().encode())


def _slice_event(
    session: Session, z: int, masks: Mapping[int, npt.NDArray[np.bool_]], num_done: int
) -> SliceEvent:
    return SliceEvent(
        slice=z,
        masks={number: coco_counts(mask) for number, mask in masks.items() if mask.any()},
        confidence={number: session.object(number).scores()[z] for number in masks},
        done=num_done,
        of=None if session.status.stops_early else session.grid.shape[0],
    )


def _event(name: str, data: bytes) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), data)


SESSIONS = "/v1/sessions"
_ONE = SESSIONS + "/{session_id}"


def session_routes(service: Service) -> APIRouter:
    """All routes of sessions."""
    router = APIRouter(tags=["sessions"], responses=error_responses())
    _add_sessions(router, service)
    _add_changes(router, service)
    _add_results(router, service)
    return router


def _add_sessions(router: APIRouter, service: Service) -> None:
    sessions, idle_s = service.sessions, service.settings.session_idle_s

    @router.post(SESSIONS, response_model=SessionInfo, status_code=201, openapi_extra=OPENING_REQUEST)
    async def open_(request: Request) -> Response:
        """Open a scan: its bytes, or JSON with the path of one below the server's folder."""
        opened = await open_session(service, request)
        return json_response(session_info(opened, idle_s), 201)

    @router.get(SESSIONS, response_model=SessionList)
    async def list_() -> Response:
        """List the open sessions."""
        if service.settings.key is None and not is_loopback(service.settings.host):
            raise NotAllowed("sessions are listed by servers with a key, or for their own machine, only")
        listed = [
            ListedSession(id=one.id, name=one.name, shape=one.session.grid.shape, idle_s=round(one.idle_s, 3))
            for one in sessions
        ]
        return json_response(SessionList(sessions=listed))

    @router.get(_ONE, response_model=SessionState)
    async def show(session_id: str) -> Response:
        """Show what a session is at the moment."""
        opened = sessions.get(session_id)
        async with opened.locked():
            return json_response(session_state(opened, idle_s))

    @router.delete(_ONE, status_code=204)
    async def end(session_id: str) -> Response:
        """End a session; nothing of it is kept."""
        await sessions.end(sessions.get(session_id))
        return Response(status_code=204)


def _add_changes(router: APIRouter, service: Service) -> None:
    sessions, idle_s = service.sessions, service.settings.session_idle_s

    @router.post(_ONE + "/prompts", response_model=PromptedSlice, openapi_extra=PROMPT_REQUEST)
    async def prompt(session_id: str, request: Request) -> Response:
        """Prompt an object in a slice and answer with its mask there."""
        opened = sessions.get(session_id)
        body = await read_body(request, service.settings, MAX_JSON_BYTES)
        _, height, width = opened.session.grid.shape
        message = read_message(PromptMessage, body)
        given = await asyncio.to_thread(message.prompt, (height, width))
        async with opened.changing() as session:
            service.budget.check_room()
            return json_response(await service.model.run(partial(add_prompt, session, message.object, given)))

    @router.delete(_ONE + "/objects/{number}", response_model=SessionState)
    async def remove(session_id: str, number: str, slice: str | None = None) -> Response:  # noqa: A002
        """Remove an object, or its prompt in one slice."""
        opened, object_number = sessions.get(session_id), read_whole_number("the object", number)
        z = None if slice is None else read_whole_number("slice", slice)
        async with opened.changing() as session:
            await service.model.run(partial(session.remove, object_number, slice=z))
            return json_response(session_state(opened, idle_s))

    @router.post(_ONE + "/propagate")
    async def propagate(session_id: str) -> Response:
        """Propagate all objects through the volume; each slice is an event."""
        return await propagation(service, sessions.get(session_id))

    @router.post(_ONE + "/undo", response_model=SessionState)
    async def undo(session_id: str) -> Response:
        """Take the last change back."""
        return await step_back(sessions.get(session_id), "undo")

    @router.post(_ONE + "/redo", response_model=SessionState)
    async def redo(session_id: str) -> Response:
        """Do again what was undone last."""
        return await step_back(sessions.get(session_id), "redo")

    async def step_back(opened: OpenSession, what: str) -> Response:
        async with opened.changing() as session:
            if not await service.model.run(session.undo if what == "undo" else session.redo):
                raise SessionError(f"there is nothing to {what}")
            return json_response(session_state(opened, idle_s))


def _add_results(router: APIRouter, service: Service) -> None:
    sessions = service.sessions

    @router.get(_ONE + "/masks", response_model=SessionMasks)
    async def masks(session_id: str, slice: str | None = None) -> Response:  # noqa: A002
        """Give the masks of a slice, or of all, as run lengths."""
        z = None if slice is None else read_whole_number("slice", slice)
        opened = sessions.get(session_id)
        async with opened.locked() as session:
            if opened.masks is None:
                opened.masks = await service.workers.run(partial(find_masks, session))
            return json_response(masks_answer(session, opened.masks, z))

    @router.get(_ONE + "/measurements", response_model=Measurements)
    async def measurements(session_id: str) -> Response:
        """Measure every object."""
        async with sessions.get(session_id).locked() as session:
            return json_response(await service.workers.run(partial(measure, session)))

    @router.get(_ONE + "/volume")
    async def volume(session_id: str) -> Response:
        """Give the opened volume as .nii.gz."""
        return await volume_file(service, sessions.get(session_id))

    @router.get(_ONE + "/export")
    async def export(session_id: str, type: str | None = None, names: str | None = None) -> Response:  # noqa: A002
        """Give the masks as a file."""
        opened = sessions.get(session_id)
        return await masks_file(service, opened, read_export_type(type), read_names(names))
