"""The JSON of sessions: what callers send, and what they are answered."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, LiteralString

from pydantic import AfterValidator, Field, PlainValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from medsam2.errors import GeometryError, InputError
from medsam2.imaging.intensity import WINDOW_PRESETS, Window
from medsam2.imaging.labels import from_coco_counts
from medsam2.imaging.outputs.write import SUFFIXES
from medsam2.measure.sizes import ObjectStatistics
from medsam2.prompts.types import MAX_OBJECTS, Prompt, prompt_from
from medsam2.serving.http_errors import shown
from medsam2.serving.schemas import (
    Answer,
    BoxNumbers,
    Expected,
    LongText,
    Memory,
    Message,
    OneOf,
    PointLabels,
    Points,
    WholeNumber,
    json_body,
    validated,
)

MAX_JSON_BYTES = 32 * 2**20
"""Of a request in JSON: the run lengths of the most ragged mask of a large slice."""
PLANES = ("axial", "coronal", "sagittal")
_MAX_NAME = 100
_MAX_DIGITS = 9
# Short runs take a letter each and long ones hardly more, so that twice the pixels is more than enough.
_LETTERS_PER_PIXEL, _SPARE = 2, 64
_WINDOW_SCHEMA = {
    "anyOf": [
        {"enum": list(WINDOW_PRESETS)},
        {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2},
    ]
}
_WINDOWS: LiteralString = f"one of {', '.join(WINDOW_PRESETS)}, or two numbers lower,upper, are expected"


def _to_window(window: object) -> str | tuple[float, float]:
    if isinstance(window, str) and window.strip().lower() in WINDOW_PRESETS:
        return window
    limits = window if isinstance(window, list) else []
    if len(limits) != 2 or any(isinstance(one, bool) or not isinstance(one, (int, float)) for one in limits):
        raise PydanticCustomError("expected", _WINDOWS)
    checked = Window(float(limits[0]), float(limits[1]), source="caller")
    return checked.lower, checked.upper


def _file_name(name: str) -> str:
    """What a user calls a file, without folders and without what a screen cannot show."""
    last = name.replace("\\", "/").rpartition("/")[2]
    return "".join(letter for letter in last if letter.isprintable())[-_MAX_NAME:]


class Opening(Message):
    """How a scan is opened."""

    window: (
        Annotated[str | tuple[float, float], PlainValidator(_to_window), WithJsonSchema(_WINDOW_SCHEMA)]
        | None
    ) = None
    """Name of a CT window, or its two limits."""
    plane: Annotated[str, OneOf(PLANES)] | None = None
    """Cut slices in this plane; along the file's third axis without one."""
    memory: Memory = "recent"
    """Which slices the model looks back at."""
    frame: WholeNumber | None = None
    """Which volume of a 4D file, from 0."""


class UploadOpening(Opening):
    """How the scan in the body is opened, as a query."""

    name: Annotated[str, AfterValidator(_file_name)] = ""
    """What the file is called; its ending says the format."""


class FileOpening(Opening):
    """Which scan of the server is opened, and how."""

    path: Annotated[LongText, Expected("the path of a file, from the server's folder, is expected")]
    """From the server's folder."""

    @property
    def name(self) -> str:
        """What the file is called."""
        return self.path.rpartition("/")[2]


class PromptMessage(Message):
    """A prompt for an object in one slice."""

    object: WholeNumber = Field(json_schema_extra={"minimum": 1, "maximum": MAX_OBJECTS})
    """Its number; a new one begins a new object."""
    slice: WholeNumber
    box: BoxNumbers | None = None
    """x_min, y_min, x_max, y_max in pixels, both ends included."""
    points: Points | None = None
    labels: PointLabels | None = None
    """1 for a point inside, 0 for one outside; all inside if not given."""
    mask: Annotated[LongText, Expected("run lengths of the slice, as text, are expected")] | None = None
    """Run lengths as COCO writes them."""

    def prompt(self, shape_yx: tuple[int, int]) -> Prompt:
        """The prompt as a value; whether it lies in the volume is not checked yet.

        Args:
            shape_yx: Of the session's slices.

        Raises:
            InputError: The numbers do not make a prompt.
        """
        mask = None if self.mask is None else _mask_of(self.mask, shape_yx)
        return prompt_from(self.slice, box=self.box, points=self.points, labels=self.labels, mask=mask)


def _mask_of(counts: str, shape_yx: tuple[int, int]) -> Any:
    if len(counts) > _SPARE + _LETTERS_PER_PIXEL * math.prod(shape_yx):
        raise InputError(f"mask has {len(counts)} letters, more than the run lengths of a slice can have")
    try:
        return from_coco_counts(counts, shape_yx)
    except GeometryError as error:
        raise InputError(f"mask: {error}") from None


