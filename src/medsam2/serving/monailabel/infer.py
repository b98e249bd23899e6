"""Answer a viewer's request for a mask: the models that it may choose, and their work."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from medsam2.errors import InputError
from medsam2.imaging.volume import Volume
from medsam2.inference.options import MEMORY_POLICIES
from medsam2.prompts.types import Prompt
from medsam2.serving.http_errors import NotFound, TooSlow, shown
from medsam2.serving.limits import Reservation, usage_of
from medsam2.serving.monailabel.images import Source
from medsam2.serving.monailabel.labels import (
    DICOM,
    OUTPUTS,
    file_response,
    form_response,
    store_label,
    write_mask,
    write_segmentation,
)
from medsam2.serving.monailabel.params import LABEL, WINDOWS, ViewerParams, read_params, shows_object
from medsam2.serving.monailabel.state import ViewerState, checked_choice
from medsam2.serving.score import while_wanted
from medsam2.serving.service import Model

if TYPE_CHECKING:
    from medsam2.inference.job import OpenJob, Outcome

_OBJECT = 1


Segment = Callable[[Model, Volume, ViewerParams], Awaitable["Outcome"]]


async def segment_volume(model: Model, volume: Volume, params: ViewerParams) -> Outcome:
    """Follow the object in both directions from all slices whose prompts show where it is.

    Prompts that only show where it is not correct their slices afterwards, as a person would do it.

    Args:
        model: Works slice by slice, so that other requests come in between.
        volume: The image.
        params: The prompts, and how to follow the object.

    Raises:
        InputError: The image or a prompt is not usable.
    """
    prompts = params.prompts(volume.shape)
    job = await _open(model, volume, params, [prompt for prompt in prompts if shows_object(prompt)])
    await model.follow(job.propagate())
    found = job.session.object(_OBJECT).scores()
    corrections = [prompt for prompt in prompts if not shows_object(prompt) and prompt.slice_index in found]
    if corrections:
        await model.run(partial(job.session.add_all, {_OBJECT: corrections}))
        await model.follow(job.session.propagate())
    return await model.run(partial(_outcome, job))


async def segment_slice(model: Model, volume: Volume, params: ViewerParams) -> Outcome:
    """Find the object in one slice; the labels have the volume's size and are empty elsewhere.

    Args:
        model: Does the work.
        volume: The image.
        params: The prompts.

    Raises:
        InputError: The image or a prompt is not usable, or prompts are on several slices and none is named.
    """
    prompts = params.prompts(volume.shape)
    named = params.slice
    here = prompts if named is None else [prompt for prompt in prompts if prompt.slice_index == named]
    if len(here) != 1 or not shows_object(here[0]):
        slices = ", ".join(str(prompt.slice_index) for prompt in prompts)
        where = "one slice, named by slice," if named is None else f"slice {named}"
        raise InputError(f"foreground clicks or a roi on {where} are expected; prompts are on {slices}")
    job = await _open(model, volume, params, here)
    await model.run(partial(job.session.add, _OBJECT, here[0]))
    return await model.run(partial(_outcome, job))


async def _open(model: Model, volume: Volume, params: ViewerParams, prompts: Sequence[Prompt]) -> OpenJob:
    from medsam2.inference.job import Job, open_job
    from medsam2.inference.runtime import InferenceOptions

    options = InferenceOptions(memory=params.memory, keep_component=params.largest_cc or None)
    job = Job(image=volume, objects={_OBJECT: prompts}, window=params.window, options=options)
    return await model.run(partial(open_job, job, model.predictor))


def _outcome(job: OpenJob) -> Outcome:
    outcome = job.outcome()
    _ = outcome.labels  # made now, in the model's thread
    return outcome


@dataclass(frozen=True, kw_only=True)
class ViewerModel:
    """One way to use the model."""

    segment: Segment
    dimension: int
    """With 2, Slicer sends the slice and puts the result into this slice only."""
    description: str

    @property
    def info(self) -> dict[str, object]:
        """The model as viewers read it; of a list of options they send the first, or the one chosen."""
        return {
            "type": "deepgrow",  # for which viewers offer clicks and a region
            "labels": [LABEL],
            "dimension": self.dimension,
            "description": self.description,
            "config": {"window": list(WINDOWS), "memory": list(MEMORY_POLICIES), "largest_cc": False},
        }


VOLUME = "medsam2_3d"
SLICE = "medsam2_2d"
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
        NotFound: There is none.
    """
    if name not in MODELS:
        raise NotFound(f"there is no model {shown(name)}; models are {', '.join(MODELS)}")
    return MODELS[name]


