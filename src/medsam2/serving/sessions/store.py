"""The open sessions: each has an id, serves one request at a time, and ends when it is left alone."""

from __future__ import annotations

import asyncio
import secrets
import shutil
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from medsam2.serving.http_errors import Busy, NotFound, shown
from medsam2.serving.limits import Reservation
from medsam2.serving.settings import ServerSettings

if TYPE_CHECKING:
    from medsam2.inference.session import Session

_ID_BYTES = 16
_FULL_RETRY_S = 60
_LONGEST_SWEEP_S = 30.0

Masks = dict[int, dict[int, str]]
"""Slice to object number to run lengths; empty masks are left out."""


@dataclass(kw_only=True, eq=False)
class OpenSession:
    """One session and what it takes until it ends."""

    session: Session
    weights: str
    """Name or file of those that it was opened with."""
    name: str
    """The file's name as its user has it; never a path."""
    folder: Path
    """Private; goes with the session."""
    source: Path | None
    """The scan's file, or a link to it, where masks may have to refer to it."""
    frame: int | None
    """Which volume of the file the session is about, where there are several."""
    reservation: Reservation
    id: str = field(default_factory=lambda: secrets.token_urlsafe(_ID_BYTES))
    is_open: bool = True
    turn: int = 0
    """Grows with each change and each propagation, which ends a propagation under way."""
    masks: Masks | None = None
    """Of all slices, until something changes them."""
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    _num_users: int = 0
    _last_used: float = field(default_factory=time.monotonic)

    @property
    def idle_s(self) -> float:
        """Seconds since the last request."""
        return 0.0 if self._num_users else time.monotonic() - self._last_used

    @property
    def _num_found_bytes(self) -> int:
        """Of what was found in the volume so far."""
        runs = (one for objects in (self.masks or {}).values() for one in objects.values())
        return self.session.status.num_bytes + sum(map(len, runs))

    @asynccontextmanager
    async def locked(self) -> AsyncIterator[Session]:
        """Lock the session; always before the model's thread is used.

        What the session has found afterwards counts in the memory for requests.

        Raises:
            NotFound: It has ended meanwhile.
        """
        self._num_users += 1
        try:
            async with self._lock:
                if not self.is_open:
                    raise _ended(self.id)
                try:
                    yield self.session
                finally:
                    self.reservation.set_found(self._num_found_bytes)
        finally:
            self._num_users -= 1
            self._last_used = time.monotonic()

    def next_turn(self) -> int:
        """Begin a change or a propagation, which ends a propagation under way."""
        self.turn += 1
        return self.turn

    @asynccontextmanager
    async def changing(self) -> AsyncIterator[Session]:
        """Lock the session to change it; a propagation under way ends with the slice at hand.

        Raises:
            NotFound: It has ended meanwhile.
        """
        self.next_turn()
        async with self.locked() as session:
            self.masks = None
            yield session

    async def end(self) -> None:
        """Release everything, once no request uses the session."""
        self.next_turn()
        async with self._lock:
            self.is_open = False
            await asyncio.to_thread(shutil.rmtree, self.folder, ignore_errors=True)
            self.reservation.close()


class Sessions:
    """All sessions of a server."""

    def __init__(self, settings: ServerSettings) -> None:
        self._limit = settings.max_sessions
        self._idle_s = settings.session_idle_s
        self._open: dict[str, OpenSession] = {}
        self._num_opening = 0
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[OpenSession]:
        return iter(list(self._open.values()))

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold a place for a session that is being opened.

        Raises:
            Busy: All are taken.
        """
        if len(self._open) + self._num_opening >= self._limit:
            raise Busy(
                f"the server holds {self._limit} sessions, as many as it takes; end one, or try again",
                retry_after_s=_FULL_RETRY_S,
            )
        self._num_opening += 1
        try:
            yield
        finally:
            self._num_opening -= 1

    def add(self, opened: OpenSession) -> None:
        """Let a session be found."""
        self._open[opened.id] = opened

    def get(self, session_id: str) -> OpenSession:
        """Find a session.

        Raises:
            NotFound: There is none of this id.
        """
        opened = self._open.get(session_id)
        if opened is None or opened.idle_s > self._idle_s:  # even where the sweep has not come by yet
            raise _ended(session_id, self._idle_s)
        return opened

    async def end(self, opened: OpenSession) -> None:
        """End a session; it is not found from now on."""
        if self._open.pop(opened.id, None) is not None:
            await opened.end()

    def follow(self, task: asyncio.Task[None]) -> None:
        """Keep a task that works for a session until it is done."""
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def sweep(self) -> None:
        """End sessions that were left alone for too long, again and again."""
        while True:
            await asyncio.sleep(min(_LONGEST_SWEEP_S, self._idle_s / 4))
            for opened in self:
                if opened.idle_s > self._idle_s:
                    await self.end(opened)

    async def close(self) -> None:
        """End all of them."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for opened in self:
            await self.end(opened)


def _ended(session_id: str, idle_s: float | None = None) -> NotFound:
    after = "" if idle_s is None else f", or was left alone for {idle_s:g} s"
    return NotFound(f"there is no session {shown(session_id)}: it has ended{after}; open another one")
