"""Answer a viewer that wants a mask: the models it may choose, and their work."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from medsam2.imaging.intensity import Window
from medsam2.imaging.volume import Volume
from medsam2.prompts.types import Prompt
from medsam2.serving.http_errors import Fault, shown
from medsam2.serving.limits import Reservation, usage_of
from medsam2.serving.monailabel.dialect import Dialect, checked_choice, read_sent_form
from medsam2.serving.monailabel.forms import Upload
from medsam2.serving.monailabel.images import Source, find_source, open_source
from medsam2.serving.monailabel.labels import (
    DICOM,
    OUTPUTS,
    file_response,
    form_response,
    store_label,
    write_mask,
    write_segmentation,
)
from medsam2.serving.monailabel.requests import LABEL, WINDOWS, Asked, read_asked, tells_where
from medsam2.serving.rows import MEMORIES
from medsam2.serving.score import while_wanted
from medsam2.serving.service import Model

if TYPE_CHECKING:
    from medsam2.inference.predictor import Predictor
    from medsam2.inference.session import Session

_OBJECT = 1


@dataclass(frozen=True, kw_only=True, eq=False)
class Segmented:
    """What was found."""

    labels: Volume
    """uint8, 0 and 1, on the image's grid."""
    scores: Mapping[int, float]
    """How sure the network is, 0..1, per slice that it looked at."""
    window: Window


Segment = Callable[[Model, Volume, Asked], Awaitable[Segmented]]


async def segment_volume(model: Model, volume: Volume, asked: Asked) -> Segmented:
    """Follow the object both ways from all slices where something is said to be it.

    Slices of which is only said what is not the object are corrected then, as a person would do it: where the
    object was found.

    Args:
        model: Does it slice by slice, so that others come in between.
        volume: The image.
        asked: What to segment.

    Raises:
        InputError: The image or a prompt is not usable.
    """
    session = await model.run(partial(_open, model.predictor, volume, asked))
    said = asked.prompts(session.shape)
    await model.run(partial(_add, session, [prompt for prompt in said if tells_where(prompt)]))
    await model.follow(session)
    found = session.scores(_OBJECT)
    corrections = [prompt for prompt in said if not tells_where(prompt) and prompt.slice_index in found]
    if corrections:
        await model.run(partial(_add, session, corrections))
        await model.follow(session)
    return await model.run(partial(_segmented, session))


async def segment_slice(model: Model, volume: Volume, asked: Asked) -> Segmented:
    """Find the object in one slice; the labels have the volume's size and are empty elsewhere.

    Args:
        model: Does it.
        volume: The image.
        asked: What to segment.

    Raises:
        InputError: The image or a prompt is not usable.
        Fault: 422, prompts are on several slices and none is named.
    """
    session = await model.run(partial(_open, model.predictor, volume, asked))
    said = asked.prompts(session.shape)
    named = asked.slice_index
    here = said if named is None else [prompt for prompt in said if prompt.slice_index == named]
    if len(here) != 1 or not tells_where(here[0]):
        slices = ", ".join(str(prompt.slice_index) for prompt in said)
        where = "one slice, named by slice," if named is None else f"slice {named}"
        raise Fault(422, f"foreground clicks or a roi on {where} are expected; something is said on {slices}")
    await model.run(partial(_add, session, here))
    return await model.run(partial(_segmented, session))


def _open(predictor: Predictor, volume: Volume, asked: Asked) -> Session:
    from medsam2.inference.runtime import InferenceOptions

    options = InferenceOptions(memory=asked.memory, keep_component=asked.keeps_component)
    return predictor.session(volume, window=asked.window, options=options)


def _add(session: Session, prompts: Sequence[Prompt]) -> None:
    from medsam2.inference.prompting import add_prompts

    add_prompts(session, {_OBJECT: prompts})


def _segmented(session: Session) -> Segmented:
    return Segmented(
        labels=session.result(_OBJECT),
        scores=MappingProxyType(session.scores(_OBJECT)),
        window=session.window,
    )


KIND = "deepgrow"
"""What makes viewers offer clicks and a region."""
VOLUME = "medsam2_3d"
SLICE = "medsam2_2d"


@dataclass(frozen=True, kw_only=True)
class ViewerModel:
    """One way to use the model."""

    segment: Segment
    dimension: int
    """2 makes Slicer send the slice, and put the result into it alone."""
    description: str

    @property
    def info(self) -> dict[str, object]:
        """What viewers read; of a list of options they send the first, unless someone chooses."""
        return {
            "type": KIND,
            "labels": [LABEL],
            "dimension": self.dimension,
            "description": self.description,
            "config": {"window": list(WINDOWS), "memory": list(MEMORIES), "largest_cc": False},
        }


MODELS: Mapping[str, ViewerModel] = MappingProxyType(
    {
        VOLUME: ViewerModel(
            segment=segment_volume,
            dimension=3,
            description="Clicks or a box on a slice; the object is followed through the volume, both ways",
        ),
        SLICE: ViewerModel(
            segment=segment_slice,
            dimension=2,
            description="Clicks or a box on a slice; the object in this slice",
        ),
    }
)


def model_called(name: str) -> ViewerModel:
    """A model by its name.

    Raises:
        Fault: 404, there is none.
    """
    if name not in MODELS:
        raise Fault(404, f"there is no model {shown(name)}; {', '.join(MODELS)} are")
    return MODELS[name]


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
