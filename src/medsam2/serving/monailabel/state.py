"""What the routes of MONAI Label's protocol share: the datastore, open images, batches, answers to errors."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import orjson
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from medsam2.errors import InputError, MedSAM2Error
from medsam2.imaging.volume import Volume
from medsam2.serving.fetch import SCHEMES
from medsam2.serving.http_errors import (
    AlreadyRunning,
    NotFound,
    error_response,
    frame_error,
    no_room,
    shown,
    status_of,
)
from medsam2.serving.limits import Reservation, header, read_body
from medsam2.serving.monailabel.datastore import IMAGES, Datastore, suffix_of
from medsam2.serving.monailabel.folder import FolderDatastore
from medsam2.serving.monailabel.forms import MAX_TEXT, Form, Upload, read_form, read_object
from medsam2.serving.monailabel.images import ImageSessions, Source, link_source
from medsam2.serving.service import Service
from medsam2.serving.volumes import read_volume

_ONE_FRAME = "viewers show one volume: save the frame as a file of its own"
_PACKAGES = ("dicomweb_client", "highdicom", "requests")
_MAX_LINES = 20  # of a batch's details
_MAX_TASKS = 50

logger = logging.getLogger(__name__)


def _now() -> str:
    return datetime.now().strftime("%Y-%m-%d %H:%M:%S")


@dataclass(kw_only=True)
class Task:
    """A batch and its progress, in the form that MONAI Label's clients read."""

    request: Mapping[str, object]
    task_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    status: str = "SUBMITTED"
    started: str = field(default_factory=_now)
    ended: str = ""
    details: deque[str] = field(default_factory=lambda: deque(["submitted"], maxlen=_MAX_LINES))
    result: Mapping[str, object] = field(default_factory=dict)

    @property
    def answer(self) -> dict[str, object]:
        """The task as JSON."""
        return {
            "id": self.task_id,
            "status": self.status,
            "request": dict(self.request),
            "start_ts": self.started,
            "end_ts": self.ended,
            "details": list(self.details),
            **({"result": dict(self.result)} if self.result else {}),
        }


Work = Callable[[Task], Awaitable[Mapping[str, object]]]


class Batches:
    """The batches of a server: one may run, and the latest ones are kept."""

    def __init__(self) -> None:
        self.tasks: deque[Task] = deque(maxlen=_MAX_TASKS)
        """The earliest first."""
        self._running: asyncio.Task[None] | None = None

    @property
    def is_running(self) -> bool:
        """Whether a batch is at work."""
        return self._running is not None and not self._running.done()

    async def start(self, request: Mapping[str, object], work: Work, *, waits: bool) -> Task:
        """Start a batch.

        Args:
            request: What the client sent; it is part of the task's JSON.
            work: Does the work and returns the result to report.
            waits: Return when the work is done, instead of at once.

        Raises:
            AlreadyRunning: A batch is running.
        """
        if self.is_running:
            raise AlreadyRunning("a batch is running already; wait until it has ended, or stop it")
        task = Task(request=request)
        self.tasks.append(task)
        self._running = asyncio.create_task(_run(task, work))
        if waits:
            await asyncio.shield(self._running)
        return task

    def running(self) -> Task:
        """The batch that runs.

        Raises:
            NotFound: None runs.
        """
        if not self.is_running:
            raise NotFound("No Batch Infer Tasks are currently Running")
        return self.tasks[-1]

    def stop(self) -> Task:
        """Tell the batch that runs to stop.

        Raises:
            NotFound: None runs.
        """
        task = self.running()
        task.status = "STOPPED"
        task.details.append("stopped")
        if self._running is not None:
            self._running.cancel()  # the work ends with the slice at hand
        return task

    async def close(self) -> None:
        """Stop the batch that runs and wait until it has ended."""
        if self.is_running and self._running is not None:
            self.stop()
            await self._running


async def _run(task: Task, work: Work) -> None:
    task.status = "RUNNING"
    task.details.append("running")
    try:
        task.result = await work(task)
    except MedSAM2Error as error:
        task.details.append(str(error))
        task.status = "ERROR"
    except Exception as error:
        logger.exception("a batch failed")
        task.details.append(f"failed: {type(error).__name__}; the server's log has the details")
        task.status = "ERROR"
    else:
        if task.status != "STOPPED":
            task.status = "DONE"
        task.details.append(task.status.lower())
    finally:
        task.ended = _now()


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

    async def read_object(self, request: Request) -> dict[str, object]:
        """Read a request's body as a JSON object; empty without a body.

        Raises:
            InputError: It is something else.
        """
        return read_object(await read_body(request, self.service.settings, MAX_TEXT), "the body")

    async def read_form(self, request: Request, max_bytes: int | None = None) -> Form:
        """Read a request's body as a form.

        Raises:
            MedSAM2Error: See `forms.read_form`.
        """
        body = await read_body(request, self.service.settings, max_bytes)
        return await asyncio.to_thread(read_form, header(request.scope, b"content-type"), body)

    @contextmanager
    def request_folder(self) -> Iterator[Path]:
        """A temporary folder for one request."""
        with TemporaryDirectory(dir=self.service.folder, ignore_cleanup_errors=True) as name:
            yield Path(name)


def open_viewer_state(service: Service) -> ViewerState:
    """Open the folder of the settings, or name their archive.

    Raises:
        InputError: See `check_studies`.
    """
    # Who sends a damaged form gets the error; the warnings of the parser would only fill the log.
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)
    place = service.settings.studies
    folder = check_studies(place)
    if folder is not None:
        return ViewerState(service=service, datastore=folder)
    from medsam2.serving.monailabel.archive import ArchiveDatastore

    return ViewerState(service=service, datastore=ArchiveDatastore(place, service))


def check_studies(place: str) -> FolderDatastore | None:
    """Refuse what cannot be opened, before weights are loaded. An archive is not contacted.

    Returns:
        The folder; None for an archive, or for no place at all.

    Raises:
        InputError: The folder does not exist or its index cannot be used, the URL is not one, or a package
            for archives is missing.
    """
    if not place.lower().startswith(SCHEMES):
        return FolderDatastore(Path(place)) if place else None
    try:
        for name in _PACKAGES:
            import_module(name)
    except ModuleNotFoundError as error:
        raise InputError(
            f"a DICOMweb archive needs the package {error.name}: pip install 'medsam2[dicomweb]'"
        ) from error
    from medsam2.serving.monailabel.dicomweb import Address

    Address.of(place)
    return None


class ViewerRoute(APIRoute):
    """Answers errors in MONAI Label's form: `detail`, beside the two entries of our own form."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Put the answers to errors around the route."""
        handle = super().get_route_handler()

        async def answered(request: Request) -> Response:
            try:
                return await handle(request)
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
    response.body = orjson.dumps({"detail": str(error), **orjson.loads(response.body)})
    response.headers["content-length"] = str(len(response.body))
    return response


def checked_choice(value: str, name: str, choices: tuple[str, ...]) -> str:
    """A value of the query; the first of its choices if it is empty.

    Raises:
        InputError: It is none of them.
    """
    if value and value not in choices:
        raise InputError(f"{name} is {shown(value)}; one of {', '.join(choices)} is expected")
    return value or choices[0]
