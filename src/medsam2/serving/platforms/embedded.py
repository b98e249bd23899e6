"""The contract's answers without our HTTP server, for platforms that have a server of their own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import orjson

from medsam2.errors import MedSAM2Error
from medsam2.serving.answers import answer_text
from medsam2.serving.http_errors import TooLarge, error_answer, error_headers, status_of
from medsam2.serving.limits import COPIES, Reservation
from medsam2.serving.rows import read_table
from medsam2.serving.score import answer_rows
from medsam2.serving.service import Service, load_predictor
from medsam2.serving.settings import MIB, ServerSettings, load_settings

if TYPE_CHECKING:
    from medsam2.inference.predictor import Predictor

_HERE = "127.0.0.1"

_Result = TypeVar("_Result")


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What `POST /score` would answer."""

    status: int
    """The HTTP status."""
    body: bytes
    """JSON."""
    headers: Mapping[str, str]
    """Headers besides the content's type, such as `Retry-After`."""


class Embedded:
    """A service on an event loop of its own, in a thread; any thread may ask it.

    The limits, the queue and the processes that read files are those of the server. Where a platform gives
    no sign before its end, `close` need not be called: the readers end when their standard input does.
    """

    def __init__(self, predictor: Predictor, settings: ServerSettings) -> None:
        self._service = Service(predictor, settings)
        self._loop = asyncio.new_event_loop()
        # A daemon, since a platform that ends does not tell us.
        self._thread = threading.Thread(target=self._loop.run_forever, name="medsam2-embedded", daemon=True)
        self._thread.start()
        self._open = AsyncExitStack()
        self._do(self._open.enter_async_context(self._service.running()))

    def answer(self, body: bytes) -> Reply:
        """Answer the body of a request of the contract, whatever is in it."""
        return self._do(self._answer(body))

    def close(self) -> None:
        """Wait for the work under way, end the readers and leave no file behind."""
        self._do(self._open.aclose())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _do(self, work: Coroutine[object, object, _Result]) -> _Result:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        finally:
            future.cancel()  # an alarm of the platform may end the wait, but not the work

    async def _answer(self, body: bytes) -> Reply:
        reservation = Reservation(self._service.budget)
        try:
            text = await self._score(body, reservation)
        except MedSAM2Error as error:
            body_of_error = orjson.dumps(error_answer(error))
            return Reply(status=status_of(error), body=body_of_error, headers=error_headers(error))
        finally:
            reservation.close()
        return Reply(status=200, body=text, headers={})

    async def _score(self, body: bytes, reservation: Reservation) -> bytes:
        settings = self._service.settings
        if len(body) > settings.max_body * MIB:
            raise TooLarge(f"the body is larger than the {settings.max_body} MiB that are taken")
        reservation.grow(COPIES * len(body))
        with self._service.places.taken():
            rows = await asyncio.to_thread(read_table, body, settings.max_rows)
            outcomes = await answer_rows(self._service, rows, reservation)
        return await asyncio.to_thread(b"".join, answer_text(outcomes))


def embed(weights: str | None = None) -> Embedded:
    """Load weights and be ready to answer, set up by the variables MEDSAM2_*.

    Args:
        weights: Name or file; those of the settings if not given.

    Raises:
        InputError: The value of a variable is not usable.
        CheckpointError: The weights are not available.
    """
    # This server listens on no address: the platform decides who may use it.
    given = {"host": _HERE} if weights is None else {"host": _HERE, "weights": weights}
    settings = load_settings(given)
    return Embedded(load_predictor(settings), settings)
