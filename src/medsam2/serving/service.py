"""Everything a server has one of, put together and taken apart."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from medsam2.serving.admission import MemoryBudget, Places
from medsam2.serving.meters import Meters
from medsam2.serving.model import Model
from medsam2.serving.reader import ReaderPool
from medsam2.serving.sessions.store import Sessions
from medsam2.serving.settings import MIB, ServerSettings
from medsam2.serving.threads import Threads

if TYPE_CHECKING:
    from medsam2.inference.predictor import Predictor


class Service:
    """The model, the readers, the sessions, and what bounds their use."""

    def __init__(self, predictor: Predictor, settings: ServerSettings) -> None:
        self.settings = settings
        self.meters = Meters()
        self.places = Places(settings.queue)
        self.budget = MemoryBudget(settings.memory_budget * MIB)
        self.readers = ReaderPool(settings)
        self.model = Model(predictor, settings.weights, self.meters)
        self.sessions = Sessions(settings)
        self.hands = Threads(settings.max_sessions, "medsam2-hand")
        """For what sessions need beside the model: masks put together, measured, written. One for each, so
        that nobody's click waits for another's file."""
        self.folder = Path()
        """Private, for files on their way; names in it are ours."""
        self.is_ready = False
        self.at_end: list[Callable[[], None]] = []
        """Called when the server ends, before anything is taken apart."""
        self._watch()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Start what has to run; at the end, let what is at work finish and leave no file behind."""
        with tempfile.TemporaryDirectory(prefix="medsam2-", ignore_cleanup_errors=True) as folder:
            self.folder = Path(folder)
            sweep = asyncio.create_task(self.sessions.sweep())
            try:
                await self.readers.start()
                self.is_ready = True
                yield
            finally:
                self.is_ready = False
                sweep.cancel()
                for end in self.at_end:
                    await asyncio.to_thread(end)
                await self.sessions.close()
                await asyncio.to_thread(self.model.close)
                await asyncio.to_thread(self.hands.close)
                await self.readers.close()

    def _watch(self) -> None:
        watch = self.meters.watch
        watch("medsam2_requests_in_flight", "At work or waiting.", lambda: self.places.num_taken)
        watch("medsam2_queue_length", "Waiting.", lambda: max(0, self.places.num_taken - 1))
        watch("medsam2_reserved_bytes", "Reserved by requests.", lambda: self.budget.num_reserved)
        watch("medsam2_sessions", "Open sessions.", lambda: len(self.sessions))
        watch("medsam2_reader_starts", "Processes started to read files.", lambda: self.readers.num_starts)
