"""How much the server takes on at once: places for requests, bytes for what they bring."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

from medsam2.serving.faults import Fault, busy
from medsam2.serving.settings import MIB

_LONGEST_RETRY_S = 120
_FULL_RETRY_S = 60  # what sessions hold is given back when they end
_NEWEST_SHARE = 0.2  # of the latest request in the mean duration


class Places:
    """One request at work and a bounded number behind it."""

    def __init__(self, num_waiting: int) -> None:
        self._num_places = 1 + num_waiting
        self._mean_s = 1.0
        self.num_taken = 0

    @property
    def retry_after_s(self) -> int:
        """When a place should be free, going by how long the latest requests took."""
        return min(_LONGEST_RETRY_S, max(1, math.ceil(self._mean_s)))

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Hold a place.

        Raises:
            Fault: 503, all are taken.
        """
        if self.num_taken >= self._num_places:
            raise busy(
                f"the server is at work on a request and {self._num_places - 1} more wait; try again",
                self.retry_after_s,
            )
        self.num_taken += 1
        started = time.monotonic()
        try:
            yield
        finally:
            self.num_taken -= 1
            # In turn: each request holds its place while those before it are at work.
            seconds = (time.monotonic() - started) / (self.num_taken + 1)
            self._mean_s += _NEWEST_SHARE * (seconds - self._mean_s)


class MemoryBudget:
    """Bytes that all requests together may take."""

    def __init__(self, num_bytes: int) -> None:
        self._num_bytes = num_bytes
        self.num_reserved = 0

    def reserve(self, num_bytes: int) -> None:
        """Count bytes as taken, before they are.

        Raises:
            Fault: 413, there will never be as many; 503, there are not now.
        """
        if num_bytes > self._num_bytes:
            raise Fault(
                413,
                f"this needs {math.ceil(num_bytes / MIB)} MiB of memory, "
                f"the server has {self._num_bytes // MIB} MiB for all requests",
            )
        if self.num_reserved + num_bytes > self._num_bytes:
            raise busy("the memory for requests is taken by others; try again", 1)
        self.num_reserved += num_bytes

    def check_room(self) -> None:
        """Refuse what will take more, as long as everything is taken.

        Raises:
            Fault: 503, there is no room.
        """
        if self.num_reserved > self._num_bytes:
            raise busy(
                f"all {self._num_bytes // MIB} MiB of memory for requests are taken; what was found so far "
                "stays: end sessions, or try again",
                _FULL_RETRY_S,
            )

    def release(self, num_bytes: int) -> None:
        """Give bytes back."""
        self.num_reserved -= num_bytes


class Reservation:
    """What one request has reserved; given back as a whole when its answer has gone out."""

    def __init__(self, budget: MemoryBudget) -> None:
        self._budget = budget
        self._num_held = 0
        self.num_bytes = 0

    def grow(self, num_bytes: int) -> None:
        """Reserve more.

        Raises:
            Fault: 413, the request alone asks for more than there is; 503, others have it.
        """
        self._budget.release(self.num_bytes)
        try:
            self._budget.reserve(self.num_bytes + num_bytes)
        except Fault:
            self._budget.num_reserved += self.num_bytes
            raise
        self.num_bytes += num_bytes

    def hold(self, num_bytes: int) -> None:
        """Count what grows and shrinks by itself as it is now, be there room or not: it is there already."""
        self.shrink(self._num_held - num_bytes)
        self._num_held = num_bytes

    def shrink(self, num_bytes: int) -> None:
        """Give part of it back."""
        self._budget.release(num_bytes)
        self.num_bytes -= num_bytes

    def close(self) -> None:
        """Give all of it back."""
        self.shrink(self.num_bytes)
