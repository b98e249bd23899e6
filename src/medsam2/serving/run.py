"""Run the server on an address until it is stopped, with time limits on connections."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import h11
import orjson
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from medsam2.errors import InputError
from medsam2.serving.app import SETTINGS_KEY, Extension, create_app
from medsam2.serving.http_errors import BadRequest, BodyTooSlow, HttpError, error_answer, status_of
from medsam2.serving.observe import log_lines_to
from medsam2.serving.settings import ServerSettings
from medsam2.serving.viewers.paths import REASON, waits_longer

if TYPE_CHECKING:
    from medsam2.inference.predictor import Predictor

_GRACE_S = 5.0  # the application's own limit on a body comes first, with an answer


class ReasonConnection(h11.Connection):
    """Lets the application choose the reason of a status line, the one text that some viewers show."""

    def send_with_data_passthrough(self, event: h11.Event) -> list[bytes] | None:
        """Write an event; a response's header `REASON` becomes its reason."""
        if isinstance(event, h11.Response):
            reason = next((value for name, value in event.headers if name == REASON.encode()), None)
            if reason is not None:
                headers = [pair for pair in event.headers if pair[0] != REASON.encode()]
                event = h11.Response(status_code=event.status_code, headers=headers, reason=reason)
        return super().send_with_data_passthrough(event)


class PatientProtocol(H11Protocol):
    """uvicorn's HTTP/1.1 with time limits; uvicorn takes another protocol as a class."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.conn = ReasonConnection(h11.SERVER, _LARGEST_HEADERS)

    _timer: asyncio.TimerHandle | None = None
    _work_timer: asyncio.TimerHandle | None = None
    _waits_for: object = None
    _send_timer: asyncio.TimerHandle | None = None

    @property
    def _settings(self) -> ServerSettings:
        settings = self.app_state[SETTINGS_KEY]
        assert isinstance(settings, ServerSettings)
        return settings

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start to wait for headers."""
        super().connection_made(transport)
        if len(self.connections) > self._settings.max_connections:
            self.connections.discard(self)
            transport.abort()
            return
        self._watch_arrival()

    def data_received(self, data: bytes) -> None:
        """Take data, and limit the time for the rest."""
        super().data_received(data)
        self._watch_arrival()
        if self._work_timer is None and self.scope is not None and waits_longer(dict(self.scope)):
            self._work_timer = self.loop.call_later(self._settings.interim_s, self._still_at_work)

    def on_response_complete(self) -> None:
        """Go on to the next request."""
        super().on_response_complete()
        if self._work_timer is not None:
            self._work_timer.cancel()
            self._work_timer = None
        self._watch_arrival()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop all timers."""
        super().connection_lost(exc)
        for timer in (self._timer, self._send_timer, self._work_timer):
            if timer is not None:
                timer.cancel()

    def pause_writing(self) -> None:
        """Give the caller some time to take what was sent."""
        super().pause_writing()
        self._send_timer = self.loop.call_later(self._settings.send_timeout_s, self.transport.abort)

    def resume_writing(self) -> None:
        """Stop the time limit: the caller has taken what was sent."""
        super().resume_writing()
        if self._send_timer is not None:
            self._send_timer.cancel()

    def send_400_response(self, msg: str) -> None:
        """Say in the contract's form that this is not HTTP."""
        self._end_with(BadRequest(f"this is not HTTP/1.1: {msg}"))

    def _watch_arrival(self) -> None:
        """Limit the time until headers, and then the body, are complete."""
        state = self.conn.their_state
        waits_for = (state, self.conn.our_state) if state in (h11.IDLE, h11.SEND_BODY) else None
        if waits_for == self._waits_for:
            return
        self._waits_for = waits_for
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if state is h11.IDLE:
            self._timer = self.loop.call_later(self._settings.header_timeout_s, self._no_headers)
        elif state is h11.SEND_BODY:
            limit_s = self._settings.body_timeout_s + _GRACE_S
            self._timer = self.loop.call_later(limit_s, self.transport.abort)

    def _still_at_work(self) -> None:
        """Tell a viewer by an interim response that work goes on: it gives up after 60 s of silence."""
        if self.transport.is_closing() or self.conn.our_state is not h11.SEND_RESPONSE:
            return
        if self.conn.their_state is h11.DONE and self.conn.their_http_version == b"1.1":
            interim = h11.InformationalResponse(status_code=102, headers=[], reason=b"Processing")
            self.transport.write(self.conn.send(interim) or b"")
        self._work_timer = self.loop.call_later(self._settings.interim_s, self._still_at_work)

    def _no_headers(self) -> None:
        limit_s = self._settings.header_timeout_s
        self._end_with(BodyTooSlow(f"no request arrived within {limit_s:g} s"))

    def _end_with(self, error: HttpError) -> None:
        if self.transport.is_closing():
            return
        body = orjson.dumps(error_answer(error))
        head = (
            f"HTTP/1.1 {status_of(error)} \r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode("ascii") + body)
        self.transport.close()


_BACKLOG = 128
_KEEP_ALIVE_S = 8  # longer than httpx keeps an idle connection, so that the caller closes it and not we
_LARGEST_HEADERS = 64 * 1024


def listen(host: str, port: int) -> socket.socket:
    """Take an address before the weights are loaded.

    Raises:
        InputError: The address is not available.
    """
    try:
        family, *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.create_server((host, port), family=family, backlog=_BACKLOG)
        # Connections inherit it. Without it the end of each answer waits 40 ms until the caller has
        # confirmed the beginning. asyncio sets it only on sockets made with a protocol number.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener
    except OSError as error:
        raise InputError(f"{host}:{port} cannot be listened on: {error.strerror or error}") from error


def server_for(
    predictor: Predictor,
    settings: ServerSettings,
    extensions: Sequence[Extension] = (),
) -> uvicorn.Server:
    """A server that is not running yet.

    Raises:
        InputError: See `create_app`.
    """
    config = uvicorn.Config(
        create_app(predictor, settings, extensions),
        http=PatientProtocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,  # it would write paths and addresses
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        # Requests at work may finish; they have their own time limit.
        timeout_graceful_shutdown=int(settings.answer_timeout_s) + 1,
        h11_max_incomplete_event_size=_LARGEST_HEADERS,
    )
    return uvicorn.Server(config)


def run_server(
    predictor: Predictor,
    settings: ServerSettings,
    listener: socket.socket,
    extensions: Sequence[Extension] = (),
) -> None:
    """Serve until SIGTERM or SIGINT, then finish what runs."""
    with log_lines_to(sys.stderr):
        server_for(predictor, settings, extensions).run(sockets=[listener])
