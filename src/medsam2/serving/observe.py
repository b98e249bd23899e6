"""Give each request an id, a line in the log and its figures; nothing about a patient is in them."""

from __future__ import annotations

import logging
import time
import traceback
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TextIO

import orjson
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from medsam2.serving.limits import Reservation, Usage, header
from medsam2.serving.service import Service

LOGGERS = ("medsam2.serving", "uvicorn.error")
_FIELDS = "medsam2_fields"


class JsonLines(logging.Formatter):
    """Writes log records as lines of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """Write a record with its fields."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage().strip(),
            **getattr(record, _FIELDS, {}),
        }
        if record.exc_info and record.exc_info[1] is not None:
            line |= _failure(record.exc_info[1])
        return orjson.dumps(line).decode()


def fields(**values: str | float | None) -> Mapping[str, Mapping[str, str | float | None]]:
    """The `extra` of a log call: values that get names of their own in the line."""
    return {_FIELDS: values}


@contextmanager
def log_lines_to(stream: TextIO) -> Iterator[None]:
    """Send what the server logs to a stream; undone at the end."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines())
    before = [(logger, logger.level, logger.propagate) for logger in map(logging.getLogger, LOGGERS)]
    for logger, _, _ in before:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False
    try:
        yield
    finally:
        for logger, level, propagate in before:
            logger.removeHandler(handler)
            logger.setLevel(level)
            logger.propagate = propagate


def _failure(error: BaseException) -> dict[str, object]:
    """What failed and where. Not its message, which may quote a file or a caller."""
    frames = traceback.extract_tb(error.__traceback__)
    places = [f"{frame.filename.rpartition('/')[2]}:{frame.lineno} {frame.name}" for frame in frames]
    return {"error": type(error).__name__, "where": places}


_ABANDONED = 499  # nginx's number for a caller that left; the caller does not receive it
_ELSEWHERE = "other"
_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
)

logger = logging.getLogger(__name__)


class Observer:
    """The outermost layer: it closes what it opens for a request, however the request ends."""

    def __init__(self, app: ASGIApp, service: Service, paths: frozenset[str]) -> None:
        self._app = app
        self._service = service
        self._paths = paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        usage = Usage(reservation=Reservation(self._service.budget))
        usage.request_id = _given_id(scope) or usage.request_id
        usage.attach_to(scope)
        status = 500
        started = time.perf_counter()

        async def send_observed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message.get("headers", ()), *_HEADERS, (b"x-request-id", usage.request_id.encode())
                ]  # fmt: skip
            await send(message)

        try:
            await self._app(scope, receive, send_observed)
        finally:
            usage.reservation.close()
            self._note(
                scope, usage, _ABANDONED if usage.is_abandoned else status, time.perf_counter() - started
            )

    def _note(self, scope: Scope, usage: Usage, status: int, seconds: float) -> None:
        # An unknown path may contain anything, even a patient's name.
        path = scope["path"] if scope["path"] in self._paths else self._template(scope)
        self._service.meters.request_seconds.labels(path).observe(seconds)
        self._service.meters.requests.labels(path, str(status)).inc()
        logger.info(
            "request",
            extra=fields(
                request_id=usage.request_id, method=_known_method(scope), path=path, status=status,
                seconds=round(seconds, 4), rows=usage.num_rows, bytes=usage.num_bytes,
            ),
        )  # fmt: skip

    def _template(self, scope: Scope) -> str:
        """The path of a route with its parameters' names, since an id gives access to a session."""
        path = getattr(scope.get("route"), "path", "")
        return path if path in self._paths else _ELSEWHERE


def _given_id(scope: Scope) -> str | None:
    """The id that a caller or a platform gave, if it is a UUID; another text might be a name."""
    try:
        return str(uuid.UUID(header(scope, b"x-request-id")))
    except ValueError:
        return None


def _known_method(scope: Scope) -> str:
    known = {"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"}
    return scope["method"] if scope["method"] in known else _ELSEWHERE
