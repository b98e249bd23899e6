"""Limits on requests and memory, and the reading of request bodies within them."""

from __future__ import annotations

import asyncio
import math
import time
import uuid
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive, Scope

from medsam2.serving.http_errors import BadRequest, BodyTooSlow, Busy, HttpError, TooLarge, no_room
from medsam2.serving.settings import MIB, ServerSettings

_KEY = "medsam2.usage"


@dataclass(kw_only=True)
class Usage:
    """What one request takes and does, for the log and the meters."""

    reservation: Reservation
    request_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    num_rows: int = 0
    num_bytes: int = 0
    """Of the body, unpacked."""
    is_abandoned: bool = False
    """Whether the caller left before its answer."""

    def attach_to(self, scope: Scope) -> None:
        """Put it into the scope, where `usage_of` finds it."""
        scope[_KEY] = self


def usage_of(scope: Scope) -> Usage:
    """What the request of a scope takes."""
    usage = scope[_KEY]
    assert isinstance(usage, Usage)
    return usage


_LONGEST_RETRY_S = 120
_FULL_RETRY_S = 60  # sessions give their memory back when they end
_NEWEST_SHARE = 0.2  # of the latest request in the mean duration


class Places:
    """Places for the request at work and for a limited number that wait."""

    def __init__(self, num_waiting: int) -> None:
        self._num_places = 1 + num_waiting
        self._mean_s = 1.0
        self.num_taken = 0

    @property
    def retry_after_s(self) -> int:
        """The expected time until a place is free, from the duration of the latest requests."""
        return min(_LONGEST_RETRY_S, max(1, math.ceil(self._mean_s)))

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Hold a place.

        Raises:
            Busy: All are taken.
        """
        if self.num_taken >= self._num_places:
            raise Busy(
                f"the server is at work on a request and {self._num_places - 1} more wait; try again",
                retry_after_s=self.retry_after_s,
            )
        self.num_taken += 1
        started = time.monotonic()
        try:
            yield
        finally:
            self.num_taken -= 1
            # Divided by those that still wait: a request holds its place while others are at work.
            seconds = (time.monotonic() - started) / (self.num_taken + 1)
            self._mean_s += _NEWEST_SHARE * (seconds - self._mean_s)


class MemoryBudget:
    """Bytes that all requests together may take."""

    def __init__(self, num_bytes: int) -> None:
        self._num_bytes = num_bytes
        self.num_reserved = 0

    def reserve(self, num_bytes: int) -> None:
        """Count bytes as taken before they are allocated.

        Raises:
            TooLarge: The server has not as many for all requests.
            Busy: Other requests have them.
        """
        if num_bytes > self._num_bytes:
            raise TooLarge(
                f"this needs {math.ceil(num_bytes / MIB)} MiB of memory, "
                f"the server has {self._num_bytes // MIB} MiB for all requests",
            )
        if self.num_reserved + num_bytes > self._num_bytes:
            raise Busy("the memory for requests is taken by others; try again", retry_after_s=1)
        self.num_reserved += num_bytes

    def check_room(self) -> None:
        """Refuse work that needs more memory while all of it is taken.

        Raises:
            Busy: There is no room.
        """
        if self.num_reserved > self._num_bytes:
            raise Busy(
                f"all {self._num_bytes // MIB} MiB of memory for requests are taken; masks found so far "
                "stay: end sessions, or try again",
                retry_after_s=_FULL_RETRY_S,
            )

    def release(self, num_bytes: int) -> None:
        """Give bytes back."""
        self.num_reserved -= num_bytes


class Reservation:
    """The memory that one request has reserved; all of it is given back when the answer is sent."""

    def __init__(self, budget: MemoryBudget) -> None:
        self._budget = budget
        self._num_found = 0
        self.num_bytes = 0

    def grow(self, num_bytes: int) -> None:
        """Reserve more.

        Raises:
            TooLarge: The request alone needs more than there is.
            Busy: Others have it.
        """
        self._budget.release(self.num_bytes)
        try:
            self._budget.reserve(self.num_bytes + num_bytes)
        except HttpError:
            self._budget.num_reserved += self.num_bytes
            raise
        self.num_bytes += num_bytes

    def set_found(self, num_bytes: int) -> None:
        """Count the masks found so far, even beyond the budget: they are in memory already."""
        self.shrink(self._num_found - num_bytes)
        self._num_found = num_bytes

    def shrink(self, num_bytes: int) -> None:
        """Give part of it back."""
        self._budget.release(num_bytes)
        self.num_bytes -= num_bytes

    def close(self) -> None:
        """Give all of it back."""
        self.shrink(self.num_bytes)


COPIES = 3
"""Copies of a body in memory at most: the bytes as sent, the texts of its JSON, the files inside them."""

LEAST_RATE = 1 << 16
"""Bytes a second, for images that viewers send: so long a body has, beside `body_timeout_s`."""
_LONGEST_UPLOAD_S = 600.0
_LINGER_S = 2.0
_GZIP = 16 + zlib.MAX_WBITS
_PART_SIZE = 1 << 20


async def read_body(
    request: Request, settings: ServerSettings, max_bytes: int | None = None, *, least_rate: int | None = None
) -> bytearray:
    """Return a request's body, unpacked if it is gzip, and count it in the request's `Usage`.

    Args:
        request: Not read yet. Its reservation grows before the body does.
        settings: Limits of size and time.
        max_bytes: A limit below that of the settings, for bodies that are small.
        least_rate: Bytes a second. Each second's worth that arrives gives the body a second more, up to ten
            minutes. Without it, all of the body has `body_timeout_s`.

    Raises:
        HttpError: It is packed in an unknown way or not as it says, is too slow or too large, or there is no
            memory for it.
        ClientDisconnect: The caller is gone.
    """
    usage = usage_of(request.scope)
    body = bytearray()

    def take(part: bytes) -> None:
        usage.reservation.grow(COPIES * len(part))
        body.extend(part)

    await _take_parts(request, settings, max_bytes, least_rate, take)
    return body


async def store_body(
    request: Request,
    settings: ServerSettings,
    reservation: Reservation,
    path: Path,
    *,
    least_rate: int | None = None,
) -> None:
    """Write a request's body, unpacked if it is gzip, to a new file as it arrives; see `read_body`.

    Raises:
        HttpError: As in `read_body`, or there is no room for the file.
        ClientDisconnect: The caller is gone.
    """
    try:
        with path.open("xb") as file:

            def take(part: bytes) -> None:
                reservation.grow(len(part))  # the folder for temporary files may be memory
                file.write(part)

            await _take_parts(request, settings, None, least_rate, take)
    except OSError as error:
        await discard_rest(request.scope, request.receive)
        raise no_room() from error


async def _take_parts(
    request: Request,
    settings: ServerSettings,
    max_bytes: int | None,
    least_rate: int | None,
    take: Callable[[bytes], None],
) -> None:
    usage = usage_of(request.scope)
    patience_s = settings.body_timeout_s
    longest_s = max(patience_s, _LONGEST_UPLOAD_S)
    started = asyncio.get_running_loop().time()
    largest = min(max_bytes or settings.max_body * MIB, settings.max_body * MIB)
    try:
        try:
            async with asyncio.timeout(patience_s) as deadline:
                async for part in _parts(request.scope, request.receive, largest):
                    take(part)
                    usage.num_bytes += len(part)
                    if least_rate:
                        allowed_s = min(patience_s + usage.num_bytes / least_rate, longest_s)
                        deadline.reschedule(started + allowed_s)
        except TimeoutError:
            raise BodyTooSlow(_too_slow(patience_s, least_rate)) from None
    except HttpError:
        await discard_rest(request.scope, request.receive)
        raise


def _too_slow(patience_s: float, least_rate: int | None) -> str:
    if least_rate is None:
        return f"the body did not arrive within {patience_s:g} s"
    return (
        f"the body arrives too slowly: it has {patience_s:g} s, and one more for each {least_rate >> 10} KiB "
        f"of it, but no more than {max(patience_s, _LONGEST_UPLOAD_S):g} s"
    )


async def discard_rest(scope: Scope, receive: Receive) -> None:
    """Read the rest of a refused body for a moment: a caller that is cut off does not read the answer."""
    if header(scope, b"expect"):
        return  # the caller waits for 100 Continue before it sends; to read would send that
    with suppress(TimeoutError):
        async with asyncio.timeout(_LINGER_S):
            while (message := await receive())["type"] == "http.request" and message.get("more_body"):
                pass


def header(scope: Scope, name: bytes) -> str:
    """A header's value, empty without one; of several the first."""
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), "")


