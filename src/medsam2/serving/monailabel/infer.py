"""Answer a viewer that asks for a mask."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from medsam2.serving.admission import Reservation
from medsam2.serving.faults import Fault
from medsam2.serving.monailabel.asked import Asked
from medsam2.serving.monailabel.dialect import Dialect, checked_choice, read_sent_form
from medsam2.serving.monailabel.forms import Upload
from medsam2.serving.monailabel.images import Source, find_source, open_source
from medsam2.serving.monailabel.labels import store_label, write_segmentation
from medsam2.serving.monailabel.models import ViewerModel, model_called
from medsam2.serving.monailabel.params import read_asked
from medsam2.serving.monailabel.replies import DICOM, OUTPUTS, file_response, form_response, write_mask
from medsam2.serving.monailabel.segmenting import Segmented
from medsam2.serving.score import while_wanted
from medsam2.serving.usage import usage_of

_LABEL = 1  # of the one object in a mask


@dataclass(frozen=True, kw_only=True, eq=False)
class Question:
    """What a viewer wants to know."""

    model: ViewerModel
    image: str
    session_id: str
    upload: Upload | None
    output: str
    params: Mapping[str, object]
    asked: Asked


@dataclass(frozen=True, kw_only=True, eq=False)
class FoundMask:
    """A mask, and how long it took."""

    segmented: Segmented
    source: Source
    read_s: float
    infer_s: float


async def infer(
    dialect: Dialect, request: Request, *, model: str, image: str, session_id: str, output: str
) -> Response:
    """Segment what a request asks for.

    Args:
        dialect: The server's parts.
        request: Its body is a form with `params`, and a `file` if neither image nor session is named.
        model: A key of `models.MODELS`.
        image: Id in the datastore.
        session_id: Of an open session, which counts more.
        output: One of `replies.OUTPUTS`.

    Raises:
        Fault: 404, there is no such model, image or session; 413, 503 or 504, it takes more than there is.
        InputError: The image or a prompt is not usable.
        ClientDisconnect: The caller is gone.
    """
    called = model_called(model)
    output = checked_choice(output, "output", OUTPUTS)
    form = await read_sent_form(dialect, request)
    if form.file("label") is not None:
        raise Fault(422, "this model takes no label with a request; give clicks or a roi in params")
    params = form.json("params")
    question = Question(
        model=called,
        image=image,
        session_id=session_id,
        upload=form.file("file"),
        output=output,
        params=params,
        asked=read_asked(params),
    )
    _check_output(dialect, question)
    limit_s = dialect.service.settings.answer_timeout_s
    with dialect.service.places.taken():
        work = _answer(dialect, question, usage_of(request.scope).reservation)
        try:
            async with asyncio.timeout(limit_s):
                return await while_wanted(request.receive, work)
        except TimeoutError:
            raise Fault(504, f"no mask within {limit_s:g} s, waiting included") from None


async def find_mask(
    dialect: Dialect,
    source: Source,
    model: ViewerModel,
    asked: Asked,
    folder: Path,
    reservation: Reservation,
) -> FoundMask:
    """Open an image and segment it in the model's thread.

    Raises:
        InputError: The image or a prompt is not usable.
        Fault: 413, the image is too large; 503, no memory; 504, it is not read in time.
    """
    started = time.perf_counter()
    volume = await open_source(dialect, source, folder, reservation)
    opened = time.perf_counter()
    segmented = await model.segment(dialect.service.model, volume, asked)
    return FoundMask(
        segmented=segmented,
        source=source,
        read_s=opened - started,
        infer_s=time.perf_counter() - opened,
    )


async def save_found(dialect: Dialect, found: FoundMask, asked: Asked, params: object, folder: Path) -> None:
    """Store a mask as a label of its image, if that is asked for.

    Raises:
        Fault: 422, the image is not of the datastore.
    """
    if asked.saved_tag is None:
        return
    if found.source.entry is None:
        raise Fault(422, "save_label stores beside an image of the datastore, and this one is not of it")
    info = {"label_info": [{"name": asked.label, "idx": _LABEL}], "params": params}
    await store_label(dialect, found.source, asked.saved_tag, found.segmented.labels, folder, info)


async def _answer(dialect: Dialect, question: Question, reservation: Reservation) -> Response:
    with tempfile.TemporaryDirectory(dir=dialect.service.folder, ignore_cleanup_errors=True) as name:
        folder = Path(name)
        source = await find_source(
            dialect,
            image=question.image,
            session_id=question.session_id,
            upload=question.upload,
            folder=folder,
        )
        found = await find_mask(dialect, source, question.model, question.asked, folder, reservation)
        await save_found(dialect, found, question.asked, question.params, folder)
        return await _response(dialect, question, found, folder)


async def _response(dialect: Dialect, question: Question, found: FoundMask, folder: Path) -> Response:
    asked = question.asked
    if question.output == "dicom_seg":
        names = {_LABEL: asked.label}
        path = await write_segmentation(dialect, found.segmented.labels, found.source, folder, names)
        return file_response(path.name, await asyncio.to_thread(path.read_bytes), DICOM)
    if question.output == "json" or not asked.result.is_wanted:
        return JSONResponse(_said(found, asked, 0.0))
    started = time.perf_counter()
    mask = found.segmented.labels
    path = await asyncio.to_thread(write_mask, mask, folder, asked.result, found.source.suffix)
    content = await asyncio.to_thread(path.read_bytes)
    if question.output == "image":
        return file_response(path.name, content)
    return form_response(_said(found, asked, time.perf_counter() - started), path.name, content)


def _said(found: FoundMask, asked: Asked, write_s: float) -> dict[str, object]:
    """What a client is told beside the mask; the first two entries are MONAI Label's."""
    window = found.segmented.window
    return {
        "label_names": {asked.label: _LABEL},
        "latencies": {
            "pre": round(found.read_s, 3),
            "infer": round(found.infer_s, 3),
            "invert": 0,
            "post": 0,
            "write": round(write_s, 3),
            "total": round(found.read_s + found.infer_s + write_s, 3),
            "transform": None,
        },
        "scores": {str(k): round(score, 4) for k, score in found.segmented.scores.items()},
        "window": {"lower": window.lower, "upper": window.upper, "source": window.source},
    }


def _check_output(dialect: Dialect, question: Question) -> None:
    if question.output != "dicom_seg":
        return
    if not dialect.studies.is_archive or question.session_id or question.upload is not None:
        raise Fault(422, "a DICOM segmentation refers to a series of a DICOMweb archive, and this is none")
    if not question.params.get("label_info"):
        raise Fault(422, 'output dicom_seg needs label_info in params: [{"name": ..., "idx": ...}]')
