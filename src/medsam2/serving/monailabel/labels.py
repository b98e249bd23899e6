"""Masks that go back to a viewer, and labels that people draw and send."""

from __future__ import annotations

import asyncio
import secrets
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from urllib.parse import quote

import numpy as np
import orjson
from starlette.requests import Request
from starlette.responses import Response

from medsam2.errors import GeometryError
from medsam2.imaging.formats import itk
from medsam2.imaging.io import write
from medsam2.imaging.outputs.segments import as_labels
from medsam2.imaging.volume import Volume, match_order
from medsam2.serving.http_errors import Fault, shown
from medsam2.serving.limits import Reservation, usage_of
from medsam2.serving.monailabel.datastore import FINAL, LABELS, RAW, checked_tag, is_picture, suffix_of
from medsam2.serving.monailabel.dialect import Dialect, read_sent_form
from medsam2.serving.monailabel.forms import Upload
from medsam2.serving.monailabel.images import Source, find_source, link_source, open_source
from medsam2.serving.monailabel.requests import ResultForm
from medsam2.serving.reading import Referring, leave_order
from medsam2.serving.volumes import read_volume

OUTPUTS = ("all", "image", "json", "dicom_seg")
BINARY = "application/octet-stream"
DICOM = "application/dicom"
_LINE = b"\r\n"


def write_mask(labels: Volume, folder: Path, form: ResultForm, image_suffix: str) -> Path:
    """Write a mask on its image's grid.

    Args:
        labels: uint8, 0 outside.
        folder: Where.
        form: How it is asked for.
        image_suffix: Of the image, which the mask has too if nothing is asked for and masks are so written.

    Returns:
        The file, under a name that nobody else has: viewers store masks beside each other by it.
    """
    suffix = form.suffix or (image_suffix if image_suffix in (".nii", ".nrrd", ".mha") else ".nii.gz")
    path = folder / f"mask-{secrets.token_hex(8)}{suffix}"
    volume = labels.with_array(labels.array.astype(np.dtype(form.dtype), copy=False))
    if suffix == ".nrrd":
        itk.write(volume, path, is_compressed=form.is_compressed)
    else:
        write(volume, path)
    return path


def file_response(name: str, content: bytes, media_type: str = BINARY) -> Response:
    """A file by itself."""
    quoted = quote(name)  # the folder of a series may be called anything
    filename = f'filename="{name}"' if quoted == name else f"filename*=utf-8''{quoted}"
    headers = {"Content-Disposition": f"attachment; {filename}"}
    return Response(content, media_type=media_type, headers=headers)


def form_response(params: Mapping[str, object], name: str, content: bytes) -> Response:
    """A form with the parameters and a file, which Slicer's client takes for granted."""
    boundary = secrets.token_hex(16)
    head = _LINE.join(
        (
            f"--{boundary}".encode(),
            b'Content-Disposition: form-data; name="params"',
            b"Content-Type: application/json",
            b"",
            orjson.dumps(params),
            f"--{boundary}".encode(),
            f'Content-Disposition: form-data; name="image"; filename="{name}"'.encode(),
            f"Content-Type: {BINARY}".encode(),
            b"",
            b"",
        )
    )
    body = b"".join((head, content, _LINE, f"--{boundary}--".encode(), _LINE))
    return Response(body, media_type=f"multipart/form-data; boundary={boundary}")


_KIND = "dicom-seg"
_SEGMENTATION = "segmentation.dcm"
_OURS = ".nii.gz"

Info = Mapping[str, object]


async def take_label(dialect: Dialect, request: Request, *, image: str, tag: str) -> dict[str, object]:
    """Store the label that a request brings.

    Args:
        dialect: The server's parts.
        request: Its body is a form with a file `label` and `params`.
        image: Id in the datastore.
        tag: Of the label; the one for approved labels if empty.

    Returns:
        `image` and `label`, the ids that it is known by.

    Raises:
        Fault: 404, there is no such image; 422, this is no label of it.
    """
    tag = checked_tag(tag or FINAL)
    form = await read_sent_form(dialect, request)
    upload = form.file("label")
    if upload is None:
        raise Fault(422, "the form has no file called label")
    params = form.json("params")
    info = {"label_info": params.get("label_info") or [], "params": params}
    reservation = usage_of(request.scope).reservation
    with tempfile.TemporaryDirectory(dir=dialect.service.folder, ignore_cleanup_errors=True) as name:
        folder = Path(name)
        source = await find_source(dialect, image=image, folder=folder)
        assert source.entry is not None
        image_id = source.entry.image_id
        volume = await open_source(dialect, source, folder, reservation)
        if upload.name.lower().endswith(RAW):
            labels = await asyncio.to_thread(_raw_labels, upload, volume)
            await store_label(dialect, source, tag, labels, folder, info)
        else:
            suffix = suffix_of(upload.name, LABELS, "the label")
            path = folder / f"sent-label{suffix}"
            await asyncio.to_thread(path.write_bytes, upload.content)
            labels = await _read_labels(dialect, path, volume, source, reservation)
            if dialect.studies.is_archive:
                await store_label(dialect, source, tag, labels, folder, info)
            else:  # as it was sent
                await asyncio.to_thread(dialect.studies.store_label, source.entry, tag, path, suffix, info)
    return {"image": image_id, "label": image_id, "tag": tag}


