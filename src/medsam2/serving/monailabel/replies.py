"""What goes back to a viewer: a mask in the form that it asked for, with what is to be said of it."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

import numpy as np
import orjson
from starlette.responses import Response

from medsam2.imaging import itk
from medsam2.imaging.io import write
from medsam2.imaging.volume import Volume
from medsam2.serving.monailabel.asked import ResultForm

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
