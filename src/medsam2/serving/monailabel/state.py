"""The parts that a server has one of when it speaks MONAI Label's protocol."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ParamSpec

import orjson
from starlette.requests import Request
from starlette.responses import Response

from medsam2.errors import InputError, MedSAM2Error
from medsam2.imaging.volume import Volume
from medsam2.serving.http_errors import error_response, frame_error, no_room, status_of
from medsam2.serving.limits import Reservation, header, read_body, usage_of
from medsam2.serving.monailabel.datastore import IMAGES, Datastore, suffix_of
from medsam2.serving.monailabel.folder import FolderDatastore
from medsam2.serving.monailabel.forms import MAX_TEXT, Form, Upload, read_form, read_object
from medsam2.serving.monailabel.images import ImageSessions, Source, link_source
from medsam2.serving.monailabel.tasks import Batches
from medsam2.serving.service import Service
from medsam2.serving.volumes import read_volume

_SCHEMES = ("http://", "https://")
_ONE_FRAME = "viewers show one volume: save the frame as a file of its own"
_PACKAGES = ("dicomweb_client", "highdicom", "requests")

logger = logging.getLogger(__name__)

_Given = ParamSpec("_Given")


@dataclass(frozen=True, kw_only=True)
class ViewerState:
    """The parts that routes work with."""

    service: Service
    datastore: Datastore
    sessions: ImageSessions = field(default_factory=ImageSessions)
    batches: Batches = field(default_factory=Batches)

    async def find_source(
        self, image: str, folder: Path, *, session_id: str = "", upload: Upload | None = None
    ) -> Source:
        """Find the image of a request: that of its session, the file that came with it, or the datastore's.

        Args:
            image: Id in the datastore.
            folder: For the file that came with the request.
            session_id: Of an open session.
            upload: A file of the request.

        Raises:
            NotFound: There is no such image or session.
            InputError: No image is named, or files of this kind are not read.
        """
        if session_id:
            session = self.sessions.find(session_id)
            return Source(path=session.path, suffix=session.suffix)
        if upload is not None:
            suffix = suffix_of(upload.name, IMAGES, "the file")
            path = folder / f"sent{suffix}"
            await asyncio.to_thread(path.write_bytes, upload.content)
            return Source(path=path, suffix=suffix)
        if not image:
            raise InputError("no image is named: give image, session_id or a file")
        entry = await asyncio.to_thread(self.datastore.find, image)
        path = await asyncio.to_thread(self.datastore.image_path, entry)
        return Source(path=path, suffix=entry.suffix, entry=entry)

    async def open_source(self, source: Source, folder: Path, reservation: Reservation) -> Volume:
        """Read an image in another process.

        Args:
            source: The image.
            folder: Of ours, for this request; voxels lie there for a moment, not beside the image.
            reservation: Grows by what the image takes.

        Raises:
            MedSAM2Error: See `serving.volumes.read_volume`.
        """
        try:
            return await read_volume(await link_source(source, folder), self.service, reservation)
        except MedSAM2Error as error:
            raise frame_error(error, _ONE_FRAME) from error

    async def read_body(self, request: Request, max_bytes: int | None = None) -> bytearray:
        """Read the body of a request and count it.

        Args:
            request: Not read yet.
            max_bytes: A limit below that of the settings.

        Raises:
            HttpError: See `serving.limits.read_body`.
        """
        usage = usage_of(request.scope)
        settings = self.service.settings
        body = await read_body(request.scope, request.receive, settings, usage.reservation, max_bytes)
        usage.num_bytes = len(body)
        return body

    async def read_object(self, request: Request) -> dict[str, object]:
        """Read a request's body as a JSON object; empty without a body.

        Raises:
            InputError: It is something else.
        """
        return read_object(await self.read_body(request, MAX_TEXT), "the body")

    async def read_form(self, request: Request, max_bytes: int | None = None) -> Form:
        """Read a request's body as a form.

        Raises:
            MedSAM2Error: See `forms.read_form`.
        """
        body = await self.read_body(request, max_bytes)
        return await asyncio.to_thread(read_form, header(request.scope, b"content-type"), body)

    @contextmanager
    def request_folder(self) -> Iterator[Path]:
        """A folder of ours for the time of a request."""
        with TemporaryDirectory(dir=self.service.folder, ignore_cleanup_errors=True) as name:
            yield Path(name)


def open_viewer_state(service: Service) -> ViewerState:
    """Open the folder, or name the archive, that the settings give.

    Raises:
        InputError: See `check_studies`.
    """
    # Who sends a damaged form gets the error; the warnings of the parser would only fill the log.
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)
    place = service.settings.studies
    check_studies(place)
    if not _is_url(place):
        return ViewerState(service=service, datastore=FolderDatastore(Path(place)))
    from medsam2.serving.monailabel.archive import ArchiveDatastore

    return ViewerState(service=service, datastore=ArchiveDatastore(place, service))


def check_studies(place: str) -> None:
    """Refuse what cannot be opened, before weights are loaded. An archive is not contacted.

    Raises:
        InputError: The folder does not exist or its index cannot be used, the URL is not one, or a package
            for archives is missing.
    """
    if not _is_url(place):
        if place:
            FolderDatastore(Path(place))
        return
    try:
        for name in _PACKAGES:
            import_module(name)
    except ModuleNotFoundError as error:
        raise InputError(
            f"a DICOMweb archive needs the package {error.name}: pip install 'medsam2[dicomweb]'"
        ) from error
    from medsam2.serving.monailabel.dicomweb import Address

    Address.of(place)


def _is_url(place: str) -> bool:
    return place.lower().startswith(_SCHEMES)


def with_detail(route: Callable[_Given, Awaitable[Response]]) -> Callable[_Given, Awaitable[Response]]:
    """Let a route answer errors in MONAI Label's form: `detail`, beside the two entries of our own form."""

    @functools.wraps(route)
    async def answered(*args: _Given.args, **kwargs: _Given.kwargs) -> Response:
        try:
            return await route(*args, **kwargs)
        except MedSAM2Error as error:
            if status_of(error) == 500:
                logger.exception("a request of a viewer failed")
            return _error_response(error)
        except OSError:
            logger.exception("no room for files")
            return _error_response(no_room())

    return answered


def _error_response(error: MedSAM2Error) -> Response:
    response = error_response(error)
    answer = {"detail": str(error), **orjson.loads(response.body)}
    headers = {key: value for key, value in response.headers.items() if key != "content-length"}
    return Response(orjson.dumps(answer), response.status_code, headers)


def checked_choice(value: str, name: str, choices: tuple[str, ...]) -> str:
    """A value of the query; the first of its choices if it is empty.

    Raises:
        InputError: It is none of them.
    """
    if value and value not in choices:
        raise InputError(f"{name} is {value[:60]!r}; one of {', '.join(choices)} is expected")
    return value or choices[0]
