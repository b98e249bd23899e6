"""The published contract from Python: rows go out, masks come in."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from medsam2.client.connection import problem
from medsam2.client.upload import file_to_send
from medsam2.errors import InputError, MedSAM2Error
from medsam2.imaging.labels import from_coco_counts
from medsam2.imaging.volume import Volume

_IMAGE, _FORMAT, _FRAME = "nii_image", "mask_format", "frame"
_URLS = ("http://", "https://")


@dataclass(frozen=True, kw_only=True, eq=False)
class ScoredMask:
    """What a row of the contract's table gave."""

    mask: npt.NDArray[np.bool_]
    """`(z, y, x)` of the image."""
    metadata: Mapping[str, object]
    """As the contract has it: shape, spacing, origin, direction, the prompt."""


def table_of(rows: Sequence[Mapping[str, object]]) -> list[dict[str, object]]:
    """Make rows ready to be sent: images become text, masks come as run lengths.

    Raises:
        InputError: An image cannot be read, or is none.
    """
    return [{**row, **_cells_of(row), _FORMAT: "rle"} for row in rows]


def masks_of(answer: object) -> list[ScoredMask | MedSAM2Error]:
    """Read an answer: an object for one row, a list for several; a row that failed is an exception."""
    rows: list[Any] = answer if isinstance(answer, list) else [answer]
    return [problem(row["status"], row["error"]) if "error" in row else _scored(row) for row in rows]


def _cells_of(row: Mapping[str, object]) -> dict[str, object]:
    """A row's image as text, and its frame where that is left to the server."""
    image, frame = row.get(_IMAGE), row.get(_FRAME)
    if isinstance(image, str) and image.startswith(_URLS):
        return {}
    if not isinstance(image, (str, os.PathLike, Volume)):
        raise InputError(f"{_IMAGE} is a path, a Volume or a URL, not {type(image).__name__}")
    if frame is not None and (isinstance(frame, bool) or not isinstance(frame, int)):
        raise InputError(f"{_FRAME} is a whole number from 0, not {frame!r}")
    with file_to_send(image, as_nifti=True, frame=frame) as (path, left):
        text = base64.b64encode(path.read_bytes()).decode("ascii")
    return {_IMAGE: text, **({} if frame is None else {_FRAME: left})}


def _scored(row: Mapping[str, Any]) -> ScoredMask:
    metadata = row["metadata"]
    mask = np.zeros(tuple(metadata["shape"][::-1]), bool)
    for entry in row["mask"]:
        mask[entry["slice"]] = from_coco_counts(entry["counts"], tuple(entry["size"]))
    return ScoredMask(mask=mask, metadata=metadata)
