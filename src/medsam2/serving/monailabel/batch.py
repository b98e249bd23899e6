"""Segment many images of the datastore with the same prompts, in the background."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path

from medsam2.errors import MedSAM2Error
from medsam2.serving.http_errors import Fault
from medsam2.serving.limits import Reservation
from medsam2.serving.monailabel.datastore import FINAL, ORIGINAL, ImageEntry
from medsam2.serving.monailabel.dialect import Dialect, checked_choice
from medsam2.serving.monailabel.images import find_source
from medsam2.serving.monailabel.infer import ViewerModel, find_mask, model_called, save_found
from medsam2.serving.monailabel.requests import Asked, flag, read_asked
from medsam2.serving.monailabel.tasks import Task

WHICH = ("unlabeled", "labeled", "all")
"""Images without a final label, with one, or both."""
_BUSY = 503
_TRIES = 60
_PAUSE_S = 1.0
_LOOK_S = 0.5  # between two looks at whether a batch is to stop


async def start_batch(
    dialect: Dialect, params: Mapping[str, object], *, model: str, images: str, run_sync: str
) -> Task:
    """Start to segment images one after the other; each mask is stored as a label, failures are reported.

    Args:
        dialect: The server's parts.
        params: As for one image; the clicks or the roi are used for every image.
        model: A key of `infer.MODELS`.
        images: One of `WHICH`.
        run_sync: Whether to answer when all is done.

    Raises:
        Fault: 404, there is no such model; 422, there is no prompt; 429, a batch is running.
    """
    chosen_model = model_called(model)
    which = checked_choice(images, "images", WHICH)
    asked = read_asked({"label_tag": ORIGINAL, **params, "save_label": True})
    if not asked.says_something:
        raise Fault(
            422,
            "there is no prompt: give foreground clicks or a roi in the body, which are used for every image",
        )
    entries = (await asyncio.to_thread(dialect.studies.entries)).values()
    chosen = [entry for entry in entries if which == "all" or (FINAL in entry.labels) == (which == "labeled")]

    async def work(task: Task) -> Mapping[str, object]:
        return await _segment_all(dialect, chosen_model, chosen, asked, params, task)

    request = {"model": model, "images": which, **params}
    return await dialect.batches.start(request, work, waits=flag(run_sync, "run_sync", default=False))


async def _segment_all(
    dialect: Dialect,
    model: ViewerModel,
    entries: Sequence[ImageEntry],
    asked: Asked,
    params: Mapping[str, object],
    task: Task,
) -> Mapping[str, object]:
    num_failed = 0
    for number, entry in enumerate(entries, start=1):
        if task.is_stopped:
            break
        place = f"{number} of {len(entries)}, {entry.image_id}"
        try:
            await _unless_stopped(_segment(dialect, model, entry, asked, params), task)
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
    dialect: Dialect, model: ViewerModel, entry: ImageEntry, asked: Asked, params: Mapping[str, object]
) -> None:
    for attempt in range(_TRIES):
        reservation = Reservation(dialect.service.budget)
        try:
            with tempfile.TemporaryDirectory(dir=dialect.service.folder, ignore_cleanup_errors=True) as name:
                folder = Path(name)
                source = await find_source(dialect, image=entry.image_id, folder=folder)
                found = await find_mask(dialect, source, model, asked, folder, reservation)
                await save_found(dialect, found, asked, params, folder)
            return
        except Fault as fault:
            if fault.status != _BUSY or attempt == _TRIES - 1:
                raise
        finally:
            reservation.close()
        await asyncio.sleep(_PAUSE_S)  # people at their viewers come first
