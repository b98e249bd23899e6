"""The images that viewers have open: each belongs to one viewer and answers one request at a time."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Generator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from medsam2.errors import InputError, SessionError
from medsam2.imaging.intensity import check_intensities, resolve_window
from medsam2.imaging.volume import Volume
from medsam2.serving.http_errors import Busy, NotFound
from medsam2.serving.limits import Reservation
from medsam2.serving.service import Service
from medsam2.serving.viewers.error_answers import WindowChoice
from medsam2.serving.viewers.viewed_object import ViewedObject

if TYPE_CHECKING:
    from medsam2.inference.session import Session

LIVENESS_S = 120.0
"""A client that beats ends this long after its last sign of life."""
_ID_BYTES = 24
_SWEEP_S = 15.0
_FULL_RETRY_S = 10
_LEAVES_ROOM_S = 60.0
"""An image left alone for this long gives its place to another, where clients do not say goodbye."""
_LABEL_COPIES = 2  # bytes per voxel while masks are made


@dataclass(kw_only=True, eq=False)
class Lease:
    """One viewer's image, and what it takes until it ends."""

    dialect: str
    reservation: Reservation
    owner: str = ""
    """Who it belongs to, where a protocol has no ids."""
    beats: bool = False
    """Whether the client says regularly that it is there."""
    window: WindowChoice = None
    id: str = field(default_factory=lambda: secrets.token_urlsafe(_ID_BYTES))
    has_buffer: bool = False
    is_open: bool = True
    viewed: ViewedObject | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    _num_users: int = 0
    _last_seen: float = field(default_factory=time.monotonic)
    _last_active: float = field(default_factory=time.monotonic)

    def see(self, *, is_active: bool = True) -> None:
        """Note a request; signs of life alone do not keep an image open for ever."""
        self._last_seen = time.monotonic()
        if is_active:
            self._last_active = self._last_seen

    def remaining_s(self, idle_limit_s: float) -> float:
        """Seconds until it ends, if nothing happens; 0 or less if it has ended."""
        if self._num_users:
            return idle_limit_s
        now = time.monotonic()
        left = idle_limit_s - (now - self._last_active)
        return min(left, LIVENESS_S - (now - self._last_seen)) if self.beats else left

    @property
    def idle_s(self) -> float:
        """Seconds since it was last worked with."""
        return 0.0 if self._num_users else time.monotonic() - self._last_active

    @asynccontextmanager
    async def used(self) -> AsyncIterator[None]:
        """Keep other requests of the viewer waiting, and count what the object takes afterwards.

        Raises:
            NotFound: It has ended meanwhile.
        """
        self._num_users += 1
        try:
            async with self.lock:
                if not self.is_open:
                    raise _ended()
                try:
                    yield
                finally:
                    self.reservation.set_found(0 if self.viewed is None else self.viewed.num_bytes)
        finally:
            self._num_users -= 1
            self.see()

    def image(self) -> ViewedObject:
        """The image.

        Raises:
            SessionError: None was sent.
        """
        if self.viewed is None:
            raise SessionError("No image uploaded: send the image first")
        return self.viewed

    async def end(self) -> None:
        """Release everything, once no request works with it."""
        async with self.lock:
            self.is_open = False
            self.viewed = None
            self.reservation.close()


