"""Work in the background, one piece of a kind at a time, as MONAI Label's clients ask after it."""

from __future__ import annotations

import asyncio
import logging
import threading
import uuid
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from medsam2.errors import MedSAM2Error
from medsam2.serving.http_errors import Fault
from medsam2.serving.monailabel.datastore import FINAL, Studies

_NUM_LINES = 20
_KEPT = 50

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Task:
    """One piece of work and how it stands."""

    request: Mapping[str, object]
    task_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    status: str = "SUBMITTED"
    started: str = field(default_factory=lambda: _now())
    ended: str = ""
    details: deque[str] = field(default_factory=lambda: deque(["submitted"], maxlen=_NUM_LINES))
    result: Mapping[str, object] = field(default_factory=dict)
    stop: threading.Event = field(default_factory=threading.Event)
    """Set when it is to end early."""

    def say(self, text: str) -> None:
        """Write a line that clients see, from whatever thread."""
        self.details.append(text)

    @property
    def answer(self) -> dict[str, object]:
        """The task as clients know one."""
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


class Tasks:
    """The work of one kind."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._all: deque[Task] = deque(maxlen=_KEPT)
        self._running: asyncio.Task[None] | None = None

    @property
    def is_running(self) -> bool:
        """Whether one is under way."""
        return self._running is not None and not self._running.done()

    @property
    def latest_result(self) -> Mapping[str, object]:
        """What the one that began last came to; empty before."""
        return self._all[-1].result if self._all else {}

    async def start(self, request: Mapping[str, object], work: Work, *, waits: bool) -> Task:
        """Begin some work.

        Args:
            request: What was asked for, to be told to whoever asks.
            work: Does it, and gives what is to be said of it in the end.
            waits: Come back when it is done, instead of at once.

        Raises:
            Fault: 429, one is running.
        """
        if self.is_running:
            raise Fault(429, f"{self._kind} is running already; wait for it, or stop it")
        task = Task(request=request)
        self._all.append(task)
        self._running = asyncio.create_task(self._run(task, work))
        if waits:
            await asyncio.shield(self._running)
        return task

    def latest(self) -> Task:
        """The one that began last.

        Raises:
            Fault: 404, there was none.
        """
        if not self._all:
            raise Fault(404, f"No {self._kind.title()} Tasks Found")
        return self._all[-1]

    def all(self) -> list[Task]:
        """All that are remembered, the earliest first.

        Raises:
            Fault: 404, there was none.
        """
        self.latest()
        return list(self._all)

    def running(self) -> Task:
        """The one that runs.

        Raises:
            Fault: 404, none does.
        """
        if not self.is_running:
            raise Fault(404, f"No {self._kind.title()} Tasks are currently Running")
        return self._all[-1]

    def end(self) -> Task:
        """Tell the one that runs to stop.

        Raises:
            Fault: 404, none does.
        """
        task = self.running()
        task.stop.set()
        task.status = "STOPPED"
        task.say("stopped")
        return task

    async def close(self) -> None:
        """Stop what runs and wait until it has."""
        if self.is_running and self._running is not None:
            self.end()
            await self._running

    async def _run(self, task: Task, work: Work) -> None:
        task.status = "RUNNING"
        task.say("running")
        try:
            task.result = await work(task)
        except MedSAM2Error as error:
            task.say(str(error))
            task.status = "ERROR"
        except Exception as error:
            logger.exception("%s failed", self._kind)
            task.say(f"failed: {type(error).__name__}; the server's log says where")
            task.status = "ERROR"
        else:
            task.status = "STOPPED" if task.stop.is_set() else "DONE"
            task.say(task.status.lower())
        finally:
            task.ended = _now()


def _now() -> str:
    return datetime.now().strftime("%Y-%m-%d %H:%M:%S")


TRAINER = "medsam2"
"""What clients know the trainer by."""


@dataclass(frozen=True, kw_only=True)
class TrainingOrder:
    """What a trainer is told."""

    pairs: tuple[tuple[Path, Path], ...]
    """Images, and the labels that a person has approved."""
    params: Mapping[str, object]
    """As the client sent them; to be checked by the trainer."""
    say: Callable[[str], None]
    """Tells clients how it stands."""
    is_stopped: Callable[[], bool]
    """Whether to end early; to be asked now and then."""


@dataclass(frozen=True, kw_only=True)
class Trainer:
    """A fine-tuning that clients may start."""

    run: Callable[[TrainingOrder], Mapping[str, object]]
    """Does it, in a thread of its own, and returns what is to be said in the end: `best_metric`, `epoch`,
    `total_epochs` and `total_time` are shown by viewers. An error of ours is told in its own words."""
    description: str = "Fine-tuning on the labels that were approved"
    config: Mapping[str, object] = field(default_factory=dict)
    """Options and their defaults, for viewers to show."""


def work_of(trainer: Trainer, pairs: tuple[tuple[Path, Path], ...], params: Mapping[str, object]) -> Work:
    """A training as work in the background."""

    async def work(task: Task) -> Mapping[str, object]:
        order = TrainingOrder(pairs=pairs, params=params, say=task.say, is_stopped=task.stop.is_set)
        return await asyncio.to_thread(trainer.run, order)

    return work


def configured(trainer: Trainer | None) -> Trainer:
    """The trainer, if there is one.

    Raises:
        Fault: 501, there is none.
    """
    if trainer is None:
        raise Fault(
            501, "this server does not train; what it has saved can be trained on with medsam2 data and train"
        )
    return trainer


def pairs_of(studies: Studies) -> tuple[tuple[Path, Path], ...]:
    """Images with an approved label, and that label."""
    return tuple(
        (studies.image_path(entry), studies.label_path(entry, FINAL))
        for entry in studies.entries().values()
        if FINAL in entry.labels
    )