async def _parts(scope: Scope, receive: Receive, max_bytes: int) -> AsyncIterator[bytes]:
    too_large = TooLarge(f"the body is larger than the {max_bytes // MIB} MiB that are taken")
    announced = header(scope, b"content-length")
    if announced.isdecimal() and int(announced) > max_bytes:
        raise too_large
    inflate = _inflater(header(scope, b"content-encoding"))
    num_received = num_unpacked = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunk = message.get("body", b"")
        num_received += len(chunk)
        for part in (chunk,) if inflate is None else _unpacked(inflate, chunk):
            num_unpacked += len(part)
            if max(num_received, num_unpacked) > max_bytes:
                raise too_large
            yield part
        if not message.get("more_body"):
            break
    if inflate is not None and not inflate.eof:
        raise BadRequest("the body ends before its gzip data do")


def _inflater(encoding: str) -> zlib._Decompress | None:
    if encoding.lower() in ("", "identity"):
        return None
    if encoding.lower() in ("gzip", "x-gzip"):
        return zlib.decompressobj(_GZIP)
    raise BadRequest(f"the body is encoded as {encoding[:20]!r}; use gzip, or no encoding")


def _unpacked(inflate: zlib._Decompress, chunk: bytes) -> Iterator[bytes]:
    """Unpack in parts: a few bytes may become a thousand times as many."""
    while not inflate.eof:
        try:
            part = inflate.decompress(chunk, _PART_SIZE)
        except zlib.error as error:
            raise BadRequest(f"the body says it is gzip and is not: {error}") from None
        chunk = inflate.unconsumed_tail
        if not part and not chunk:
            return
        yield part
    if inflate.unused_data or chunk:
        raise BadRequest("the body goes on after its gzip data")
