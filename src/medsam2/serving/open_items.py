"""What users have open on a server: an item serves one request at a time, and ends when it is left alone."""

from __future__ import annotations

import asyncio
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from medsam2.serving.http_errors import NotFound
from medsam2.serving.limits import Reservation

_ID_BYTES = 16
_LONGEST_SWEEP_S = 30.0


@dataclass(kw_only=True, eq=False)
class OpenItem(ABC):
    """One session, or one image of a viewer, and what it takes until it ends."""

    reservation: Reservation
    id: str = field(default_factory=lambda: secrets.token_urlsafe(_ID_BYTES))
    is_open: bool = True
    num_users: int = 0
    """Requests that use it or wait for it."""
    last_used: float = field(default_factory=time.monotonic)
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def idle_s(self) -> float:
        """Seconds since the last request."""
        return 0.0 if self.num_users else time.monotonic() - self.last_used

    def remaining_s(self, idle_limit_s: float) -> float:
        """Seconds until it ends, if nothing happens; 0 or less if it has ended."""
        return idle_limit_s - self.idle_s

    def note_use(self) -> None:
        """Count its idle time from now."""
        self.last_used = time.monotonic()

    @property
    @abstractmethod
    def num_found_bytes(self) -> int:
        """Memory of what was found in the image so far."""

    @abstractmethod
    def ended_error(self) -> NotFound:
        """The error for a request that comes too late."""

    @abstractmethod
    async def release(self) -> None:
        """Release what this kind of item has; it is locked."""

    @asynccontextmanager
    async def used(self) -> AsyncIterator[None]:
        """Lock it; always before the model's thread is used.

        What was found until the end counts in the memory for requests.

        Raises:
            NotFound: It has ended meanwhile.
        """
        self.num_users += 1
        try:
            async with self._lock:
                if not self.is_open:
                    raise self.ended_error()
                try:
                    yield
                finally:
                    self.reservation.set_found(self.num_found_bytes)
        finally:
            self.num_users -= 1
            self.note_use()

    async def end(self) -> None:
        """Release everything, once no request uses it."""
        async with self._lock:
            self.is_open = False
            await self.release()
            self.reservation.close()


_Item = TypeVar("_Item", bound=OpenItem)


class OpenItems(Generic[_Item]):
    """All open items of a kind.

    Args:
        idle_limit_s: An item ends after this time without a request.
    """

    def __init__(self, idle_limit_s: float) -> None:
        self.idle_limit_s = idle_limit_s
        self._open: dict[str, _Item] = {}

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[_Item]:
        return iter(list(self._open.values()))

    def add(self, item: _Item) -> None:
        """Let an item be found."""
        self._open[item.id] = item

    def find(self, item_id: str) -> _Item | None:
        """The item of an id, unless it has ended."""
        item = self._open.get(item_id)
        return None if item is None or self._is_over(item) else item

    async def end(self, item: _Item) -> None:
        """End an item; it is not found from now on."""
        if self._open.pop(item.id, None) is not None:
            await item.end()

    async def end_old(self) -> None:
        """End items that were left alone for too long."""
        for item in self:
            if self._is_over(item):
                await self.end(item)

    async def sweep(self) -> None:
        """End items that were left alone for too long, again and again."""
        while True:
            await asyncio.sleep(min(_LONGEST_SWEEP_S, self.idle_limit_s / 4))
            await self.end_old()

    async def close(self) -> None:
        """End all of them."""
        for item in self:
            await self.end(item)

    def _is_over(self, item: _Item) -> bool:
        return item.remaining_s(self.idle_limit_s) <= 0
