"""The routes of sessions: each reads, calls and answers."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from fastapi import APIRouter, Request, Response

from medsam2.errors import SessionError
from medsam2.serving.body import read_body
from medsam2.serving.faults import Fault
from medsam2.serving.service import Service
from medsam2.serving.sessions.answers import (
    described,
    json_response,
    masks_answer,
    masks_of,
    measured,
    preview,
    state,
)
from medsam2.serving.sessions.description import OPENING, PROMPT, RESPONSES
from medsam2.serving.sessions.files import masks_file, volume_file
from medsam2.serving.sessions.opening import open_session
from medsam2.serving.sessions.propagation import propagation
from medsam2.serving.sessions.requests import (
    MAX_JSON_BYTES,
    PromptRequest,
    kind_of_export,
    names_of,
    prompt_of,
    whole_number,
)
from medsam2.serving.sessions.store import OpenSession
from medsam2.serving.settings import is_loopback
from medsam2.serving.usage import usage_of

if TYPE_CHECKING:
    from medsam2.inference.session import Session
    from medsam2.serving.sessions.answers import Answer

SESSIONS = "/v1/sessions"
_ONE = SESSIONS + "/{session_id}"


def session_routes(service: Service) -> APIRouter:
    """All routes of sessions."""
    router = APIRouter(tags=["sessions"], responses=RESPONSES)
    _add_sessions(router, service)
    _add_changes(router, service)
    _add_results(router, service)
    return router


def _add_sessions(router: APIRouter, service: Service) -> None:
    sessions, idle_s = service.sessions, service.settings.session_idle_s

    @router.post(SESSIONS, response_model=None, status_code=201, openapi_extra=OPENING)
    async def open_(request: Request) -> Response:
        """Open a scan: its bytes, or JSON with the path of one below the server's folder."""
        opened = await open_session(service, request)
        return json_response(described(opened, idle_s), 201)

    @router.get(SESSIONS, response_model=None)
    async def list_() -> Response:
        """List the open sessions."""
        if service.settings.key is None and not is_loopback(service.settings.host):
            raise Fault(403, "sessions are listed by servers with a key, or for their own machine, only")
        listed: list[Answer] = [
            {"id": one.id, "name": one.name, "shape": one.session.shape, "idle_s": round(one.idle_s, 3)}
            for one in sessions
        ]
        return json_response({"sessions": listed})

    @router.get(_ONE, response_model=None)
    async def show(session_id: str) -> Response:
        """Show what a session is at the moment."""
        opened = sessions.get(session_id)
        async with opened.held():
            return json_response(state(opened, idle_s))

    @router.delete(_ONE, response_model=None, status_code=204)
    async def end(session_id: str) -> Response:
        """End a session; nothing of it is kept."""
        await sessions.end(sessions.get(session_id))
        return Response(status_code=204)


def _add_changes(router: APIRouter, service: Service) -> None:
    sessions, idle_s = service.sessions, service.settings.session_idle_s

    @router.post(_ONE + "/prompts", response_model=None, openapi_extra=PROMPT)
    async def prompt(session_id: str, request: Request) -> Response:
        """Say something about an object in a slice and see it there."""
        opened, reservation = sessions.get(session_id), usage_of(request.scope).reservation
        body = await read_body(request.scope, request.receive, service.settings, reservation, MAX_JSON_BYTES)
        _, height, width = opened.session.shape
        said = await asyncio.to_thread(prompt_of, body, (height, width))
        async with opened.changing() as session:
            service.budget.check_room()
            return json_response(await service.model.run(partial(_add, session, said)))

    @router.delete(_ONE + "/objects/{number}", response_model=None)
    async def remove(session_id: str, number: str, slice: str | None = None) -> Response:  # noqa: A002
        """Forget an object, or what was said about it in one slice."""
        opened, object_number = sessions.get(session_id), whole_number("the object", number)
        z = None if slice is None else whole_number("slice", slice)
        async with opened.changing() as session:
            await service.model.run(partial(session.remove, object_number, slice=z))
            return json_response(state(opened, idle_s))

    @router.post(_ONE + "/propagate", response_model=None)
    async def propagate(session_id: str) -> Response:
        """Carry all objects through the volume; each slice is an event as it is done."""
        return await propagation(service, sessions.get(session_id))

    @router.post(_ONE + "/undo", response_model=None)
    async def undo(session_id: str) -> Response:
        """Take the last change back."""
        return await step_back(sessions.get(session_id), "undo")

    @router.post(_ONE + "/redo", response_model=None)
    async def redo(session_id: str) -> Response:
        """Do again what was undone last."""
        return await step_back(sessions.get(session_id), "redo")

    async def step_back(opened: OpenSession, what: str) -> Response:
        async with opened.changing() as session:
            if not await service.model.run(session.undo if what == "undo" else session.redo):
                raise SessionError(f"there is nothing to {what}")
            return json_response(state(opened, idle_s))


def _add_results(router: APIRouter, service: Service) -> None:
    sessions = service.sessions

    @router.get(_ONE + "/masks", response_model=None)
    async def masks(session_id: str, slice: str | None = None) -> Response:  # noqa: A002
        """Give the masks of a slice, or of all, as run lengths."""
        z = None if slice is None else whole_number("slice", slice)
        opened = sessions.get(session_id)
        async with opened.held() as session:
            if opened.masks is None:
                opened.masks = await service.hands.run(partial(masks_of, session))
            return json_response(masks_answer(session, opened.masks, z))

    @router.get(_ONE + "/measurements", response_model=None)
    async def measurements(session_id: str) -> Response:
        """Measure every object."""
        async with sessions.get(session_id).held() as session:
            return json_response(await service.hands.run(partial(measured, session)))

    @router.get(_ONE + "/volume", response_model=None)
    async def volume(session_id: str) -> Response:
        """Give the opened volume as .nii.gz."""
        return await volume_file(service, sessions.get(session_id))

    @router.get(_ONE + "/export", response_model=None)
    async def export(session_id: str, type: str | None = None, names: str | None = None) -> Response:  # noqa: A002
        """Give the masks as a file."""
        opened = sessions.get(session_id)
        return await masks_file(service, opened, kind_of_export(type), names_of(names))


def _add(session: Session, said: PromptRequest) -> Answer:
    mask = session.add(
        said.number,
        slice=said.slice_index,
        box=said.box,
        points=said.points,
        labels=said.labels,
        mask=said.mask,
    )
    return preview(session, said.number, said.slice_index, mask)
