"""What callers of a session request, as values and as OpenAPI."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeGuard

import numpy as np
import numpy.typing as npt

from medsam2.errors import GeometryError
from medsam2.imaging.intensity import WINDOW_PRESETS, Window
from medsam2.imaging.labels import from_coco_counts
from medsam2.imaging.outputs.write import SUFFIXES
from medsam2.serving.http_errors import Fault, shown
from medsam2.serving.rows import MAX_POINTS, MEMORIES, json_in

MAX_JSON_BYTES = 32 * 2**20
"""Of a request in JSON: the run lengths of the most ragged mask of a large slice."""
PLANES = ("axial", "coronal", "sagittal")
_OPENING_KEYS = ("path", "window", "plane", "memory", "frame")
_PROMPT_KEYS = ("object", "slice", "box", "points", "labels", "mask")
_MAX_NAME = 100
# Short runs take a letter each and long ones hardly more, so that twice the pixels is more than enough.
_LETTERS_PER_PIXEL, _SPARE = 2, 64


@dataclass(frozen=True, kw_only=True)
class Opening:
    """How a volume is to be opened."""

    name: str
    """What its user calls it, or where it lies below the server's folder."""
    window: str | tuple[float, float] | None
    plane: str | None
    memory: str
    frame: int | None
    """Which volume of a 4D file, from 0."""


@dataclass(frozen=True, kw_only=True)
class PromptRequest:
    """What is said about an object in one slice; whether it lies in the volume is seen with the volume."""

    number: int
    slice_index: int
    box: list[float] | None
    points: list[list[float]] | None
    labels: list[int] | None
    mask: npt.NDArray[np.bool_] | None
    """`(y, x)` of the slice."""


def opening_of_query(query: Mapping[str, str]) -> Opening:
    """Read how an uploaded file is to be opened.

    Raises:
        Fault: 422, a value cannot be.
    """
    window: object = query.get("window")
    if isinstance(window, str) and "," in window:
        window = [_number_or_text(part) for part in window.split(",")]
    return Opening(
        name=_name(query.get("name", "")),
        window=_window(window or None),
        plane=_plane(query.get("plane") or None),
        memory=_memory(query.get("memory") or None),
        frame=whole_number("frame", query["frame"]) if query.get("frame") else None,
    )


def opening_of_json(body: bytes | bytearray) -> Opening:
    """Read which file of the server is to be opened, and how.

    Raises:
        Fault: 400, this is not such an object; 422, a value cannot be.
    """
    given = _object(body, _OPENING_KEYS, "a file to open")
    path = given.get("path")
    if not isinstance(path, str) or not path:
        raise Fault(422, f"path is {shown(path)}; the path of a file, from the server's folder, is expected")
    return Opening(
        name=path,
        window=_window(given.get("window")),
        plane=_plane(given.get("plane")),
        memory=_memory(given.get("memory")),
        frame=None if given.get("frame") is None else _whole("frame", given["frame"]),
    )


def prompt_of(body: bytes | bytearray, shape_yx: tuple[int, int]) -> PromptRequest:
    """Read what is said about an object.

    Args:
        body: JSON.
        shape_yx: Of the session's slices.

    Raises:
        Fault: 400, this is not such an object; 422, a value cannot be.
    """
    given = _object(body, _PROMPT_KEYS, "a prompt")
    return PromptRequest(
        number=_whole("object", given.get("object")),
        slice_index=_whole("slice", given.get("slice")),
        box=_numbers("box", given.get("box"), "four numbers [x_min, y_min, x_max, y_max]"),
        points=_points(given.get("points")),
        labels=_labels(given.get("labels")),
        mask=_mask(given.get("mask"), shape_yx),
    )


def whole_number(name: str, text: str) -> int:
    """Read a number of an address, of an object or a slice.

    Raises:
        Fault: 422, it is none.
    """
    return _whole(name, int(text) if text.isdecimal() and text.isascii() and len(text) < 10 else text)


