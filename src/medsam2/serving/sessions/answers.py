"""A session as callers see it, and the files that it gives away."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, TYPE_CHECKING

import numpy as np
from starlette.background import BackgroundTask
from starlette.responses import Response, StreamingResponse

from medsam2.errors import InputError
from medsam2.imaging.io import write
from medsam2.imaging.labels import coco_counts
from medsam2.imaging.outputs.write import NEEDS_SOURCE, SUFFIXES, write_labels
from medsam2.imaging.volume import Volume
from medsam2.measure.sizes import measure_objects
from medsam2.serving.reader_process import MaskOrder, leave_order
from medsam2.serving.service import Service
from medsam2.serving.sessions.schemas import (
    Measurements,
    ObjectInfo,
    PromptedSlice,
    PromptInfo,
    SessionInfo,
    SessionMasks,
    SessionState,
)
from medsam2.serving.sessions.store import Masks, OpenSession

if TYPE_CHECKING:
    from medsam2.inference.session import Session
    from medsam2.prompts.types import Prompt


def session_info(opened: OpenSession, idle_timeout_s: float) -> SessionInfo:
    """Describe a session, without what changes in it."""
    session, volume = opened.session, opened.session.grid.volume
    return SessionInfo(
        id=opened.id,
        name=opened.name,
        shape=session.grid.shape,
        file_shape=volume.shape,
        axis=session.grid.axis,
        spacing=volume.spacing,
        origin=volume.origin,
        direction=volume.direction,
        window=(session.window.lower, session.window.upper),
        idle_timeout_s=idle_timeout_s,
    )


def session_state(opened: OpenSession, idle_timeout_s: float) -> SessionState:
    """Describe a session as it is; the caller has its lock."""
    session, status = opened.session, opened.session.status
    return SessionState(
        **dict(session_info(opened, idle_timeout_s)),
        objects=[_object(session, number) for number in status.objects],
        can_undo=status.can_undo,
        can_redo=status.can_redo,
        is_propagated=status.is_propagated,
    )


def add_prompt(session: Session, number: int, prompt: Prompt) -> PromptedSlice:
    """Prompt an object and show it in the slice of the prompt."""
    mask = session.add(number, prompt)
    z = prompt.slice_index
    return PromptedSlice(
        object=number,
        slice=z,
        size=mask.shape,
        mask=coco_counts(mask),
        confidence=session.object(number).scores()[z],
    )


def find_masks(session: Session) -> Masks:
    """The masks of all slices visited so far, as `TrackedObject.mask` has them."""
    found: Masks = {}
    for number in session.status.objects:
        stack = session.object(number).mask()
        for z in np.flatnonzero(stack.any(axis=(1, 2))).tolist():
            found.setdefault(z, {})[number] = coco_counts(stack[z])
    return dict(sorted(found.items()))


def masks_answer(session: Session, masks: Masks, slice_index: int | None) -> SessionMasks:
    """The masks of one slice, or of all."""
    confidence: dict[int, dict[int, float]] = {}
    for number in session.status.objects:
        for z, score in session.object(number).scores().items():
            confidence.setdefault(z, {})[number] = score
    wanted = masks.keys() | confidence.keys() if slice_index is None else {slice_index}
    return SessionMasks(
        size=session.grid.shape[1:],
        slices={z: masks[z] for z in sorted(wanted & masks.keys())},
        confidence={z: confidence[z] for z in sorted(wanted & confidence.keys())},
    )


def measure(session: Session) -> Measurements:
    """Measure every object, on the labels where no voxel belongs to two."""
    return Measurements(
        objects=measure_objects(session.result(), session.grid.volume, axis=session.grid.axis)
    )


def _object(session: Session, number: int) -> ObjectInfo:
    return ObjectInfo(
        number=number,
        slices=sorted(session.object(number).scores()),
        prompts=[_prompt_info(prompt) for _, prompt in sorted(session.object(number).prompts().items())],
    )


def _prompt_info(prompt: Prompt) -> PromptInfo:
    return PromptInfo(
        slice=prompt.slice_index,
        box=None if prompt.box is None else prompt.box.xyxy,
        points=[(point.x, point.y) for point in prompt.points],
        labels=[int(point.is_positive) for point in prompt.points],
        has_mask=prompt.mask is not None,
    )


_VOLUME = "volume.nii.gz"
_PART_SIZE = 1 << 18
_STEM_LENGTH = 60
_ENDINGS = re.compile(r"(\.nii|\.seg)?\.[A-Za-z0-9]{2,5}$")


async def volume_file(service: Service, opened: OpenSession) -> Response:
    """The volume as it was opened, on its own grid, for a viewer.

    Raises:
        NotFound: The session has ended.
        InputError: NIfTI has no such voxels.
    """
    async with opened.locked() as session:
        path = opened.folder / _VOLUME
        if not path.exists():
            await service.workers.run(partial(write, session.grid.volume, path))
        file = path.open("rb")  # it stays readable when the session ends
    return _sent(file, path, f"{_stem(opened.name)}.nii.gz")


async def masks_file(service: Service, opened: OpenSession, kind: str, names: Mapping[int, str]) -> Response:
    """The masks in one of the formats of `imaging.outputs.write`.

    Raises:
        NotFound: The session has ended.
        InputError: The masks cannot be written so, a name is not usable, or the scan is not the DICOM series
            that this format refers to.
    """
    async with opened.locked() as session:
        labels = await service.workers.run(session.result)
        with TemporaryDirectory(dir=opened.folder) as folder:
            path = Path(folder) / f"mask{SUFFIXES[kind][0]}"
            if kind in NEEDS_SOURCE:
                await _write_for_series(service, opened, labels, path, kind, names)
            else:
                path = await service.workers.run(partial(_write, labels, path, kind, names))
            file = path.open("rb")  # it stays readable without its folder
    return _sent(file, path, f"{_stem(opened.name)}_{path.name}")


def _write(labels: Volume, path: Path, kind: str, names: Mapping[int, str]) -> Path:
    """Write masks to a file; several files, as of surfaces, become an archive."""
    try:
        written = write_labels(labels, path, kind=kind, names=names)
    except InputError as error:
        raise _without_path(error, path) from error
    if len(written) == 1:
        return written[0]
    archive = path.with_name("masks.zip")
    with zipfile.ZipFile(archive, "x", zipfile.ZIP_DEFLATED) as packed:
        for one in written:
            packed.write(one, one.name)
    return archive


async def _write_for_series(
    service: Service, opened: OpenSession, labels: Volume, path: Path, kind: str, names: Mapping[int, str]
) -> None:
    if opened.source is None:
        raise InputError(f"{kind} refers to a DICOM series, and this session was opened from another file")
    weights = Path(opened.weights).name
    order = MaskOrder(kind=kind, target=path.name, names=names, weights=weights, frame=opened.frame)
    await service.workers.run(partial(leave_order, path.parent, labels, order))
    source = path.with_name(opened.source.name)
    source.symlink_to(opened.source.resolve())
    async with service.readers.lend() as reader:
        await reader.write(source)


def _without_path(error: InputError, path: Path) -> InputError:
    """The error without a path of this machine."""
    return type(error)(str(error).replace(f"{path}: ", "").replace(str(path.parent), "temporary files"))


def _sent(file: IO[bytes], path: Path, name: str) -> Response:
    headers = {
        "Content-Disposition": f'attachment; filename="{name}"',
        "Content-Length": str(file.seek(0, 2)),
    }
    file.seek(0)
    media_type = "application/gzip" if path.suffix == ".gz" else "application/octet-stream"
    return StreamingResponse(
        _parts(file), headers=headers, media_type=media_type, background=BackgroundTask(file.close)
    )


def _parts(file: IO[bytes]) -> Iterator[bytes]:
    while part := file.read(_PART_SIZE):
        yield part


def _stem(name: str) -> str:
    """The letters, digits and `._-` of a scan's name, for the beginning of a file's name."""
    safe = re.sub(r"[^A-Za-z0-9._-]+", "_", _ENDINGS.sub("", name))[:_STEM_LENGTH].strip("._-")
    return safe or "scan"
