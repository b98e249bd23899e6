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
from medsam2.serving.monailabel.forms import Form
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
    """Follow the object both ways from all slices whose prompts show where it is.

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
    job = Job(
        image=volume,
        objects={_OBJECT: prompts},
        names={_OBJECT: params.label},
        window=params.window,
        options=options,
    )
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
    """2 makes Slicer send the slice, and put the result into this slice alone."""
    description: str

    @property
    def info(self) -> dict[str, object]:
        """What viewers read. Of a list of options they send the first, unless the user chooses another."""
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
class InferRequest:
    """A viewer's request for a mask."""

    model: ViewerModel
    image: str
    session_id: str
    output: str
    form: Form
    sent: Mapping[str, object]
    """The parameters as they were sent."""
    params: ViewerParams


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
    sent = form.json("params")
    wanted = InferRequest(
        model=chosen,
        image=image,
        session_id=session_id,
        output=output,
        form=form,
        sent=sent,
        params=read_params(sent),
    )
    _check_output(state, wanted)
    limit_s = state.service.settings.answer_timeout_s
    with state.service.places.taken():
        work = _answer(state, wanted, usage_of(request.scope).reservation)
        try:
            async with asyncio.timeout(limit_s):
                return await while_wanted(request.receive, work)
        except TimeoutError:
            raise TooSlow(f"no mask within {limit_s:g} s, waiting included") from None


async def find_mask(
    state: ViewerState,
    source: Source,
    model: ViewerModel,
    params: ViewerParams,
    folder: Path,
    reservation: Reservation,
) -> FoundMask:
    """Open an image and segment it in the model's thread.

    Raises:
        InputError: The image or a prompt is not usable.
        HttpError: The image is too large, there is no memory for it, or reading it takes too long.
    """
    started = time.perf_counter()
    volume = await state.open_source(source, folder, reservation)
    opened = time.perf_counter()
    outcome = await model.segment(state.service.model, volume, params)
    return FoundMask(
        outcome=outcome,
        source=source,
        read_s=opened - started,
        infer_s=time.perf_counter() - opened,
    )


async def save_found(
    state: ViewerState, found: FoundMask, params: ViewerParams, sent: object, folder: Path
) -> None:
    """Store a mask as a label of its image, if `save_label` says so.

    Raises:
        InputError: The image is not one of the datastore.
    """
    if not params.save_label:
        return
    if found.source.entry is None:
        raise InputError("save_label stores beside an image of the datastore, and this image is not in it")
    info = {"label_info": [{"name": params.label, "idx": _OBJECT}], "params": sent}
    await store_label(state, found.source, params.label_tag, found.outcome.labels, folder, info)


async def _answer(state: ViewerState, request: InferRequest, reservation: Reservation) -> Response:
    with state.request_folder() as folder:
        source = await state.find_source(
            request.image, folder, session_id=request.session_id, upload=request.form.file("file")
        )
        found = await find_mask(state, source, request.model, request.params, folder, reservation)
        await save_found(state, found, request.params, request.sent, folder)
        return await _response(state, request, found, folder)


async def _response(state: ViewerState, request: InferRequest, found: FoundMask, folder: Path) -> Response:
    params, mask = request.params, found.outcome.labels
    if request.output == "dicom_seg":
        path = await write_segmentation(state, mask, found.source, folder, {_OBJECT: params.label})
        return file_response(path.name, await asyncio.to_thread(path.read_bytes), DICOM)
    if request.output == "json" or not params.result_write_to_file:
        return JSONResponse(_answer_params(found, params, 0.0))
    started = time.perf_counter()
    path = await asyncio.to_thread(write_mask, mask, folder, params, found.source.suffix)
    content = await asyncio.to_thread(path.read_bytes)
    if request.output == "image":
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


def _check_output(state: ViewerState, request: InferRequest) -> None:
    if request.output != "dicom_seg":
        return
    if not state.datastore.is_archive or request.session_id or request.form.file("file") is not None:
        raise InputError("a DICOM segmentation refers to a series of a DICOMweb archive; this image is none")
    if not request.sent.get("label_info"):
        raise InputError('output dicom_seg needs label_info in params: [{"name": ..., "idx": ...}]')