def kind_of_export(kind: str | None) -> str:
    """Read the form that masks are wanted in.

    Raises:
        Fault: 422, there is no such form.
    """
    if kind is None or kind not in SUFFIXES:
        raise Fault(422, f"type is {shown(kind)}; one of {', '.join(SUFFIXES)} is expected")
    return kind


def names_of(text: str | None) -> dict[int, str]:
    """Read names of objects, `1:liver,2:spleen`.

    Raises:
        Fault: 422, they are not written so.
    """
    names = {}
    for part in (text or "").split(","):
        number, colon, name = part.partition(":")
        if not part.strip():
            continue
        if not colon or not name.strip():
            raise Fault(422, f"names holds {shown(part)}; NUMBER:NAME,NUMBER:NAME is expected")
        names[whole_number("a number in names", number.strip())] = name.strip()
    return names


def _object(body: bytes | bytearray, keys: tuple[str, ...], what: str) -> dict[str, object]:
    try:
        given = json_in(body)
    except ValueError as error:
        raise Fault(400, f"the request is not JSON: {error}") from None
    if not isinstance(given, dict):
        raise Fault(400, f"the request is {shown(given)}; an object that says {what} is expected")
    for key in given:
        if key not in keys:
            raise Fault(400, f"the request has a key {shown(key)}; keys are {', '.join(keys)}")
    return given


def _name(name: str) -> str:
    """What a user calls a file, without folders and without what a screen cannot show."""
    last = name.replace("\\", "/").rpartition("/")[2]
    return "".join(letter for letter in last if letter.isprintable())[-_MAX_NAME:]


def _window(window: object) -> str | tuple[float, float] | None:
    if window is None:
        return None
    if isinstance(window, str) and window.strip().lower() in WINDOW_PRESETS:
        return window
    if isinstance(window, list) and len(window) == 2 and all(_is_number(limit) for limit in window):
        checked = Window(float(window[0]), float(window[1]), source="caller")
        return checked.lower, checked.upper
    names = ", ".join(WINDOW_PRESETS)
    raise Fault(422, f"window is {shown(window)}; one of {names}, or two numbers lower,upper, are expected")


def _plane(plane: object) -> str | None:
    if plane is not None and plane not in PLANES:
        raise Fault(422, f"plane is {shown(plane)}; one of {', '.join(PLANES)} is expected")
    return plane if isinstance(plane, str) else None


def _memory(memory: object) -> str:
    if memory is None:
        return MEMORIES[0]
    if memory not in MEMORIES:
        raise Fault(422, f"memory is {shown(memory)}; one of {', '.join(MEMORIES)} is expected")
    return str(memory)


def _whole(name: str, value: object) -> int:
    if not _is_number(value) or value != int(value) or value < 0:
        raise Fault(422, f"{name} is {shown(value)}; a whole number, 0 or more, is expected")
    return int(value)


def _numbers(name: str, value: object, expected: str) -> list[float] | None:
    if value is None:
        return None
    if not isinstance(value, list) or not all(_is_number(entry) for entry in value):
        raise Fault(422, f"{name} is {shown(value)}; {expected} are expected")
    if len(value) > MAX_POINTS:
        raise Fault(422, f"{name} has {len(value)} entries; at most {MAX_POINTS} are taken")
    return [float(entry) for entry in value]


def _points(value: object) -> list[list[float]] | None:
    if value is None:
        return None
    pairs = [_numbers("a point", pair, "two numbers [x, y]") for pair in value] if _is_list(value) else None
    if pairs is None or any(pair is None for pair in pairs):
        raise Fault(422, f"points is {shown(value)}; pairs [x, y] are expected")
    if len(pairs) > MAX_POINTS:
        raise Fault(422, f"there are {len(pairs)} points; at most {MAX_POINTS} are taken")
    return [pair for pair in pairs if pair is not None]


def _labels(value: object) -> list[int] | None:
    labels = _numbers("labels", value, "1 (inside) or 0 (outside) per point")
    if labels is not None and not set(labels) <= {0.0, 1.0}:
        raise Fault(422, f"labels is {shown(value)}; 1 (inside) or 0 (outside) per point are expected")
    return None if labels is None else [int(label) for label in labels]


