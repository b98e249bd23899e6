"""A propagation as a stream of events: a slice at a time, for as long as somebody listens."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import orjson
from starlette.background import BackgroundTask
from fastapi import Response
from starlette.responses import StreamingResponse

from medsam2.errors import MedSAM2Error, SessionError
from medsam2.serving.faults import Fault, fault_of
from medsam2.serving.service import Service
from medsam2.serving.sessions.answers import Answer, step_of
from medsam2.serving.sessions.store import OpenSession

if TYPE_CHECKING:
    from medsam2.inference.session import Session

_AHEAD = 4  # slices that may be done before the caller has taken them

logger = logging.getLogger(__name__)

_Events = asyncio.Queue[bytes | None]


async def propagation(service: Service, opened: OpenSession) -> Response:
    """Carry the objects of a session through its volume.

    Raises:
        SessionError: No object has a prompt.
        Fault: 404, the session has ended.
    """
    turn = opened.next_turn()
    async with opened.held() as session:
        if not session.objects:
            raise SessionError("nothing to propagate: add a box, a point or a mask first")
    events: _Events = asyncio.Queue(_AHEAD)
    # A task of its own: it ends with the slice at hand, however the response does.
    task = asyncio.create_task(_follow(service, opened, turn, events))
    service.sessions.follow(task)

    async def end() -> None:  # not a thread's business, which Starlette would make of a plain function
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
        await events.put(_event("error", fault_of(error).answer))
    except Exception:
        logger.exception("a propagation failed")
        await events.put(_event("error", Fault(500, "the server failed; its log says where").answer))
    await events.put(None)


async def _events(service: Service, opened: OpenSession, turn: int) -> AsyncIterator[bytes]:
    started = time.perf_counter()
    seen: set[int] = set()
    steps = opened.session.propagate()
    while True:
        # Held for one slice only: whoever wants to see or to change something comes in between.
        async with opened.held() as session:
            if opened.turn != turn:
                raise Fault(409, "the session was changed, which ended this propagation; propagate again")
            service.budget.check_room()
            step = await service.model.step(steps)
            opened.masks = None
            if step is None:
                break
            z, masks = step
            seen.add(z)
            answer = await service.hands.run(lambda: step_of(session, z, masks))  # noqa: B023
        yield _event("slice", {**answer, "done": len(seen), "of": _num_slices(session)})
    seconds = round(time.perf_counter() - started, 3)
    yield _event("done", {"seconds": seconds, "num_slices": len(seen)})


def _num_slices(session: Session) -> int | None:
    return None if session.stops_early else session.shape[0]


def _event(name: str, answer: Answer) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (
        name.encode(),
        orjson.dumps(answer, option=orjson.OPT_NON_STR_KEYS),
    )
