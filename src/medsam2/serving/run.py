"""Run the server on an address until it is told to stop."""

from __future__ import annotations

import socket
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import uvicorn

from medsam2.errors import InputError
from medsam2.serving.app import Extension, create_app
from medsam2.serving.logs import log_lines_to
from medsam2.serving.protocol import PatientProtocol
from medsam2.serving.settings import ServerSettings

if TYPE_CHECKING:
    from medsam2.inference.predictor import Predictor
    from medsam2.serving.monailabel.training import Trainer

_BACKLOG = 128
_KEEP_ALIVE_S = 5
_LARGEST_HEADERS = 64 * 1024


def listen(host: str, port: int) -> socket.socket:
    """Take an address before the work of loading weights.

    Raises:
        InputError: It cannot be had.
    """
    try:
        family, *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.create_server((host, port), family=family, backlog=_BACKLOG)
        # Connections inherit it: otherwise the end of each answer waits 40 ms for the caller's word on its
        # beginning, and asyncio sees to that only where the socket was made with a protocol number.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener
    except OSError as error:
        raise InputError(f"{host}:{port} cannot be listened on: {error.strerror or error}") from error


def server_for(
    predictor: Predictor,
    settings: ServerSettings,
    extensions: Sequence[Extension] = (),
    *,
    trainer: Trainer | None = None,
) -> uvicorn.Server:
    """A server that is not running yet.

    Raises:
        InputError: See `create_app`.
    """
    config = uvicorn.Config(
        create_app(predictor, settings, extensions, trainer=trainer),
        http=PatientProtocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,  # it would write paths and addresses
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        # What runs may finish; it has a time limit of its own.
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
