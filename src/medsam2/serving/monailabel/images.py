"""Bring an image to where it is read: of the datastore, of a session, or as it was sent."""

from __future__ import annotations

import asyncio
import shutil
from dataclasses import dataclass
from pathlib import Path

from medsam2.errors import MedSAM2Error
from medsam2.imaging.volume import Volume
from medsam2.serving.http_errors import Fault, choosing_frame
from medsam2.serving.limits import Reservation
from medsam2.serving.monailabel.datastore import IMAGES, ImageEntry, suffix_of
from medsam2.serving.monailabel.dialect import Dialect
from medsam2.serving.monailabel.forms import Upload
from medsam2.serving.volumes import read_volume

_NAME = "image"


@dataclass(frozen=True, kw_only=True, eq=False)
class Source:
    """Where an image lies."""

    path: Path
    """A file, or a folder with a series."""
    suffix: str
    entry: ImageEntry | None = None
    """Of the datastore, if it is from there."""


async def find_source(
    dialect: Dialect, *, image: str, session_id: str = "", upload: Upload | None = None, folder: Path
) -> Source:
    """Find the image that a request is about: the session's, or the file that came with it, or a datastore's.

    Args:
        dialect: Where to look.
        image: Id in the datastore.
        session_id: Of an open session.
        upload: A file of the request.
        folder: For that file.

    Raises:
        Fault: 404, it is not there; 422, none is named, or the file is none that is read.
    """
    if session_id:
        session = dialect.sessions.find(session_id)
        return Source(path=session.path, suffix=session.suffix)
    if upload is not None:
        suffix = suffix_of(upload.name, IMAGES, "the file")
        path = folder / f"sent{suffix}"
        await asyncio.to_thread(path.write_bytes, upload.content)
        return Source(path=path, suffix=suffix)
    if not image:
        raise Fault(422, "no image is named: give image, session_id or a file")
    entry = await asyncio.to_thread(dialect.studies.find, image)
    path = await asyncio.to_thread(dialect.studies.image_path, entry)
    return Source(path=path, suffix=entry.suffix, entry=entry)


async def open_source(dialect: Dialect, source: Source, folder: Path, reservation: Reservation) -> Volume:
    """Read an image in another process.

    Args:
        dialect: Lends it.
        source: The image.
        folder: Of ours, for this request; voxels lie there for a moment, not beside the image.
        reservation: Grows by what the image takes.

    Raises:
        Fault: See `serving.volumes.read_volume`.
    """
    try:
        return await read_volume(await link_source(source, folder), dialect.service, reservation)
    except MedSAM2Error as error:
        raise choosing_frame(error, "viewers show one volume: save the frame as a file of its own") from error


async def link_source(source: Source, folder: Path) -> Path:
    """Give an image a name of ours in a folder for one request, and return it."""
    link = folder / f"{_NAME}{source.suffix}"
    await asyncio.to_thread(_link, source.path.resolve(), link)
    return link


def _link(path: Path, link: Path) -> None:
    """Give an image a second name; where the system can do that, it stays good when the first is removed."""
    if not path.is_dir():
        _link_file(path, link)
        return
    link.mkdir()
    for file in path.iterdir():
        _link_file(file, link / file.name)


def _link_file(path: Path, link: Path) -> None:
    for give_name in (link.hardlink_to, link.symlink_to):
        try:
            give_name(path)
            return
        except OSError:  # another disk, or Windows
            continue
    shutil.copyfile(path, link)