async def store_label(
    dialect: Dialect, source: Source, tag: str, labels: Volume, folder: Path, info: Info
) -> None:
    """Store labels on their image's grid; an archive gets approved ones as DICOM segmentation.

    Args:
        dialect: The server's parts.
        source: The image, of the datastore.
        tag: Of the label.
        labels: Whole numbers.
        folder: Of ours, for this request.
        info: What is known of them; `label_info` names them.

    Raises:
        Fault: 422, there is nothing in them, and a segmentation cannot be empty.
    """
    assert source.entry is not None
    if dialect.studies.is_archive and tag == FINAL:
        path = await write_segmentation(dialect, labels, source, folder, names_of(info))
        suffix = path.suffix
    else:
        path, suffix = folder / f"stored-label{_OURS}", _OURS
        await asyncio.to_thread(write, labels, path)
    await asyncio.to_thread(dialect.studies.store_label, source.entry, tag, path, suffix, info)


async def write_segmentation(
    dialect: Dialect, labels: Volume, source: Source, folder: Path, names: Mapping[int, str]
) -> Path:
    """Write labels as DICOM segmentation, in the process that reads the series that they refer to.

    Args:
        dialect: Lends the process.
        labels: On the series' grid.
        source: The series.
        folder: Of ours, for this request.
        names: Label to name.

    Raises:
        Fault: 422, there is nothing in the labels, or the series cannot be referred to.
    """
    place = folder / "referring"
    await asyncio.to_thread(place.mkdir)
    series = await link_source(source, place)
    weights = Path(dialect.service.settings.weights).name
    order = Referring(kind=_KIND, target=_SEGMENTATION, names=names, weights=weights)
    await asyncio.to_thread(leave_order, place, labels, order)
    async with dialect.service.readers.lend() as reader:
        await reader.write(series)
    return place / _SEGMENTATION


def names_of(info: Info) -> dict[int, str]:
    """The names of labels, from `[{"name": ..., "idx": ...}, ...]`; those that say it otherwise get none."""
    listed = info.get("label_info")
    names: dict[int, str] = {}
    for one in listed if isinstance(listed, list) else []:
        if isinstance(one, dict) and isinstance(one.get("idx"), int) and isinstance(one.get("name"), str):
            names[one["idx"]] = one["name"]
    return names


def _raw_labels(upload: Upload, volume: Volume) -> Volume:
    """The voxels that a browser sent, x fastest, on the image's grid.

    Raises:
        Fault: 422, they are not as many as the image's.
    """
    size = volume.array.size
    kind = {size: "u1", 2 * size: "<u2"}.get(len(upload.content))
    if kind is None:
        raise Fault(
            422, f"the label has {len(upload.content)} bytes; the image has {size} voxels of 1 or 2 bytes"
        )
    return volume.with_array(np.frombuffer(upload.content, kind).reshape(volume.shape))


async def _read_labels(
    dialect: Dialect, path: Path, volume: Volume, source: Source, reservation: Reservation
) -> Volume:
    """Read a label, and make sure that it can be used with its image.

    Raises:
        InputError: It does not hold whole numbers.
        GeometryError: It does not lie on the image's grid.
    """
    labels = await read_volume(path, dialect.service, reservation)
    return await asyncio.to_thread(partial(_checked, labels, volume, is_placed=not is_picture(source.suffix)))


def _checked(labels: Volume, volume: Volume, *, is_placed: bool) -> Volume:
    labels = as_labels(labels)
    if not is_placed:
        if labels.shape != volume.shape:
            raise GeometryError(
                f"the label has {shown(labels.shape)} voxels (z, y, x), the image {shown(volume.shape)}"
            )
        return labels
    try:
        return volume.with_array(match_order(labels, volume))
    except GeometryError as error:
        raise GeometryError(f"the label does not belong to the image: {error}") from None
