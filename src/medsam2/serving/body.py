"""Take in the body of a request: not more than allowed, not slower, and not larger than it says."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path

from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope

from medsam2.serving.admission import Reservation
from medsam2.serving.faults import Fault, no_room
from medsam2.serving.settings import MIB, ServerSettings

COPIES = 3
"""How often a body is held at most: as it came, as the texts of its JSON, as the files these encode."""

_LINGER_S = 2.0
_GZIP = 16 + zlib.MAX_WBITS
_PART_SIZE = 1 << 20


async def read_body(
    scope: Scope,
    receive: Receive,
    settings: ServerSettings,
    reservation: Reservation,
    max_bytes: int | None = None,
) -> bytearray:
    """Return a request's body, unpacked if it is gzip.

    Args:
        scope: Of the request.
        receive: Gives its parts.
        settings: Limits of size and time.
        reservation: Grows with the body, before the body does.
        max_bytes: Another limit than that of the settings, for what is small by nature.

    Raises:
        Fault: 400, packed in an unknown way or not as it says; 408, too slow; 413, too large; 503, no memory.
        ClientDisconnect: The caller is gone.
    """
    body = bytearray()

    async def take() -> None:
        async for part in _parts(scope, receive, max_bytes or settings.max_body * MIB):
            reservation.grow(COPIES * len(part))
            body.extend(part)

    await _in_time(take, scope, receive, settings)
    return body


async def store_body(
    scope: Scope, receive: Receive, settings: ServerSettings, reservation: Reservation, path: Path
) -> None:
    """Write a request's body, unpacked if it is gzip, to a new file as it arrives.

    Raises:
        Fault: As `read_body` does; 503 as well where there is no room for the file.
        ClientDisconnect: The caller is gone.
    """

    async def take() -> None:
        with path.open("xb") as file:
            async for part in _parts(scope, receive, settings.max_body * MIB):
                reservation.grow(len(part))  # the folder for temporary files may be memory
                file.write(part)

    try:
        await _in_time(take, scope, receive, settings)
    except OSError as error:
        await discard_rest(scope, receive)
        raise no_room() from error


async def _in_time(
    take: Callable[[], Awaitable[None]], scope: Scope, receive: Receive, settings: ServerSettings
) -> None:
    try:
        try:
            async with asyncio.timeout(settings.body_timeout_s):
                await take()
        except TimeoutError:
            raise Fault(408, f"the body did not arrive within {settings.body_timeout_s:g} s") from None
    except Fault:
        await discard_rest(scope, receive)
        raise


async def discard_rest(scope: Scope, receive: Receive) -> None:
    """Let a caller finish sending what nobody wants, for a moment: one that is cut off reads no answer."""
    if header(scope, b"expect"):
        return  # it has not begun, and asking for the body would start it
    with suppress(TimeoutError):
        async with asyncio.timeout(_LINGER_S):
            while (message := await receive())["type"] == "http.request" and message.get("more_body"):
                pass


def header(scope: Scope, name: bytes) -> str:
    """A header's value, empty without one; of several the first."""
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), "")


async def _parts(scope: Scope, receive: Receive, max_bytes: int) -> AsyncIterator[bytes]:
    too_large = Fault(413, f"the body is larger than the {max_bytes // MIB} MiB that are taken")
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
        raise Fault(400, "the body ends before its gzip data do")


def _inflater(encoding: str) -> zlib._Decompress | None:
    if encoding.lower() in ("", "identity"):
        return None
    if encoding.lower() in ("gzip", "x-gzip"):
        return zlib.decompressobj(_GZIP)
    raise Fault(400, f"the body is encoded as {encoding[:20]!r}; gzip is taken, or nothing")


def _unpacked(inflate: zlib._Decompress, chunk: bytes) -> Iterator[bytes]:
    """Unpack in parts: a few bytes may stand for a thousand times as many."""
    while not inflate.eof:
        try:
            part = inflate.decompress(chunk, _PART_SIZE)
        except zlib.error as error:
            raise Fault(400, f"the body says it is gzip and is not: {error}") from None
        chunk = inflate.unconsumed_tail
        if not part and not chunk:
            return
        yield part
    if inflate.unused_data or chunk:
        raise Fault(400, "the body goes on after its gzip data")
