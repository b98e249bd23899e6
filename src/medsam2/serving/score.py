"""The published contract: a table of images and prompts comes in, masks go out."""

from __future__ import annotations

import asyncio
import logging
import tempfile
from collections.abc import Awaitable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive

from medsam2.errors import InputError, MedSAM2Error
from medsam2.imaging.formats.voxels import GZIP_MAGIC
from medsam2.imaging.volume import Volume
from medsam2.serving.answers import Found, answer_text, compressed, wants_gzip
from medsam2.serving.fetch import SCHEMES, fetch
from medsam2.serving.http_errors import TooSlow, frame_error, no_room, row_error, status_of
from medsam2.serving.limits import Reservation, header, read_body, usage_of
from medsam2.serving.rows import Cells, ScoreRow, read_row, read_table
from medsam2.serving.schemas import bytes_in
from medsam2.serving.service import Service
from medsam2.serving.volumes import read_volume

if TYPE_CHECKING:
    from medsam2.inference.job import Job
    from medsam2.prompts.types import Prompt

_OBJECT = 1  # a row of the table has one

logger = logging.getLogger(__name__)

_Result = TypeVar("_Result")


async def score(service: Service, request: Request) -> Response:
    """Answer a request of the contract.

    Raises:
        HttpError: The request as a whole cannot be answered.
        MedSAM2Error: Its only row gets no mask.
        ClientDisconnect: The caller is gone; its work has ended.
    """
    usage = usage_of(request.scope)
    body = await read_body(request, service.settings)
    with service.places.taken():
        rows = await asyncio.to_thread(read_table, body, service.settings.max_rows)
        del body
        usage.num_rows = len(rows)
        outcomes = await while_wanted(request.receive, answer_rows(service, rows, usage.reservation))
    return _response(outcomes, gzip=wants_gzip(header(request.scope, b"accept-encoding")))


def _response(outcomes: Sequence[Found | MedSAM2Error], *, gzip: bool) -> Response:
    text = answer_text(outcomes)
    headers = {"Vary": "Accept-Encoding"}
    if not gzip:
        return StreamingResponse(text, media_type="application/json", headers=headers)
    headers["Content-Encoding"] = "gzip"
    return StreamingResponse(compressed(text), media_type="application/json", headers=headers)


async def while_wanted(receive: Receive, work: Awaitable[_Result]) -> _Result:
    """Do some work for as long as the caller is there.

    Args:
        receive: Of a request whose body has been read.
        work: Cancelled when the caller leaves.

    Raises:
        ClientDisconnect: It left.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(receive())  # after the body there is nothing else to come
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientDisconnect
    finally:
        working.cancel()
        leaving.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def answer_rows(
    service: Service, rows: Sequence[Cells], reservation: Reservation
) -> list[Found | MedSAM2Error]:
    """Do one row after the other; in a table of several rows a failure is an answer as well.

    Raises:
        MedSAM2Error: The only row gets no mask.
    """
    limit_s = service.settings.answer_timeout_s
    deadline = asyncio.get_running_loop().time() + limit_s
    outcomes: list[Found | MedSAM2Error] = []
    for number, cells in enumerate(rows):
        try:
            async with asyncio.timeout_at(deadline):
                outcomes.append(await _answer_row(service, number, read_row(number, cells), reservation))
        except TimeoutError:
            outcomes.append(TooSlow(f"row {number}: no mask within {limit_s:g} s, waiting included"))
        except MedSAM2Error as error:
            outcomes.append(error)
    for outcome in outcomes:
        if isinstance(outcome, MedSAM2Error):
            service.meters.row_errors.labels(str(status_of(outcome))).inc()
    if len(outcomes) == 1 and isinstance(outcomes[0], MedSAM2Error):
        raise outcomes[0]
    return outcomes


async def _answer_row(service: Service, number: int, row: ScoreRow, reservation: Reservation) -> Found:
    taken_before = reservation.num_bytes
    try:
        volume = await _volume_of(service, number, row, reservation)
        job = _job_of(volume, row.prompt(number, volume.shape), row)
        try:
            labels = await service.model.do(job)
        except InputError as error:  # the prompt is usable: nothing can be seen in the image
            raise row_error(number, "nii_image", error) from None
        found = await service.model.run(partial(Found.of, labels, row))
    finally:
        reservation.shrink(reservation.num_bytes - taken_before)
    # Voxels and labels are gone; what remains is the part with the object.
    reservation.grow(found.part.nbytes)
    return found


def _job_of(volume: Volume, prompt: Prompt, row: ScoreRow) -> Job:
    from medsam2.inference.job import Job
    from medsam2.inference.runtime import InferenceOptions

    options = InferenceOptions(memory=row.memory)
    return Job(image=volume, objects={_OBJECT: [prompt]}, window=row.window, options=options)


async def _volume_of(service: Service, number: int, row: ScoreRow, reservation: Reservation) -> Volume:
    try:
        with tempfile.TemporaryDirectory(dir=service.folder, ignore_cleanup_errors=True) as folder:
            path = await _file_of(row.nii_image, Path(folder), service)
            return await read_volume(path, service, reservation, row.frame)
    except MedSAM2Error as error:
        named = frame_error(error, "column frame takes a number from 0")
        raise row_error(number, "nii_image", named) from error
    except OSError as error:
        logger.exception("no room for files")
        raise no_room() from error


async def _file_of(image: str, folder: Path, service: Service) -> Path:
    """Write what a caller sent, or what its URL holds, to a file under our own name."""
    path = folder / "image"
    if image[: max(map(len, SCHEMES))].lower().startswith(SCHEMES):  # the text may be a whole scan
        await fetch(image, path, service.settings)
    else:
        await asyncio.to_thread(_decode, image, path)
    with path.open("rb") as file:
        is_compressed = file.read(len(GZIP_MAGIC)) == GZIP_MAGIC
    return path.rename(path.with_suffix(".nii.gz" if is_compressed else ".nii"))


def _decode(image: str, path: Path) -> None:
    try:
        path.write_bytes(bytes_in(image))
    except ValueError as error:
        raise InputError(f"neither a URL nor base64 ({error}); base64 of a NIfTI file is expected") from None
