"""The contract as OpenAPI says it."""

from __future__ import annotations

from medsam2.serving.rows import MASK_FORMATS, MEMORIES
from medsam2.serving.table import REQUIRED, WRAPPERS

_STATUSES = {
    400: "Not JSON, or not the table.",
    401: "No key.",
    403: "The wrong key, or called by a name or a page that is not allowed.",
    408: "The body arrived too slowly.",
    413: "Too large.",
    422: "A value that cannot be; the sentence names row, column, value and what would do.",
    503: "The queue is full; try again after Retry-After.",
    504: "Too slow to fetch, to read or to compute.",
}


def _list_of(schema: dict[str, object], about: str) -> dict[str, object]:
    return {"type": "array", "items": schema, "description": about}


def _numbers(count: int) -> dict[str, object]:
    return {"type": "array", "items": {"type": "number"}, "minItems": count, "maxItems": count}


_COLUMNS: dict[str, object] = {
    "type": "object",
    "required": list(REQUIRED),
    "additionalProperties": False,
    "properties": {
        "nii_image": _list_of({"type": "string"}, "Base64 of a .nii or .nii.gz file, or a URL of one."),
        "bbox": _list_of(
            _numbers(4), "x_min, y_min, x_max, y_max in pixels of the key slice, both ends included."
        ),
        "key_slice_idx": _list_of({"type": "integer", "minimum": 0}, "The key slice, in the whole series."),
        "dicom_window": _list_of(_numbers(2), "Intensities shown as black and as white."),
        "slice_offset": _list_of({"type": "integer", "minimum": 0}, "The file's first slice in the series."),
        "points": _list_of({"type": "array", "items": _numbers(2)}, "x, y each, on the key slice."),
        "point_labels": _list_of({"type": "array", "items": {"enum": [0, 1]}}, "1 inside, 0 outside."),
        "mask_format": _list_of({"enum": list(MASK_FORMATS)}, "How the mask is written."),
        "memory": _list_of({"enum": list(MEMORIES)}, "Which slices the model looks back at."),
        "frame": _list_of({"type": "integer", "minimum": 0}, "Which volume of a 4D file, from 0."),
    },
}
_SPLIT: dict[str, object] = {
    "type": "object",
    "required": ["columns", "data"],
    "properties": {
        "columns": {"type": "array", "items": {"type": "string"}},
        "data": {"type": "array", "items": {"type": "array", "items": {}}},
    },
}
_RECORDS: dict[str, object] = {"type": "array", "items": {"type": "object"}}

SCORE_SCHEMA: dict[str, object] = {
    "required": True,
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "minProperties": 1,
                "properties": {name: {"anyOf": [_COLUMNS, _SPLIT, _RECORDS]} for name in WRAPPERS},
            }
        }
    },
}
SCORE_RESPONSES: dict[int | str, dict[str, object]] = {
    200: {"description": "A mask with its metadata; of several rows a list of masks and errors."},
    **{status: {"description": text} for status, text in _STATUSES.items()},
}
