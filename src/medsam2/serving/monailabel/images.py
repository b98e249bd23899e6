"""Images that viewers send for a session, and where the image of a request lies."""

from __future__ import annotations

import asyncio
import shutil
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medsam2.errors import InputError
from medsam2.serving.http_errors import Busy, NotFound, shown
from medsam2.serving.monailabel.datastore import IMAGES, ImageEntry, suffix_of
from medsam2.serving.monailabel.forms import Upload

EXPIRY_S = 3600
"""Time after the last use until a session ends; a caller may ask for less."""
SHORTEST_S = 60
MAX_SESSIONS = 64
MAX_BYTES = 16 << 30
"""Size of the files of all sessions on the disk."""
SWEEP_S = 60
_SERIES = "series"


@dataclass(kw_only=True)
class ImageSession:
    """An image that a viewer has sent, in a folder of its own."""

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
        """The session as JSON, without a path of this machine."""
        return {
            "name": self.name,
            "path": self.session_id,
            "image": self.name,
            "meta": {},
            "create_ts": self.created,
            "last_access_ts": self.used,
            "expiry": self.expiry_s,
        }


class ImageSessions:
    """The sessions of a server; each ends when it has not been used for its time."""

    def __init__(self) -> None:
        self._sessions: dict[str, ImageSession] = {}
        self._is_sweeping = False

    async def add(self, uploads: Sequence[Upload], folder: Path, expiry_s: int) -> ImageSession:
        """Keep an image that was sent.

        Args:
            uploads: An image, or the files of a DICOM series.
            folder: The server's own; the session gets a folder in it.
            expiry_s: How long it may be unused; 0 means the longest time.

        Raises:
            InputError: There is no file, or it is not an image.
            Busy: There are enough sessions already.
        """
        self.sweep()
        if not uploads:
            raise InputError("there is no file: send an image, or the files of a series, as files")
        num_bytes = sum(len(upload.content) for upload in uploads)
        taken = sum(session.num_bytes for session in self._sessions.values())
        if len(self._sessions) >= MAX_SESSIONS or taken + num_bytes > MAX_BYTES:
            raise Busy(
                f"{len(self._sessions)} images are open, and there is room for no more; close one, or wait",
                retry_after_s=SWEEP_S,
            )
        suffix = suffix_of(uploads[0].name, IMAGES, "the file") if len(uploads) == 1 else ""
        session_id = str(uuid.uuid4())
        path = folder / session_id / (f"image{suffix}" if suffix else _SERIES)
        await asyncio.to_thread(_keep, uploads, path, suffix)
        now = int(time.time())
        session = ImageSession(
            session_id=session_id,
            name=uploads[0].name,
            path=path,
            suffix=suffix,
            created=now,
            used=now,
            expiry_s=min(max(expiry_s, SHORTEST_S), EXPIRY_S) if expiry_s > 0 else EXPIRY_S,
            num_bytes=num_bytes,
        )
        self._sessions[session_id] = session
        self._sweep_later()
        return session

    def find(self, session_id: str) -> ImageSession:
        """A session by its id; this counts as a use.

        Raises:
            NotFound: There is none, or it has ended.
        """
        self.sweep()
        session = self._sessions.get(session_id)
        if session is None:
            raise NotFound(
                f"there is no session {shown(session_id)}, or it has expired; open the image again"
            )
        session.used = int(time.time())
        return session

    def remove(self, session_id: str) -> ImageSession:
        """End a session.

        Raises:
            NotFound: There is none.
        """
        session = self.find(session_id)
        self._end(session)
        return session

    def sweep(self) -> None:
        """End the sessions that have not been used for their time."""
        now = time.time()
        for session in list(self._sessions.values()):
            if session.used + session.expiry_s < now:
                self._end(session)

    def _sweep_later(self) -> None:
        """Sweep again later while there are sessions, since there may be no further request."""
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


def _keep(uploads: Sequence[Upload], path: Path, suffix: str) -> None:
    if suffix:
        path.parent.mkdir()
        path.write_bytes(uploads[0].content)
        return
    path.mkdir(parents=True)
    for number, upload in enumerate(uploads):
        (path / f"{number:05d}.dcm").write_bytes(upload.content)


@dataclass(frozen=True, kw_only=True, eq=False)
class Source:
    """Where an image lies."""

    path: Path
    """A file, or a folder with a series."""
    suffix: str
    """Empty for a series."""
    entry: ImageEntry | None = None
    """The image's entry, if it is one of the datastore."""


async def link_source(source: Source, folder: Path) -> Path:
    """Give an image a second name in a folder for one request, and return it."""
    path, link = source.path.resolve(), folder / f"image{source.suffix}"

    def give_names() -> None:
        if not path.is_dir():
            _link_file(path, link)
            return
        link.mkdir()
        for file in path.iterdir():
            _link_file(file, link / file.name)

    await asyncio.to_thread(give_names)
    return link


def _link_file(path: Path, link: Path) -> None:
    """Use a hard link where the system can: it stays valid when the first name is removed."""
    for give_name in (link.hardlink_to, link.symlink_to):
        try:
            give_name(path)
            return
        except OSError:  # another disk, or Windows
            continue
    shutil.copyfile(path, link)
