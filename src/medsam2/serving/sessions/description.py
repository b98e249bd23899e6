"""The sessions as OpenAPI says them."""

from __future__ import annotations

from medsam2.imaging.intensity import WINDOW_PRESETS
from medsam2.serving.rows import MEMORIES
from medsam2.serving.sessions.requests import PLANES

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


def _object(required: list[str], properties: dict[str, object]) -> dict[str, object]:
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
                "schema": _object(
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
                "schema": _object(
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
