"""Images that a viewer has opened itself and lends to the server for as long as it works on them."""

from __future__ import annotations

import asyncio
import shutil
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medsam2.serving.http_errors import Fault, busy, shown
from medsam2.serving.monailabel.datastore import IMAGES, suffix_of
from medsam2.serving.monailabel.forms import Upload

EXPIRY_S = 3600
"""Since the last use; a caller may ask for less."""
SHORTEST_S = 60
MAX_SESSIONS = 64
MAX_BYTES = 16 << 30
"""Of all their files, which lie on the disk."""
SWEEP_S = 60
_SERIES = "series"


@dataclass(kw_only=True)
class ImageSession:
    """An image that was sent, in a folder of its own."""

    session_id: str
    name: str
    """What the caller calls the file."""
    path: Path
    """The file, or a folder with the files of a series; their names are ours."""
    suffix: str
    created: int
    used: int
    expiry_s: int
    num_bytes: int

    @property
    def info(self) -> dict[str, object]:
        """What callers are told; where it lies on this machine is not of it."""
        return {
            "name": self.name,
            "path": self.session_id,
            "image": self.name,
            "meta": {},
            "create_ts": self.created,
            "last_access_ts": self.used,
            "expiry": self.expiry_s,
        }


class Sessions:
    """All of them, each until it has not been used for its time."""

    def __init__(self, max_sessions: int = MAX_SESSIONS) -> None:
        self._max_sessions = max_sessions
        self._sessions: dict[str, ImageSession] = {}
        self._is_sweeping = False

    async def add(self, uploads: Sequence[Upload], folder: Path, expiry_s: int) -> ImageSession:
        """Keep what was sent.

        Args:
            uploads: An image, or the files of a DICOM series.
            folder: The server's own, which a folder for this session is made in.
            expiry_s: How long it may lie unused; 0 is as long as any.

        Raises:
            Fault: 422, nothing was sent, or no image; 503, there are enough already.
        """
        self.sweep()
        if not uploads:
            raise Fault(422, "no file is there: send an image, or the files of a series, as files")
        num_bytes = sum(len(upload.content) for upload in uploads)
        taken = sum(session.num_bytes for session in self._sessions.values())
        if len(self._sessions) >= self._max_sessions or taken + num_bytes > MAX_BYTES:
            raise busy(
                f"{len(self._sessions)} images are open, and there is room for no more; close one, or wait",
                SWEEP_S,
            )
        suffix = suffix_of(uploads[0].name, IMAGES, "the file") if len(uploads) == 1 else ""
        session_id = str(uuid.uuid4())
        place = folder / session_id
        await asyncio.to_thread(_keep, uploads, place, suffix)
        now = int(time.time())
        session = ImageSession(
            session_id=session_id,
            name=uploads[0].name,
            path=place / (f"image{suffix}" if suffix else _SERIES),
            suffix=suffix,
            created=now,
            used=now,
            expiry_s=min(max(expiry_s, SHORTEST_S), EXPIRY_S) if expiry_s > 0 else EXPIRY_S,
            num_bytes=num_bytes,
        )
        self._sessions[session_id] = session
        self._sweep_later()
        return session

    def find(self, session_id: str, *, is_used: bool = True) -> ImageSession:
        """A session by its id; looking at it is using it, unless it is only asked about.

        Raises:
            Fault: 404, there is none any more.
        """
        self.sweep()
        session = self._sessions.get(session_id)
        if session is None:
            raise Fault(
                404, f"there is no session {shown(session_id)}, or it has expired; open the image again"
            )
        if is_used:
            session.used = int(time.time())
        return session

    def remove(self, session_id: str) -> ImageSession:
        """End a session.

        Raises:
            Fault: 404, there is none.
        """
        session = self.find(session_id)
        self._end(session)
        return session

    def sweep(self) -> None:
        """End those that have not been used for their time."""
        now = time.time()
        for session in list(self._sessions.values()):
            if session.used + session.expiry_s < now:
                self._end(session)

    def _sweep_later(self) -> None:
        """Look again in a while, for as long as there are any: nobody may call any more."""
        if self._is_sweeping or not self._sessions:
            return
        self._is_sweeping = True

        def look() -> None:
            self._is_sweeping = False
            self.sweep()
            self._sweep_later()

        asyncio.get_running_loop().call_later(SWEEP_S, look)

    def _end(self, session: ImageSession) -> None:
        del self._sessions[session.session_id]
        # What is being read just now stays readable without its name.
        shutil.rmtree(session.path.parent, ignore_errors=True)


def _keep(uploads: Sequence[Upload], place: Path, suffix: str) -> None:
    place.mkdir()
    if suffix:
        (place / f"image{suffix}").write_bytes(uploads[0].content)
        return
    series = place / _SERIES
    series.mkdir()
    for number, upload in enumerate(uploads):
        (series / f"{number:05d}.dcm").write_bytes(upload.content)
