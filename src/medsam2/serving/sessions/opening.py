"""Open a session: receive or link the file, read it, count its memory."""

from __future__ import annotations

import logging
import shutil
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.requests import Request

from medsam2.errors import InputError
from medsam2.imaging.formats.archive import kind_of_content
from medsam2.imaging.volume import Volume
from medsam2.serving.http_errors import BadRequest, no_room
from medsam2.serving.limits import Reservation, header, read_body, store_body
from medsam2.serving.schemas import read_message
from medsam2.serving.service import Service
from medsam2.serving.sessions.schemas import (
    MAX_JSON_BYTES,
    FileOpening,
    UploadOpening,
    read_upload_query,
)
from medsam2.serving.sessions.store import OpenSession
from medsam2.serving.volumes import file_within, read_volume

if TYPE_CHECKING:
    from medsam2.inference.predictor import Predictor
    from medsam2.inference.session import Session

_STEM = "image"
_ZIP = ".zip"
_DICOM = ""  # DICOM is known by its content, not by its name
_NAMED_DICOM = (".dcm", ".dicom", ".ima")
_SUFFIXES = (
    *(".nii.gz", ".nii", ".nrrd", ".mha", ".mgz", ".mgh", ".npz", _ZIP),
    *(".png", ".jpg", ".jpeg", ".tif", ".tiff"),
)
_KINDS = {"NIfTI": ".nii.gz", "NRRD": ".nrrd", "MetaImage": ".mha", "a zip": _ZIP, "a PNG": ".png"}
_KINDS |= {"a JPEG": ".jpg", "a TIFF": ".tif"}

logger = logging.getLogger(__name__)


async def open_session(service: Service, request: Request) -> OpenSession:
    """Open the file that a request brings or names.

    Raises:
        InputError: The request or the file is not usable.
        HttpError: There is no such file, it is too large or too slow, or there is no place or memory for it.
        ClientDisconnect: The caller is gone.
    """
    with service.sessions.place():
        reservation = Reservation(service.budget)
        folder: Path | None = None
        try:
            folder = Path(tempfile.mkdtemp(dir=service.folder))
            opened = await _open(service, request, folder, reservation)
        except BaseException as error:
            reservation.close()
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)
            if isinstance(error, OSError):
                logger.exception("no room for files")
                raise no_room() from error
            raise
        service.sessions.add(opened)
    return opened


async def _open(service: Service, request: Request, folder: Path, reservation: Reservation) -> OpenSession:
    opening: FileOpening | UploadOpening
    if header(request.scope, b"content-type").partition(";")[0].strip().lower() == "application/json":
        opening, path = await _linked(service, request, folder)
    else:
        opening, path = await _stored(service, request, folder, reservation)
    source = path if path.suffix in (_DICOM, _NAMED_DICOM[0], _ZIP) else None
    is_upload = not path.is_symlink()
    volume = await read_volume(path, service, reservation, opening.frame)
    if is_upload and source is None:
        reservation.shrink(path.stat().st_size)
        path.unlink()
    loaded = service.model.loaded
    return OpenSession(
        session=await service.workers.run(partial(_session, loaded.predictor, volume, opening)),
        weights=loaded.weights,
        name=opening.name,
        folder=folder,
        source=source,
        frame=opening.frame,
        reservation=reservation,
    )


async def _stored(
    service: Service, request: Request, folder: Path, reservation: Reservation
) -> tuple[UploadOpening, Path]:
    """Put a body into a file under a name of ours."""
    opening = read_upload_query(request.query_params)
    path = folder / _STEM
    await store_body(request, service.settings, reservation, path)
    if not path.stat().st_size:
        raise BadRequest("the body is empty; the bytes of a scan are expected, or JSON with the path of one")
    return opening, path.rename(path.with_name(_STEM + _suffix(opening.name, path)))


async def _linked(service: Service, request: Request, folder: Path) -> tuple[FileOpening, Path]:
    """Link a file of the server's folder to a name of ours."""
    opening = read_message(FileOpening, await read_body(request, service.settings, MAX_JSON_BYTES))
    found = await service.workers.run(partial(file_within, service.settings.folder, opening.path))
    path = folder / (_STEM + (_DICOM if found.is_dir() else _suffix(found.name, found)))
    path.symlink_to(found, target_is_directory=found.is_dir())
    return opening, path


def _suffix(name: str, path: Path) -> str:
    """The suffix that tells a reader the format, from the user's name for the file or else its content.

    Raises:
        InputError: The voxels are in another file.
    """
    for suffix in _SUFFIXES:
        if name.lower().endswith(suffix):
            return suffix
    if name.lower().endswith(_NAMED_DICOM):
        return _NAMED_DICOM[0]
    if name.lower().endswith((".mhd", ".nhdr")):
        raise InputError("an .mhd file keeps its voxels in another one: send both in a .zip, or an .mha file")
    kind = kind_of_content(path) or ""
    return next((suffix for start, suffix in _KINDS.items() if kind.startswith(start)), _DICOM)


def _session(predictor: Predictor, volume: Volume, opening: UploadOpening | FileOpening) -> Session:
    from medsam2.inference.runtime import InferenceOptions

    return predictor.session(
        volume,
        window=opening.window,
        plane=opening.plane,
        options=InferenceOptions(memory=opening.memory),
    )