def _mask(counts: object, shape_yx: tuple[int, int]) -> npt.NDArray[np.bool_] | None:
    if counts is None:
        return None
    if not isinstance(counts, str):
        raise Fault(422, f"mask is {shown(counts)}; run lengths of the slice, as text, are expected")
    if len(counts) > _SPARE + _LETTERS_PER_PIXEL * math.prod(shape_yx):
        raise Fault(422, f"mask has {len(counts)} letters, more than the run lengths of a slice can have")
    try:
        return from_coco_counts(counts, shape_yx)
    except GeometryError as error:
        raise Fault(422, f"mask: {error}") from None


def _is_list(value: object) -> TypeGuard[list[object]]:
    return isinstance(value, list)


def _number_or_text(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


_ERROR: dict[str, object] = {
    "application/json": {
        "schema": {
            "type": "object",
            "required": ["error", "status"],
            "properties": {"error": {"type": "string"}, "status": {"type": "integer"}},
        }
    }
}
_STATUSES = {
    400: "Not what is expected here, such as no JSON.",
    401: "No key.",
    403: "The wrong key, a page or a path that is not allowed.",
    404: "There is no such session any more, or no such file.",
    408: "The body arrived too slowly.",
    409: "The session's state does not allow it: nothing to undo, no such object, changed meanwhile.",
    413: "Too large.",
    422: "A value that cannot be; the sentence names it and what would do.",
    503: "No place or no memory at the moment; try again after Retry-After.",
    504: "Too slow to read.",
}
RESPONSES: dict[int | str, dict[str, object]] = {
    status: {"description": text, "content": _ERROR} for status, text in _STATUSES.items()
}

_NUMBER: dict[str, object] = {"type": "number"}
_WHOLE: dict[str, object] = {"type": "integer", "minimum": 0}
_POINT: dict[str, object] = {"type": "array", "items": _NUMBER, "minItems": 2, "maxItems": 2}
_WINDOW: dict[str, object] = {"anyOf": [{"enum": list(WINDOW_PRESETS)}, _POINT]}


def _schema_object(required: list[str], properties: dict[str, object]) -> dict[str, object]:
    return {
        "type": "object", "required": required, "additionalProperties": False, "properties": properties
    }  # fmt: skip


def _query(name: str, about: str, schema: dict[str, object]) -> dict[str, object]:
    return {"name": name, "in": "query", "required": False, "description": about, "schema": schema}


OPENING: dict[str, object] = {
    "parameters": [
        _query("name", "What the file is called; what it ends in says the format.", {"type": "string"}),
        _query("window", "Of CT by name, or lower,upper.", {"type": "string"}),
        _query("plane", "Cut that way; along the file's third axis without.", {"enum": list(PLANES)}),
        _query("memory", "Which slices the model looks back at.", {"enum": list(MEMORIES)}),
        _query("frame", "Which volume of a 4D file, from 0.", _WHOLE),
    ],
    "requestBody": {
        "required": True,
        "content": {
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
            "application/json": {
                "schema": _schema_object(
                    ["path"],
                    {
                        "path": {"type": "string", "description": "From the server's folder."},
                        "window": _WINDOW,
                        "plane": {"enum": list(PLANES)},
                        "memory": {"enum": list(MEMORIES)},
                        "frame": _WHOLE,
                    },
                )
            },
        },
    },
}
PROMPT: dict[str, object] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": _schema_object(
                    ["object", "slice"],
                    {
                        "object": {"type": "integer", "minimum": 1, "maximum": 255},
                        "slice": _WHOLE,
                        "box": {
                            "type": "array", "items": _NUMBER, "minItems": 4, "maxItems": 4,
                            "description": "x_min, y_min, x_max, y_max in pixels, both ends included.",
                        },
                        "points": {"type": "array", "items": _POINT},
                        "labels": {"type": "array", "items": {"enum": [0, 1]}},
                        "mask": {"type": "string", "description": "Run lengths as COCO writes them."},
                    },
                )
            }
        },
    }
}  # fmt: skip
