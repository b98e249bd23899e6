"""Masks that go back to a viewer, and labels that people draw and send."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

import numpy as np
import orjson
from starlette.requests import Request
from starlette.responses import Response

from medsam2.errors import GeometryError, InputError
from medsam2.imaging.formats import itk
from medsam2.imaging.io import write
from medsam2.imaging.outputs.segments import as_labels
from medsam2.imaging.volume import Volume, match_order
from medsam2.serving.http_errors import shown
from medsam2.serving.limits import usage_of
from medsam2.serving.monailabel.datastore import FINAL, LABELS, PICTURES, RAW, Info, checked_tag, suffix_of
from medsam2.serving.monailabel.forms import Upload
from medsam2.serving.monailabel.images import Source, link_source
from medsam2.serving.monailabel.params import ViewerParams
from medsam2.serving.monailabel.state import ViewerState
from medsam2.serving.reader_process import MaskOrder, leave_order
from medsam2.serving.volumes import read_volume

OUTPUTS = ("all", "image", "json", "dicom_seg")
BINARY = "application/octet-stream"
DICOM = "application/dicom"


def write_mask(labels: Volume, folder: Path, params: ViewerParams, image_suffix: str) -> Path:
    """Write a mask on its image's grid.

    Args:
        labels: uint8, 0 outside.
        folder: For the file.
        params: Format and type of the mask.
        image_suffix: Suffix of the image: the mask gets it where no format is given and masks can have it.

    Returns:
        The file. Its name is unique, as viewers store masks by it in one folder.
    """
    suffix = params.result_extension or (
        image_suffix if image_suffix in (".nii", ".nrrd", ".mha") else ".nii.gz"
    )
    path = folder / f"mask-{secrets.token_hex(8)}{suffix}"
    volume = labels.with_array(labels.array.astype(np.dtype(params.result_dtype), copy=False))
    if suffix == ".nrrd":
        itk.write(volume, path, is_compressed=params.result_compress)
    else:
        write(volume, path)
    return path


def file_response(name: str, content: bytes, media_type: str = BINARY) -> Response:
    """A file by itself."""
    quoted = quote(name)  # the folder of a series may have any name
    filename = f'filename="{name}"' if quoted == name else f"filename*=utf-8''{quoted}"
    headers = {"Content-Disposition": f"attachment; {filename}"}
    return Response(content, media_type=media_type, headers=headers)


def form_response(params: Mapping[str, object], name: str, content: bytes) -> Response:
    """A form with the parameters and a file; Slicer's client fails on an answer without a file."""
    boundary = secrets.token_hex(16)
    params_head = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="params"\r\n'
        "Content-Type: application/json\r\n\r\n"
    )
    file_head = (
        f'\r\n--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n'
        f"Content-Type: {BINARY}\r\n\r\n"
    )
    end = f"\r\n--{boundary}--\r\n"
    body = b"".join((params_head.encode(), orjson.dumps(params), file_head.encode(), content, end.encode()))
    return Response(body, media_type=f"multipart/form-data; boundary={boundary}")


_KIND = "dicom-seg"
_SEGMENTATION = "segmentation.dcm"
_OURS = ".nii.gz"


