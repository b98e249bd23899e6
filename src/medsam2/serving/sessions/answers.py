"""A session as callers see it, and the files that it gives away."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import orjson
from starlette.background import BackgroundTask
from starlette.responses import Response, StreamingResponse

from medsam2.errors import InputError
from medsam2.imaging.io import write
from medsam2.imaging.labels import coco_counts
from medsam2.imaging.outputs.write import NEEDS_SOURCE, SUFFIXES, write_labels
from medsam2.imaging.volume import Volume
from medsam2.measure.sizes import measure_objects
from medsam2.serving.http_errors import Fault
from medsam2.serving.reading import Referring, leave_order
from medsam2.serving.service import Service
from medsam2.serving.sessions.store import Masks, OpenSession

if TYPE_CHECKING:
    from medsam2.inference.session import Session
    from medsam2.prompts.types import Prompt

Answer = dict[str, object]


def json_response(answer: Answer, status: int = 200) -> Response:
    """Answer with an object."""
    return Response(
        orjson.dumps(answer, option=orjson.OPT_NON_STR_KEYS), status, media_type="application/json"
    )


def described(opened: OpenSession, idle_timeout_s: float) -> Answer:
    """What a session is, from its first to its last moment."""
    session, volume = opened.session, opened.session.volume
    return {
        "id": opened.id,
        "name": opened.name,
        "shape": session.shape,
        "file_shape": volume.shape,
        "axis": session.axis,
        "spacing": volume.spacing,
        "origin": volume.origin,
        "direction": volume.direction,
        "window": (session.window.lower, session.window.upper),
        "idle_timeout_s": idle_timeout_s,
    }


def state(opened: OpenSession, idle_timeout_s: float) -> Answer:
    """What a session is at the moment; to be asked for while it is held."""
    session = opened.session
    return {
        **described(opened, idle_timeout_s),
        "objects": [_object(session, number) for number in session.objects],
        "can_undo": session.can_undo,
        "can_redo": session.can_redo,
        "is_propagated": session.is_propagated,
    }


def preview(session: Session, number: int, slice_index: int, mask: npt.NDArray[np.bool_]) -> Answer:
    """An object in the slice that something was just said about."""
    return {
        "object": number,
        "slice": slice_index,
        "size": mask.shape,
        "mask": coco_counts(mask),
        "confidence": session.scores(number)[slice_index],
    }


def step_of(session: Session, slice_index: int, masks: Mapping[int, npt.NDArray[np.bool_]]) -> Answer:
    """The objects that were followed into a slice."""
    return {
        "slice": slice_index,
        "masks": {number: coco_counts(mask) for number, mask in masks.items() if mask.any()},
        "confidence": {number: session.scores(number)[slice_index] for number in masks},
    }


def masks_of(session: Session) -> Masks:
    """The objects in all slices visited so far, as `Session.mask` has them."""
    found: Masks = {}
    for number in session.objects:
        stack = session.mask(number)
        for z in np.flatnonzero(stack.any(axis=(1, 2))).tolist():
            found.setdefault(z, {})[number] = coco_counts(stack[z])
    return dict(sorted(found.items()))


def masks_answer(session: Session, masks: Masks, slice_index: int | None) -> Answer:
    """Masks of one slice or of all."""
    confidence: dict[int, dict[int, float]] = {}
    for number in session.objects:
        for z, score in session.scores(number).items():
            confidence.setdefault(z, {})[number] = score
    wanted = masks.keys() | confidence.keys() if slice_index is None else {slice_index}
    return {
        "size": session.shape[1:],
        "slices": {z: masks[z] for z in sorted(wanted & masks.keys())},
        "confidence": {z: confidence[z] for z in sorted(wanted & confidence.keys())},
    }


def measured(session: Session) -> Answer:
    """Measurements of every object, on the labels where no voxel belongs to two."""
    found = measure_objects(session.result(), session.volume, axis=session.axis)
    return {"objects": [asdict(one) for one in found]}


def _object(session: Session, number: int) -> Answer:
    return {
        "number": number,
        "slices": sorted(session.scores(number)),
        "prompts": [_prompt(prompt) for _, prompt in sorted(session.prompts(number).items())],
    }


def _prompt(prompt: Prompt) -> Answer:
    return {
        "slice": prompt.slice_index,
        "box": None if prompt.box is None else prompt.box.xyxy,
        "points": [(point.x, point.y) for point in prompt.points],
        "labels": [int(point.is_positive) for point in prompt.points],
        "has_mask": prompt.mask is not None,
    }


_VOLUME = "volume.nii.gz"
_PART_SIZE = 1 << 18
_STEM_LENGTH = 60
_ENDINGS = re.compile(r"(\.nii|\.seg)?\.[A-Za-z0-9]{2,5}$")


async def volume_file(service: Service, opened: OpenSession) -> Response:
    """The volume as it was opened, on its own grid, for a viewer.

    Raises:
        Fault: 404, the session has ended.
        InputError: NIfTI has no such voxels.
    """
    async with opened.held() as session:
        path = opened.folder / _VOLUME
        if not path.exists():
            await service.hands.run(partial(write, session.volume, path))
        file = path.open("rb")  # it stays readable when the session ends
    return _sent(file, path, f"{_stem(opened.name)}.nii.gz")


async def masks_file(service: Service, opened: OpenSession, kind: str, names: Mapping[int, str]) -> Response:
    """The masks in one of the forms of `imaging.outputs.write`.

    Raises:
        Fault: 404, the session has ended; 422, the scan is not the DICOM series that this form refers to.
        InputError: The masks cannot be written so, or a name is not usable.
    """
    async with opened.held() as session:
        labels = await service.hands.run(session.result)
        with TemporaryDirectory(dir=opened.folder) as folder:
            path = Path(folder) / f"mask{SUFFIXES[kind][0]}"
            if kind in NEEDS_SOURCE:
                await _write_for_series(service, opened, labels, path, kind, names)
            else:
                path = await service.hands.run(partial(_write, labels, path, kind, names))
            file = path.open("rb")  # all that is left of it
    return _sent(file, path, f"{_stem(opened.name)}_{path.name}")


def _write(labels: Volume, path: Path, kind: str, names: Mapping[int, str]) -> Path:
    """Write masks to a file; of several, as with surfaces, make an archive."""
    try:
        written = write_labels(labels, path, kind=kind, names=names)
    except InputError as error:
        raise _about(error, path) from error
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
        raise Fault(422, f"{kind} refers to a DICOM series, and this session was opened from another file")
    weights = Path(opened.weights).name
    order = Referring(kind=kind, target=path.name, names=names, weights=weights, frame=opened.frame)
    await service.hands.run(partial(leave_order, path.parent, labels, order))
    source = path.with_name(opened.source.name)
    source.symlink_to(opened.source.resolve())
    async with service.readers.lend() as reader:
        await reader.write(source)


def _about(error: InputError, path: Path) -> InputError:
    """The error without the place on this machine."""
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
    """What a user calls a scan as the beginning of a file's name: letters, digits and `._-` of it."""
    safe = re.sub(r"[^A-Za-z0-9._-]+", "_", _ENDINGS.sub("", name))[:_STEM_LENGTH].strip("._-")
    return safe or "scan"
