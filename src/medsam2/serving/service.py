"""The parts that a server has once: the model with its thread, the readers, the sessions."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from medsam2.imaging.volume import Volume
from medsam2.serving.limits import MemoryBudget, Places
from medsam2.serving.open_items import OpenItems
from medsam2.serving.reader import ReaderPool
from medsam2.serving.sessions.store import Sessions
from medsam2.serving.settings import MIB, ServerSettings

if TYPE_CHECKING:
    from medsam2.inference.job import Job
    from medsam2.inference.predictor import Predictor

_SECONDS = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Meters:
    """The meters of one server in a registry of their own, so that servers in one process stay apart."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.request_seconds = Histogram(
            "medsam2_request_seconds", "From a request's first byte to its answer's last.", ["path"],
            buckets=_SECONDS, registry=self.registry,
        )  # fmt: skip
        self.requests = Counter(
            "medsam2_requests", "Requests that were answered.", ["path", "status"], registry=self.registry
        )
        self.row_errors = Counter(
            "medsam2_row_errors", "Rows that got no mask.", ["status"], registry=self.registry
        )
        self.model_seconds = Histogram(
            "medsam2_model_seconds",
            "Following the objects of one row, with the slices of sessions in between.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.slices = Counter("medsam2_slices", "Slices the model has seen.", registry=self.registry)

    def watch(self, name: str, text: str, value: Callable[[], float]) -> None:
        """Show a figure that another object counts."""
        Gauge(name, text, registry=self.registry).set_function(value)

    def text(self) -> bytes:
        """Everything, as Prometheus reads it."""
        return generate_latest(self.registry)


_Result = TypeVar("_Result")


class Threads:
    """Threads that do their work in the order it is given."""

    def __init__(self, count: int, name: str) -> None:
        self._executor = ThreadPoolExecutor(count, thread_name_prefix=name)

    async def run(self, work: Callable[[], _Result]) -> _Result:
        """Do some work; a caller that is cancelled returns only when the work has stopped.

        So two threads never change the same thing, however requests end.
        """
        job = self._executor.submit(work)
        result = asyncio.wrap_future(job)
        try:
            return await asyncio.shield(result)
        except asyncio.CancelledError:
            if not job.cancel():
                while not result.done():
                    with suppress(asyncio.CancelledError):
                        await asyncio.wait((result,))
                if not result.cancelled():
                    result.exception()  # the caller is gone
            raise

    def close(self) -> None:
        """Wait until the work under way has ended."""
        self._executor.shutdown(wait=True)


class Loaded(NamedTuple):
    """A predictor, and the name or the file of its weights."""

    predictor: Predictor
    weights: str


class Model:
    """A predictor whose work is done slice by slice, in the order it is given.

    A propagation hands in one slice after the other, so that slices of others come in between: a click waits
    for one slice of each of them, not for a volume.
    """

    def __init__(self, predictor: Predictor, weights: str, meters: Meters) -> None:
        self.loaded = Loaded(predictor, weights)
        self._meters = meters
        self._thread = Threads(1, "medsam2-model")
        self._row = asyncio.Lock()

    @property
    def predictor(self) -> Predictor:
        """The predictor for work that begins now."""
        return self.loaded.predictor

    def take(self, predictor: Predictor, weights: str) -> None:
        """Use other weights for work that begins from now on; open sessions keep theirs."""
        self.loaded = Loaded(predictor, weights)

    async def run(self, work: Callable[[], _Result]) -> _Result:
        """Do some work in the model's thread; see `Threads.run`."""
        return await self._thread.run(work)

    async def step(self, steps: Iterator[_Result]) -> _Result | None:
        """Do the next slice of a propagation; None when no slice is left."""
        step = await self.run(partial(next, steps, None))
        if step is not None:
            self._meters.slices.inc()
        return step

    async def follow(self, steps: Iterator[_Result]) -> None:
        """Follow objects through a volume, in turn with other requests for a whole volume."""
        async with self._row:  # so the first is not kept waiting for the last
            with self._meters.model_seconds.time():
                while await self.step(steps) is not None:
                    pass

    async def do(self, job: Job) -> Volume:
        """Do a job and give its labels; if the caller is cancelled, the work ends with the slice at hand.

        Raises:
            InputError: The image or a prompt is not usable.
        """
        from medsam2.inference.job import open_job

        opened = await self.run(partial(open_job, job, self.predictor))
        await self.follow(opened.propagate())
        return await self.run(lambda: opened.outcome().labels)

    def close(self) -> None:
        """Wait until the work under way has ended."""
        self._thread.close()


def load_predictor(settings: ServerSettings, weights: str | None = None) -> Predictor:
    """Load weights as the settings say.

    Args:
        settings: With the device, the precision and the runtime.
        weights: Name or file; those of the settings if not given.

    Raises:
        CheckpointError: The weights are not available.
        InputError: The device, the precision or the runtime cannot be used here.
    """
    from medsam2.inference.predictor import load

    return load(
        weights or settings.weights,
        device=settings.device,
        precision=settings.precision,
        runtime=settings.runtime,
    )


class Service:
    """The model, the readers, the sessions and their limits."""

    def __init__(self, predictor: Predictor, settings: ServerSettings) -> None:
        self.settings = settings
        self.meters = Meters()
        self.places = Places(settings.queue)
        self.budget = MemoryBudget(settings.memory_budget * MIB)
        self.readers = ReaderPool(settings)
        self.model = Model(predictor, settings.weights, self.meters)
        self.sessions = Sessions(settings)
        self.open_items: list[OpenItems[Any]] = [self.sessions]
        """The sessions, and what else users have open, such as viewers' images."""
        self.workers = Threads(settings.max_sessions, "medsam2-worker")
        """For work of sessions beside the model: they join, measure and write masks. There is one thread for
        each session, so that no click waits for another user's file."""
        self.folder = Path()
        """Private, for files in transit; the server gives them their names."""
        self.is_ready = False
        self.at_end: list[Callable[[], None]] = []
        """Called when the server ends, before its parts are closed."""
        self._watch()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Start the readers; at the end, wait for the work under way and leave no file behind."""
        with tempfile.TemporaryDirectory(prefix="medsam2-", ignore_cleanup_errors=True) as folder:
            self.folder = Path(folder)
            sweeps = [asyncio.create_task(items.sweep()) for items in self.open_items]
            try:
                await self.readers.start()
                self.is_ready = True
                yield
            finally:
                self.is_ready = False
                for sweep in sweeps:
                    sweep.cancel()
                for end in self.at_end:
                    await asyncio.to_thread(end)
                for items in self.open_items:
                    await items.close()
                await asyncio.to_thread(self.model.close)
                await asyncio.to_thread(self.workers.close)
                await self.readers.close()

    def _watch(self) -> None:
        watch = self.meters.watch
        watch("medsam2_requests_in_flight", "At work or waiting.", lambda: self.places.num_taken)
        watch("medsam2_queue_length", "Waiting.", lambda: max(0, self.places.num_taken - 1))
        watch("medsam2_reserved_bytes", "Reserved by requests.", lambda: self.budget.num_reserved)
        watch("medsam2_sessions", "Open sessions.", lambda: len(self.sessions))
        watch("medsam2_reader_starts", "Processes started to read files.", lambda: self.readers.num_starts)
