"""Batches of images that are segmented in the background, as MONAI Label's clients follow them."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from medsam2.errors import MedSAM2Error
from medsam2.serving.http_errors import AlreadyRunning, NotFound

_NUM_LINES = 20
_NUM_TASKS = 50

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Task:
    """A batch and its progress, in the form that MONAI Label's clients read."""

    request: Mapping[str, object]
    task_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    status: str = "SUBMITTED"
    started: str = field(default_factory=lambda: _now())
    ended: str = ""
    details: deque[str] = field(default_factory=lambda: deque(["submitted"], maxlen=_NUM_LINES))
    result: Mapping[str, object] = field(default_factory=dict)
    is_stopped: bool = False
    """Whether a client has told it to end early."""

    @property
    def answer(self) -> dict[str, object]:
        """The task as JSON."""
        return {
            "id": self.task_id,
            "status": self.status,
            "request": dict(self.request),
            "start_ts": self.started,
            "end_ts": self.ended,
            "details": list(self.details),
            **({"result": dict(self.result)} if self.result else {}),
        }


Work = Callable[[Task], Awaitable[Mapping[str, object]]]


class Batches:
    """The batches of a server: one may run, the latest ones are remembered."""

    def __init__(self) -> None:
        self.tasks: deque[Task] = deque(maxlen=_NUM_TASKS)
        """The earliest first."""
        self._running: asyncio.Task[None] | None = None

    @property
    def is_running(self) -> bool:
        """Whether a batch is at work."""
        return self._running is not None and not self._running.done()

    async def start(self, request: Mapping[str, object], work: Work, *, waits: bool) -> Task:
        """Start a batch.

        Args:
            request: What the client sent; it is part of the task's JSON.
            work: Does the work and returns the result to report.
            waits: Return when the work is done, instead of at once.

        Raises:
            AlreadyRunning: A batch is running.
        """
        if self.is_running:
            raise AlreadyRunning("a batch is running already; wait until it has ended, or stop it")
        task = Task(request=request)
        self.tasks.append(task)
        self._running = asyncio.create_task(_run(task, work))
        if waits:
            await asyncio.shield(self._running)
        return task

    def running(self) -> Task:
        """The batch that runs.

        Raises:
            NotFound: None runs.
        """
        if not self.is_running:
            raise NotFound("No Batch Infer Tasks are currently Running")
        return self.tasks[-1]

    def stop(self) -> Task:
        """Tell the batch that runs to stop.

        Raises:
            NotFound: None runs.
        """
        task = self.running()
        task.is_stopped = True
        task.status = "STOPPED"
        task.details.append("stopped")
        return task

    async def close(self) -> None:
        """Stop the batch that runs and wait until it has ended."""
        if self.is_running and self._running is not None:
            self.stop()
            await self._running


async def _run(task: Task, work: Work) -> None:
    task.status = "RUNNING"
    task.details.append("running")
    try:
        task.result = await work(task)
    except MedSAM2Error as error:
        task.details.append(str(error))
        task.status = "ERROR"
    except Exception as error:
        logger.exception("a batch failed")
        task.details.append(f"failed: {type(error).__name__}; the server's log has the details")
        task.status = "ERROR"
    else:
        task.status = "STOPPED" if task.is_stopped else "DONE"
        task.details.append(task.status.lower())
    finally:
        task.ended = _now()


def _now() -> str:
    return datetime.now().strftime("%Y-%m-%d %H:%M:%S")
