"""The images that viewers have open. nnInteractive calls the place of a viewer on a server its lease."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from starlette.requests import Request
from starlette.responses import Response

from medsam2.errors import InputError, SessionError
from medsam2.imaging.intensity import check_intensities, resolve_window
from medsam2.imaging.volume import Volume
from medsam2.serving.http_errors import Busy, NotFound
from medsam2.serving.limits import Reservation
from medsam2.serving.open_items import OpenItem, OpenItems
from medsam2.serving.score import while_wanted
from medsam2.serving.service import Service
from medsam2.serving.viewers.interactions import Interaction, Voxel
from medsam2.serving.viewers.viewed_object import ViewedObject
from medsam2.serving.viewers.windows import WindowChoice
from medsam2.serving.volumes import num_bytes_with_labels

if TYPE_CHECKING:
    from medsam2.inference.session import Session

LIVENESS_S = 120.0
"""A client that beats ends this long after its last sign of life."""
_FULL_RETRY_S = 10
_LEAVES_ROOM_S = 60.0
"""An image left alone for this long gives its place to another, where clients do not say goodbye."""


@dataclass(kw_only=True, eq=False)
class Lease(OpenItem):
    """One viewer's image, and what it takes until it ends."""

    dialect: str
    owner: str = ""
    """Who it belongs to, where a protocol has no ids."""
    beats: bool = False
    """Whether the client says regularly that it is there."""
    window: WindowChoice = None
    has_buffer: bool = False
    """Whether the viewer has an array for the mask, as nnInteractive's clients do."""
    viewed: ViewedObject | None = None
    _last_seen: float = field(default_factory=time.monotonic)

    def note_beat(self) -> None:
        """Note a sign of life; without other requests the image does not stay open for ever."""
        self._last_seen = time.monotonic()

    def note_use(self) -> None:
        """Count its idle time from now."""
        super().note_use()
        self.note_beat()

    def remaining_s(self, idle_limit_s: float) -> float:
        """Seconds until it ends, if nothing happens; 0 or less if it has ended."""
        left = super().remaining_s(idle_limit_s)
        if not self.beats or self.num_users:
            return left
        return min(left, LIVENESS_S - (time.monotonic() - self._last_seen))

    @property
    def num_found_bytes(self) -> int:
        """Memory of the object."""
        return 0 if self.viewed is None else self.viewed.num_bytes

    def ended_error(self) -> NotFound:
        """The error for a request that comes too late."""
        return _ended()

    def image(self) -> ViewedObject:
        """The image.

        Raises:
            SessionError: None was sent.
        """
        if self.viewed is None:
            raise no_image()
        return self.viewed

    async def release(self) -> None:
        """Release the image."""
        self.viewed = None


class Leases(OpenItems[Lease]):
    """All images that viewers have open."""

    def __init__(self, service: Service) -> None:
        super().__init__(service.settings.session_idle_s)
        self.service = service
        service.open_items.append(self)
        service.meters.watch("medsam2_viewer_images", "Images that viewers have open.", lambda: len(self))

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
        reservation = Reservation(self.service.budget)
        lease = Lease(dialect=dialect, owner=owner, beats=beats, window=window, reservation=reservation)
        self.add(lease)
        return lease

    def get(self, dialect: str, lease_id: str) -> Lease:
        """Find the image of an id.

        Raises:
            NotFound: There is none, or it was left alone for too long.
        """
        lease = self.find(lease_id)
        if lease is None or lease.dialect != dialect:
            raise _ended()
        return lease

    def owned_by(self, dialect: str, owner: str) -> Lease | None:
        """The image that somebody opened last, unless it has ended."""
        found = [one for one in self if (one.dialect, one.owner) == (dialect, owner)]
        return self.find(found[-1].id) if found else None

    async def _make_room(self) -> bool:
        """End the image that was left alone longest, of those whose clients never say goodbye."""
        silent = [one for one in self if not one.beats and one.idle_s > _LEAVES_ROOM_S]
        if not silent:
            return False
        await self.end(max(silent, key=lambda one: one.idle_s))
        return True

    async def open_image(self, lease: Lease, volume: Volume) -> None:
        """Let a lease have another image; what was said about the one before is forgotten.

        Args:
            lease: Locked.
            volume: The image, in the viewer's axis order.

        Raises:
            InputError: There is nothing to see in the image.
            HttpError: There is no memory for it.
        """
        lease.viewed, lease.has_buffer = None, False
        lease.reservation.set_found(0)
        lease.reservation.close()
        lease.reservation.grow(num_bytes_with_labels(volume.array))
        try:
            lease.viewed = await self.service.workers.run(partial(self._view, lease, volume))
        except InputError:
            lease.reservation.close()
            raise

    def _view(self, lease: Lease, volume: Volume) -> ViewedObject:
        predictor = self.service.model.predictor
        check_intensities(volume.array)
        window = resolve_window(volume, lease.window)

        def open_session(part: Volume, axis: int) -> Session:
            return predictor.session(part, window=(window.lower, window.upper), axis=axis)

        return ViewedObject(volume, open_session)

    async def answer(
        self,
        lease: Lease,
        request: Request,
        interaction: Callable[[Voxel], Interaction | None],
        written: Callable[[Lease], Response],
        *,
        predicts: bool = True,
    ) -> Response:
        """Add an interaction to the object in an image, follow the object, and answer.

        Args:
            lease: Whose image.
            request: Its body has been read.
            interaction: Makes the interaction from the image's shape.
            written: Writes the answer.
            predicts: Whether to follow the object now.

        Raises:
            InputError: The interaction is not usable.
            SessionError: There is no image.
            HttpError: The image has ended, or there is no memory.
            ClientDisconnect: The caller left.
        """
        async with lease.used():
            viewed, run = lease.image(), self.service.workers.run
            steps = viewed.add(await run(partial(interaction, viewed.shape)), predicts=predicts)
            await self.follow(request, steps)
            return await run(partial(written, lease))

    async def follow(self, request: Request, steps: Generator[int]) -> None:
        """Do the work of an interaction slice by slice, so that other requests come in between.

        If the caller leaves, the work ends with the slice at hand, and the interaction leaves no trace.

        Raises:
            Busy: The memory for requests is taken.
            ClientDisconnect: The caller left.
        """
        await while_wanted(request.receive, self._follow(steps))

    async def _follow(self, steps: Generator[int]) -> None:
        self.service.budget.check_room()
        try:
            while await self.service.model.step(steps) is not None:
                pass
        finally:
            await self.service.model.run(steps.close)


def grid_volume(array: np.ndarray, spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> Volume:
    """An image of which only the spacing is known.

    Args:
        array: Three dimensions.
        spacing: Along each axis of the array, in mm.

    Raises:
        InputError: The array or the spacing is not usable.
    """
    grey = array.astype(np.uint8) if array.dtype == np.bool_ else array
    return Volume(grey, np.diag([*spacing[::-1], 1.0]))


def no_image() -> SessionError:
    """The error of an image that was not sent; SlicerNNInteractive 0.x knows these words and sends it."""
    return SessionError("No image uploaded: send the image first")


def _ended() -> NotFound:
    return NotFound(
        "this image is not open any more: it was left alone for too long; connect and send it again"
    )