async def take_label(state: ViewerState, request: Request, *, image: str, tag: str) -> dict[str, object]:
    """Store the label that a request brings.

    Args:
        state: The server's parts.
        request: Its body is a form with a file `label` and `params`.
        image: Id in the datastore.
        tag: Of the label; the one for approved labels if empty.

    Returns:
        `image` and `label`, both the id of the image.

    Raises:
        NotFound: There is no such image.
        InputError: This is not a label of it.
    """
    tag = checked_tag(tag or FINAL)
    form = await state.read_form(request)
    upload = form.file("label")
    if upload is None:
        raise InputError("the form has no file called label")
    params = form.json("params")
    info = {"label_info": params.get("label_info") or [], "params": params}
    reservation = usage_of(request.scope).reservation
    with state.request_folder() as folder:
        source = await state.find_source(image, folder)
        assert source.entry is not None
        image_id = source.entry.image_id
        volume = await state.open_source(source, folder, reservation)
        if upload.name.lower().endswith(RAW):
            labels = await asyncio.to_thread(_raw_labels, upload, volume)
            await store_label(state, source, tag, labels, folder, info)
        else:
            suffix = suffix_of(upload.name, LABELS, "the label")
            path = folder / f"sent-label{suffix}"
            await asyncio.to_thread(path.write_bytes, upload.content)
            labels = await read_volume(path, state.service, reservation)
            is_placed = source.suffix not in PICTURES
            labels = await asyncio.to_thread(_checked, labels, volume, is_placed=is_placed)
            if state.datastore.is_archive:
                await store_label(state, source, tag, labels, folder, info)
            else:  # unchanged
                await asyncio.to_thread(state.datastore.store_label, source.entry, tag, path, suffix, info)
    return {"image": image_id, "label": image_id, "tag": tag}


async def store_label(
    state: ViewerState, source: Source, tag: str, labels: Volume, folder: Path, info: Info
) -> None:
    """Store labels on their image's grid; an archive gets approved ones as DICOM segmentation.

    Args:
        state: The server's parts.
        source: The image, of the datastore.
        tag: Of the label.
        labels: Whole numbers.
        folder: Of ours, for this request.
        info: Facts about them; `label_info` names them.

    Raises:
        InputError: They are empty, and a segmentation cannot be.
    """
    assert source.entry is not None
    if state.datastore.is_archive and tag == FINAL:
        path = await write_segmentation(state, labels, source, folder, names_of(info))
        suffix = path.suffix
    else:
        path, suffix = folder / f"stored-label{_OURS}", _OURS
        await asyncio.to_thread(write, labels, path)
    await asyncio.to_thread(state.datastore.store_label, source.entry, tag, path, suffix, info)


async def write_segmentation(
    state: ViewerState, labels: Volume, source: Source, folder: Path, names: Mapping[int, str]
) -> Path:
    """Write labels as DICOM segmentation, in the process that reads the series that they refer to.

    Args:
        state: Lends the process.
        labels: On the series' grid.
        source: The series.
        folder: Of ours, for this request.
        names: Label to name.

    Raises:
        InputError: The labels are empty, or the series cannot be referred to.
    """
    place = folder / "referring"
    await asyncio.to_thread(place.mkdir)
    series = await link_source(source, place)
    weights = Path(state.service.settings.weights).name
    order = MaskOrder(kind=_KIND, target=_SEGMENTATION, names=names, weights=weights)
    await asyncio.to_thread(leave_order, place, labels, order)
    async with state.service.readers.lend() as reader:
        await reader.write(series)
    return place / _SEGMENTATION


def names_of(info: Info) -> dict[int, str]:
    """Names by label, from `[{"name": ..., "idx": ...}, ...]`; entries of another form are skipped."""
    listed = info.get("label_info")
    names: dict[int, str] = {}
    for one in listed if isinstance(listed, list) else []:
        if isinstance(one, dict) and isinstance(one.get("idx"), int) and isinstance(one.get("name"), str):
            names[one["idx"]] = one["name"]
    return names


def _raw_labels(upload: Upload, volume: Volume) -> Volume:
    """Put the voxels that a browser sent on the image's grid; x runs fastest."""
    size = volume.array.size
    kind = {size: "u1", 2 * size: "<u2"}.get(len(upload.content))
    if kind is None:
        raise InputError(
            f"the label has {len(upload.content)} bytes; the image has {size} voxels of 1 or 2 bytes"
        )
    return volume.with_array(np.frombuffer(upload.content, kind).reshape(volume.shape))


def _checked(labels: Volume, volume: Volume, *, is_placed: bool) -> Volume:
    """Check that a label holds whole numbers and lies on the image's grid."""
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