@dataclass(frozen=True, kw_only=True, eq=False)
class ViewerRequest:
    """What a viewer asks for, whatever the image."""

    model: ViewerModel
    params: ViewerParams
    sent: Mapping[str, object]
    """The parameters as they were sent."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FoundMask:
    """A mask, and how long it took."""

    outcome: Outcome
    source: Source
    read_s: float
    infer_s: float


async def infer(
    state: ViewerState, request: Request, *, model: str, image: str, session_id: str, output: str
) -> Response:
    """Segment the object of a request.

    Args:
        state: The server's parts.
        request: Its body is a form with `params`, and a `file` if neither image nor session is named.
        model: A key of `MODELS`.
        image: Id in the datastore.
        session_id: Of an open session, whose image is used then.
        output: One of `labels.OUTPUTS`.

    Raises:
        NotFound: There is no such model, image or session.
        InputError: The image or a prompt is not usable.
        HttpError: The request needs more memory or time than there is.
        ClientDisconnect: The caller is gone.
    """
    chosen = model_called(model)
    output = checked_choice(output, "output", OUTPUTS)
    form = await state.read_form(request)
    if form.file("label") is not None:
        raise InputError("this model takes no label with a request; give clicks or a roi in params")
    reservation = usage_of(request.scope).reservation
    sent, upload = form.json("params"), form.file("file")
    wanted = ViewerRequest(model=chosen, params=read_params(sent), sent=sent)
    if output == "dicom_seg":
        if not state.datastore.is_archive or session_id or upload is not None:
            raise InputError(
                "a DICOM segmentation refers to a series of a DICOMweb archive; this image is none"
            )
        if not sent.get("label_info"):
            raise InputError('output dicom_seg needs label_info in params: [{"name": ..., "idx": ...}]')

    async def answer() -> Response:
        with state.request_folder() as folder:
            source = await state.find_source(image, folder, session_id=session_id, upload=upload)
            found = await find_mask(state, source, wanted, folder, reservation)
            return await _response(state, output, found, wanted.params, folder)

    limit_s = state.service.settings.answer_timeout_s
    with state.service.places.taken():
        try:
            async with asyncio.timeout(limit_s):
                return await while_wanted(request.receive, answer())
        except TimeoutError:
            raise TooSlow(f"no mask within {limit_s:g} s, waiting included") from None


async def find_mask(
    state: ViewerState, source: Source, request: ViewerRequest, folder: Path, reservation: Reservation
) -> FoundMask:
    """Open an image and segment it in the model's thread; store the mask as a label if `save_label` says so.

    Raises:
        InputError: The image or a prompt is not usable, or the image is not one of the datastore.
        HttpError: The image is too large, there is no memory for it, or reading it takes too long.
    """
    params = request.params
    started = time.perf_counter()
    volume = await state.open_source(source, folder, reservation)
    opened = time.perf_counter()
    outcome = await request.model.segment(state.service.model, volume, params)
    infer_s = time.perf_counter() - opened
    if params.save_label:
        if source.entry is None:
            raise InputError(
                "save_label stores beside an image of the datastore, and this image is not in it"
            )
        info = {"label_info": [{"name": params.label, "idx": _OBJECT}], "params": request.sent}
        await store_label(state, source, params.label_tag, outcome.labels, folder, info)
    return FoundMask(outcome=outcome, source=source, read_s=opened - started, infer_s=infer_s)


async def _response(
    state: ViewerState, output: str, found: FoundMask, params: ViewerParams, folder: Path
) -> Response:
    mask = found.outcome.labels
    if output == "dicom_seg":
        path = await write_segmentation(state, mask, found.source, folder, {_OBJECT: params.label})
        return file_response(path.name, await asyncio.to_thread(path.read_bytes), DICOM)
    if output == "json" or not params.result_write_to_file:
        return JSONResponse(_answer_params(found, params, 0.0))
    started = time.perf_counter()
    path = await asyncio.to_thread(write_mask, mask, folder, params, found.source.suffix)
    content = await asyncio.to_thread(path.read_bytes)
    if output == "image":
        return file_response(path.name, content)
    return form_response(_answer_params(found, params, time.perf_counter() - started), path.name, content)


def _answer_params(found: FoundMask, params: ViewerParams, write_s: float) -> dict[str, object]:
    """The parameters that go with a mask; the first two entries are MONAI Label's."""
    window = found.outcome.session.window
    return {
        "label_names": {params.label: _OBJECT},
        "latencies": {
            "pre": round(found.read_s, 3),
            "infer": round(found.infer_s, 3),
            "invert": 0,
            "post": 0,
            "write": round(write_s, 3),
            "total": round(found.read_s + found.infer_s + write_s, 3),
            "transform": None,
        },
        "scores": {str(k): round(score, 4) for k, score in found.outcome.scores[_OBJECT].items()},
        "window": {"lower": window.lower, "upper": window.upper, "source": window.source},
    }
