"""The open sessions of a server, and the tasks that work for them."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from medsam2.serving.http_errors import Busy, NotFound, shown
from medsam2.serving.open_items import OpenItem, OpenItems
from medsam2.serving.settings import ServerSettings

if TYPE_CHECKING:
    from medsam2.inference.session import Session

_FULL_RETRY_S = 60

Masks = dict[int, dict[int, str]]
"""Slice to object number to run lengths; empty masks are left out."""


@dataclass(kw_only=True, eq=False)
class OpenSession(OpenItem):
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
    turn: int = 0
    """Grows with each change and each propagation, which ends a propagation under way."""
    masks: Masks | None = None
    """Of all slices, until something changes them."""

    @property
    def num_found_bytes(self) -> int:
        """Memory of what was found in the volume so far."""
        runs = (one for objects in (self.masks or {}).values() for one in objects.values())
        return self.session.status.num_bytes + sum(map(len, runs))

    def ended_error(self) -> NotFound:
        """The error for a request that comes too late."""
        return _ended(self.id)

    @asynccontextmanager
    async def locked(self) -> AsyncIterator[Session]:
        """Lock the session; see `used`.

        Raises:
            NotFound: It has ended meanwhile.
        """
        async with self.used():
            yield self.session

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

    async def release(self) -> None:
        """Remove its files."""
        await asyncio.to_thread(shutil.rmtree, self.folder, ignore_errors=True)

    async def end(self) -> None:
        """Release everything, once no request uses the session; a propagation ends with the slice at hand."""
        self.next_turn()
        await super().end()


class Sessions(OpenItems[OpenSession]):
    """All sessions of a server."""

    def __init__(self, settings: ServerSettings) -> None:
        super().__init__(settings.session_idle_s)
        self._limit = settings.max_sessions
        self._num_opening = 0
        self._tasks: set[asyncio.Task[None]] = set()

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold a place for a session that is being opened.

        Raises:
            Busy: All are taken.
        """
        if len(self) + self._num_opening >= self._limit:
            raise Busy(
                f"the server holds {self._limit} sessions, as many as it takes; end one, or try again",
                retry_after_s=_FULL_RETRY_S,
            )
        self._num_opening += 1
        try:
            yield
        finally:
            self._num_opening -= 1

    def get(self, session_id: str) -> OpenSession:
        """Find a session.

        Raises:
            NotFound: There is none of this id, or it was left alone for too long.
        """
        opened = self.find(session_id)
        if opened is None:
            raise _ended(session_id, self.idle_limit_s)
        return opened

    def follow(self, task: asyncio.Task[None]) -> None:
        """Keep a task that works for a session until it is done."""
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """End all of them."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await super().close()


def _ended(session_id: str, idle_s: float | None = None) -> NotFound:
    after = "" if idle_s is None else f", or was left alone for {idle_s:g} s"
    return NotFound(f"there is no session {shown(session_id)}: it has ended{after}; open another one")