class Leases:
    """All images that viewers have open."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self._idle_s = service.settings.session_idle_s
        self._open: dict[str, Lease] = {}
        self._sweep: asyncio.Task[None] | None = None
        service.meters.watch(
            "medsam2_viewer_images", "Images that viewers have open.", lambda: len(self._open)
        )

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[Lease]:
        return iter(list(self._open.values()))

    async def claim(
        self, dialect: str, *, owner: str = "", beats: bool = False, window: WindowChoice = None
    ) -> Lease:
        """Give a viewer a place.

        Raises:
            Busy: All are taken.
        """
        await self.end_old()
        limit = self.service.settings.max_sessions
        if len(self) + len(self.service.sessions) >= limit and not await self._make_room():
            raise Busy(
                f"the server holds {limit} images, as many as it takes; close one, or try again",
                retry_after_s=_FULL_RETRY_S,
            )
        lease = Lease(
            dialect=dialect, owner=owner, beats=beats, window=window,
            reservation=Reservation(self.service.budget),
        )  # fmt: skip
        self._open[lease.id] = lease
        if self._sweep is None or self._sweep.done():
            self._sweep = asyncio.create_task(self._end_old_ones())
            self.service.sessions.follow(self._sweep)  # which ends it with the server
        return lease

    def get(self, dialect: str, lease_id: str) -> Lease:
        """Find the image of an id.

        Raises:
            NotFound: There is none, or it was left alone for too long.
        """
        lease = self._open.get(lease_id)
        if lease is None or lease.dialect != dialect or lease.remaining_s(self._idle_s) <= 0:
            raise _ended()
        return lease

    def owned_by(self, dialect: str, owner: str) -> Lease | None:
        """The image that somebody opened last."""
        found = [one for one in self if (one.dialect, one.owner) == (dialect, owner)]
        return found[-1] if found and found[-1].remaining_s(self._idle_s) > 0 else None

    async def end(self, lease: Lease) -> None:
        """End one; it is not found from now on."""
        if self._open.pop(lease.id, None) is not None:
            await lease.end()

    async def end_old(self) -> None:
        """End those that were left alone for too long."""
        for lease in self:
            if lease.remaining_s(self._idle_s) <= 0:
                await self.end(lease)

    async def _make_room(self) -> bool:
        """End the image that was left alone longest, of those whose clients never say goodbye."""
        silent = [one for one in self if not one.beats and one.idle_s > _LEAVES_ROOM_S]
        if not silent:
            return False
        await self.end(max(silent, key=lambda one: one.idle_s))
        return True

    async def _end_old_ones(self) -> None:
        try:
            while self._open:
                await asyncio.sleep(min(_SWEEP_S, self._idle_s / 4))
                await self.end_old()
        except asyncio.CancelledError:  # the server ends
            for lease in self:
                await self.end(lease)
            raise

    async def open_image(self, lease: Lease, volume: Volume, spacing: tuple[float, float, float]) -> None:
        """Let a lease have another image; what was said about the one before is forgotten.

        Args:
            lease: Locked.
            volume: The image, in the viewer's axis order.
            spacing: Along each axis of the array.

        Raises:
            InputError: There is nothing to see in the image.
            HttpError: There is no memory for it.
        """
        lease.viewed, lease.has_buffer = None, False
        lease.reservation.set_found(0)
        lease.reservation.close()
        lease.reservation.grow(volume.array.nbytes + _LABEL_COPIES * volume.array.size)
        try:
            lease.viewed = await self.service.workers.run(partial(self._view, lease, volume, spacing))
        except InputError:
            lease.reservation.close()
            raise

    def _view(self, lease: Lease, volume: Volume, spacing: tuple[float, float, float]) -> ViewedObject:
        predictor = self.service.model.predictor
        check_intensities(volume.array)
        window = resolve_window(volume, lease.window)

        def open_session(part: Volume, axis: int) -> Session:
            return predictor.session(part, window=(window.lower, window.upper), axis=axis)

        return ViewedObject(volume, open_session, spacing=spacing)

    async def follow(self, steps: Generator[int]) -> None:
        """Do the work of an interaction slice by slice, so that other requests come in between.

        If the caller leaves, the work ends with the slice at hand, and the interaction leaves no trace.

        Raises:
            Busy: The memory for requests is taken.
        """
        self.service.budget.check_room()
        try:
            while await self.service.model.step(steps) is not None:
                pass
        finally:
            await self.service.model.run(steps.close)


def grid_volume(array: np.ndarray, spacing: tuple[float, float, float]) -> Volume:
    """An image of which only the spacing is known.

    Args:
        array: Three dimensions.
        spacing: Along each axis of the array, in mm.

    Raises:
        InputError: The array or the spacing is not usable.
    """
    grey = array.astype(np.uint8) if array.dtype == np.bool_ else array
    return Volume(grey, np.diag([*spacing[::-1], 1.0]))


def _ended() -> NotFound:
    return NotFound(
        "this image is not open any more: it was left alone for too long; connect and send it again"
    )
