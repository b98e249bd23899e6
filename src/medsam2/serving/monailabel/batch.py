"""Segment many images of the datastore with the same prompts, in the background."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping, Sequence

from medsam2.errors import InputError, MedSAM2Error
from medsam2.serving.http_errors import Busy
from medsam2.serving.limits import Reservation
from medsam2.serving.monailabel.datastore import FINAL, ORIGINAL, ImageEntry
from medsam2.serving.monailabel.infer import ViewerModel, find_mask, model_called, save_found
from medsam2.serving.monailabel.params import ViewerParams, flag, read_params
from medsam2.serving.monailabel.state import ViewerState, checked_choice
from medsam2.serving.monailabel.tasks import Task

WHICH = ("unlabeled", "labeled", "all")
"""Images without a final label, with one, or both."""
_TRIES = 60
_PAUSE_S = 1.0
_LOOK_S = 0.5  # between two looks at whether a batch is to stop


async def start_batch(
    state: ViewerState, sent: Mapping[str, object], *, model: str, images: str, run_sync: str
) -> Task:
    """Start to segment images one after the other; each mask is stored as a label, failures are reported.

    Args:
        state: The server's parts.
        sent: The parameters as for one image; the clicks or the roi are used for every image.
        model: A key of `infer.MODELS`.
        images: One of `WHICH`.
        run_sync: Whether to answer when all is done.

    Raises:
        NotFound: There is no such model.
        InputError: There is no prompt.
        AlreadyRunning: A batch is running.
    """
    chosen_model = model_called(model)
    which = checked_choice(images, "images", WHICH)
    params = read_params({"label_tag": ORIGINAL, **sent, "save_label": True})
    if not params.has_prompt:
        raise InputError(
            "there is no prompt: give foreground clicks or a roi in the body, which are used for every image"
        )
    entries = (await asyncio.to_thread(state.datastore.entries)).values()
    chosen = [entry for entry in entries if which == "all" or (FINAL in entry.labels) == (which == "labeled")]

    async def work(task: Task) -> Mapping[str, object]:
        return await _segment_all(state, chosen_model, chosen, params, sent, task)

    request = {"model": model, "images": which, **sent}
    return await state.batches.start(request, work, waits=flag(run_sync, "run_sync"))


async def _segment_all(
    state: ViewerState,
    model: ViewerModel,
    entries: Sequence[ImageEntry],
    params: ViewerParams,
    sent: Mapping[str, object],
    task: Task,
) -> Mapping[str, object]:
    num_failed = 0
    for number, entry in enumerate(entries, start=1):
        if task.is_stopped:
            break
        place = f"{number} of {len(entries)}, {entry.image_id}"
        try:
            await _unless_stopped(_segment(state, model, entry, params, sent), task)
            task.details.append(f"{place}: {'stopped' if task.is_stopped else 'done'}")
        except MedSAM2Error as error:
            num_failed += 1
            task.details.append(f"{place}: {error}")
    return {"images": len(entries), "failed": num_failed}


async def _unless_stopped(work: Coroutine[None, None, None], task: Task) -> None:
    """Do some work, or cancel it when its task is told to stop."""
    job = asyncio.ensure_future(work)
    while not (await asyncio.wait({job}, timeout=_LOOK_S))[0]:
        if task.is_stopped:
            job.cancel()
    if not job.cancelled():
        job.result()


async def _segment(
    state: ViewerState,
    model: ViewerModel,
    entry: ImageEntry,
    params: ViewerParams,
    sent: Mapping[str, object],
) -> None:
    for attempt in range(_TRIES):
        reservation = Reservation(state.service.budget)
        try:
            with state.request_folder() as folder:
                source = await state.find_source(entry.image_id, folder)
                found = await find_mask(state, source, model, params, folder, reservation)
                await save_found(state, found, params, sent, folder)
            return
        except Busy:
            if attempt == _TRIES - 1:
                raise
        finally:
            reservation.close()
        await asyncio.sleep(_PAUSE_S)  # people at their viewers come first
