"""Segment many images of the datastore with the same prompts, in the background."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import closing

from medsam2.errors import InputError, MedSAM2Error
from medsam2.serving.http_errors import Busy
from medsam2.serving.limits import Reservation
from medsam2.serving.monailabel.datastore import FINAL, ORIGINAL, ImageEntry
from medsam2.serving.monailabel.infer import ViewerRequest, find_mask, model_called
from medsam2.serving.monailabel.params import flag, read_params
from medsam2.serving.monailabel.state import Task, ViewerState, checked_choice

WHICH = ("unlabeled", "labeled", "all")
"""Images without a final label, with one, or both."""
_TRIES = 60
_PAUSE_S = 1.0


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
    params = {"label_tag": ORIGINAL, **sent, "save_label": True}
    request = ViewerRequest(model=model_called(model), params=read_params(params), sent=sent)
    which = checked_choice(images, "images", WHICH)
    if not request.params.has_prompt:
        raise InputError(
            "there is no prompt: give foreground clicks or a roi in the body, which are used for every image"
        )
    entries = (await asyncio.to_thread(state.datastore.entries)).values()
    chosen = [entry for entry in entries if which == "all" or (FINAL in entry.labels) == (which == "labeled")]

    async def work(task: Task) -> Mapping[str, object]:
        num_failed = 0
        for number, entry in enumerate(chosen, start=1):
            place = f"{number} of {len(chosen)}, {entry.image_id}"
            try:
                await _segment(state, request, entry)
                task.details.append(f"{place}: done")
            except asyncio.CancelledError:  # a client, or the end of the server, stops the batch
                task.details.append(f"{place}: stopped")
                break
            except MedSAM2Error as error:
                num_failed += 1
                task.details.append(f"{place}: {error}")
        return {"images": len(chosen), "failed": num_failed}

    about = {"model": model, "images": which, **sent}
    return await state.batches.start(about, work, waits=flag(run_sync, "run_sync"))


async def _segment(state: ViewerState, request: ViewerRequest, entry: ImageEntry) -> None:
    for attempt in range(_TRIES):
        try:
            with closing(Reservation(state.service.budget)) as reservation, state.request_folder() as folder:
                source = await state.find_source(entry.image_id, folder)
                await find_mask(state, source, request, folder, reservation)
            return
        except Busy:
            if attempt == _TRIES - 1:
                raise
        await asyncio.sleep(_PAUSE_S)  # people at their viewers come first
