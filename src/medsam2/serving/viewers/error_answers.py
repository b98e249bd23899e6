"""How viewers are answered when something is wrong: in one sentence, where they show it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import orjson
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from medsam2.errors import MedSAM2Error
from medsam2.serving.http_errors import error_headers, no_room, status_of
from medsam2.serving.viewers.paths import REASON

_MAX_REASON = 200

logger = logging.getLogger(__name__)


def answer_route(statuses: Mapping[type[MedSAM2Error], int]) -> type[APIRoute]:
    """A kind of route that answers errors as viewers read them.

    Args:
        statuses: Of errors that this protocol gives another status.
    """

    class AnswerRoute(APIRoute):
        """Puts the sentence where viewers show it."""

        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            """Put the answers to errors around the route."""
            handle = super().get_route_handler()

            async def answered(request: Request) -> Response:
                try:
                    return await handle(request)
                except ClientDisconnect:
                    raise
                except MedSAM2Error as error:
                    if status_of(error) == 500:
                        logger.exception("a request of a viewer failed")
                    return error_answer(error, statuses)
                except OSError:
                    logger.exception("no room for files")
                    return error_answer(no_room(), statuses)

            return answered

    return AnswerRoute


def error_answer(error: MedSAM2Error, statuses: Mapping[type[MedSAM2Error], int]) -> Response:
    """One sentence as `detail`, beside our own form, and as the reason of the status.

    nnInteractive's clients show the reason alone.
    """
    status = statuses.get(type(error), status_of(error))
    body = orjson.dumps({"detail": str(error), "error": str(error), "status": status})
    headers = {**error_headers(error), REASON: reason(str(error)), "Connection": "close"}
    return Response(body, status, headers, media_type="application/json")


def reason(text: str) -> str:
    """A sentence as a status line can carry it: ASCII, one line, not long."""
    return " ".join(text.encode("ascii", "replace").decode().split())[:_MAX_REASON]