def read_upload_query(query: Mapping[str, str]) -> UploadOpening:
    """Read how an uploaded file is to be opened; keys that have no meaning are left alone.

    Raises:
        InputError: A value is not usable.
    """
    values: dict[str, object] = {key: query[key] for key in UploadOpening.model_fields if query.get(key)}
    if "," in query.get("window", ""):
        values["window"] = [_number_or_text(part) for part in query["window"].split(",")]
    if "frame" in values:
        values["frame"] = _whole_or_text(query["frame"])
    return validated(UploadOpening, values)


def read_whole_number(name: str, text: str) -> int:
    """Read a number of a path or a query: an object's or a slice's.

    Raises:
        InputError: It is not one.
    """
    number = _whole_or_text(text)
    if isinstance(number, str):
        raise InputError(f"{name} is {shown(text)}; a whole number, 0 or more, is expected")
    return number


def read_export_type(kind: str | None) -> str:
    """Read the format in which masks are exported.

    Raises:
        InputError: There is no such format.
    """
    if kind is None or kind not in SUFFIXES:
        raise InputError(f"type is {shown(kind)}; one of {', '.join(SUFFIXES)} is expected")
    return kind


def read_names(text: str | None) -> dict[int, str]:
    """Read names of objects, `1:liver,2:spleen`.

    Raises:
        InputError: They are not written so.
    """
    names = {}
    for part in (text or "").split(","):
        number, colon, name = part.partition(":")
        if not part.strip():
            continue
        if not colon or not name.strip():
            raise InputError(f"names holds {shown(part)}; NUMBER:NAME,NUMBER:NAME is expected")
        names[read_whole_number("a number in names", number.strip())] = name.strip()
    return names


def _number_or_text(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _whole_or_text(text: str) -> int | str:
    return int(text) if text.isdecimal() and text.isascii() and len(text) <= _MAX_DIGITS else text


class SessionInfo(Answer):
    """What a session is from its beginning to its end."""

    id: str
    name: str
    shape: tuple[int, ...]
    """Number of slices, and a slice's height and width in pixels."""
    file_shape: tuple[int, ...]
    """z, y, x."""
    axis: int
    """The file's axis along which the slices are stacked."""
    spacing: tuple[float, ...]
    origin: tuple[float, ...]
    direction: tuple[float, ...]
    window: tuple[float, float]
    idle_timeout_s: float


class PromptInfo(Answer):
    """The prompt of an object in one slice."""

    slice: int
    box: tuple[float, ...] | None
    points: list[tuple[float, float]]
    labels: list[int]
    has_mask: bool


class ObjectInfo(Answer):
    """An object of a session."""

    number: int
    slices: list[int]
    """Slices visited so far."""
    prompts: list[PromptInfo]


class SessionState(SessionInfo):
    """What a session is at the moment."""

    objects: list[ObjectInfo]
    can_undo: bool
    can_redo: bool
    is_propagated: bool


class ListedSession(Answer):
    """A session in the list of all."""

    id: str
    name: str
    shape: tuple[int, ...]
    idle_s: float


class SessionList(Answer):
    """All open sessions."""

    sessions: list[ListedSession]


class PromptedSlice(Answer):
    """An object in the slice that was just prompted."""

    object: int
    slice: int
    size: tuple[int, ...]
    mask: str
    """Run lengths as COCO writes them."""
    confidence: float


class SliceEvent(Answer):
    """The objects in a slice that a propagation has just visited."""

    slice: int
    masks: dict[int, str]
    """Object number to run lengths; an object that is not in the slice is left out."""
    confidence: dict[int, float]
    done: int
    """Slices visited so far."""
    of: int | None
    """Slices that there are; None where an object may end before the volume does."""


class DoneEvent(Answer):
    """The end of a propagation."""

    seconds: float
    num_slices: int


class SessionMasks(Answer):
    """The masks of one slice or of all."""

    size: tuple[int, ...]
    slices: dict[int, dict[int, str]]
    """Slice to object number to run lengths."""
    confidence: dict[int, dict[int, float]]


class Measurements(Answer):
    """The measurements of every object."""

    objects: list[ObjectStatistics]


def _query_parameters() -> list[dict[str, Any]]:
    properties = UploadOpening.model_json_schema()["properties"]
    properties["window"] = {"type": "string", "description": "Name of a CT window, or lower,upper."}
    return [
        {"name": name, "in": "query", "required": False, "schema": schema}
        for name, schema in properties.items()
    ]


PROMPT_REQUEST = json_body(PromptMessage)
OPENING_REQUEST: dict[str, Any] = {
    "parameters": _query_parameters(),
    "requestBody": {
        "required": True,
        "content": {
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
            "application/json": {"schema": FileOpening.model_json_schema()},
        },
    },
}
