"""The types of callers' JSON, how it is read, and the sentence about a value that does not fit."""

from __future__ import annotations

import base64
import binascii
import codecs
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar, cast
from urllib.parse import unquote

import orjson
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    PlainValidator,
    ValidationError,
    model_validator,
)
from pydantic_core import core_schema
from starlette.responses import Response

from medsam2.errors import InputError
from medsam2.inference.options import MEMORY_POLICIES
from medsam2.serving.http_errors import BadRequest, shown

MAX_POINTS = 1000
"""In one prompt."""

_OTHER_MARKS = {codecs.BOM_UTF16_LE: "UTF-16", codecs.BOM_UTF16_BE: "UTF-16"}
_TO_STANDARD = str.maketrans("-_", "+/")

_Model = TypeVar("_Model", bound=BaseModel)


def json_in(body: bytes | bytearray | memoryview) -> object:
    """Read JSON; a byte order mark before it is skipped, as RFC 8259 allows.

    Raises:
        ValueError: It is none, in one clause.
    """
    text = memoryview(body)
    if bytes(text[:3]) == codecs.BOM_UTF8:
        text = text[3:]
    elif (mark := bytes(text[:2])) in _OTHER_MARKS:
        raise ValueError(f"it is text in {_OTHER_MARKS[mark]}; UTF-8 is expected")
    return orjson.loads(text)


def bytes_in(text: str) -> bytes:
    """Read base64 (RFC 4648) in either alphabet, with or without padding, line breaks and `data:...;base64,`.

    Raises:
        ValueError: It is none, in one clause.
    """
    if text[:5].lower() == "data:":
        head, comma, text = text.partition(",")
        if not comma or not head.lower().endswith(";base64"):
            raise ValueError("a data: URI holds ;base64, before its data")
        text = unquote(text) if "%" in text else text
    if any(space in text for space in "\r\n\t "):  # some encoders break lines
        text = "".join(text.split())
    if "-" in text or "_" in text:
        text = text.translate(_TO_STANDARD)
    text = text.rstrip("=") if text.endswith("=") else text
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from None


@dataclass(frozen=True)
class Expected:
    """What a type expects, as the second half of a sentence; it replaces pydantic's own words.

    A list is left at its first wrong entry: one sentence about it is enough, however long the list is.
    """

    text: str

    def __get_pydantic_core_schema__(
        self, source: object, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        """Wrap the schema of the type."""
        schema = handler(source)
        if schema["type"] == "list":
            cast(dict[str, Any], schema)["fail_fast"] = True
        return core_schema.custom_error_schema(
            schema, custom_error_type="expected", custom_error_message=self.text
        )


@dataclass(frozen=True)
class OneOf:
    """Makes a text one of several names: `Annotated[str, OneOf(NAMES)]`."""

    names: tuple[str, ...]

    def __get_pydantic_core_schema__(
        self, _source: object, _: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        """Replace the schema of the text."""
        return core_schema.custom_error_schema(
            core_schema.literal_schema(list(self.names)),
            custom_error_type="expected",
            custom_error_message=f"one of {', '.join(self.names)} is expected",
        )


def _to_whole(value: object) -> int:
    # Data frames turn whole numbers into floats.
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0 or value != value // 1:
        raise ValueError
    return int(value)


def _to_text(value: object) -> str:
    """Take a text as it is: pydantic's own type may encode it once more, and a scan is a long text."""
    if not isinstance(value, str) or not value:
        raise ValueError
    return value


def _check_length(value: object) -> object:
    if isinstance(value, list) and len(value) > MAX_POINTS:
        raise InputError(f"there are {len(value)} of them; at most {MAX_POINTS} are taken")
    return value


Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
WholeNumber = Annotated[
    int,
    PlainValidator(_to_whole, json_schema_input_type=Annotated[int, Field(ge=0)]),
    Expected("a whole number, 0 or more, is expected"),
]
LongText = Annotated[
    str, PlainValidator(_to_text, json_schema_input_type=Annotated[str, Field(min_length=1)])
]
BoxNumbers = Annotated[
    list[Number],
    Field(min_length=4, max_length=4),
    Expected("four numbers [x_min, y_min, x_max, y_max] are expected"),
]
Points = Annotated[
    list[Annotated[list[Number], Field(min_length=2, max_length=2)]],
    Expected("pairs of two numbers [x, y] are expected"),
    BeforeValidator(_check_length),
]
Memory = Annotated[str, OneOf(tuple(MEMORY_POLICIES))]
PointLabels = Annotated[
    list[Annotated[Literal[0, 1], BeforeValidator(_to_whole)]],
    Expected("1 (inside) or 0 (outside) per point are expected"),
    BeforeValidator(_check_length),
]


class Message(BaseModel):
    """JSON of a caller. Null means the same as a missing entry, where an entry may be missing."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        fields = cls.model_fields
        return {
            key: value
            for key, value in values.items()
            if value is not None or key not in fields or fields[key].is_required()
        }


class Answer(BaseModel):
    """JSON of the server."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)


class ErrorAnswer(Answer):
    """What every request that fails is answered with."""

    error: str
    """One sentence: what is wrong, and what would be right."""
    status: int


_MEANINGS = {
    400: "Not JSON, or not the form that is expected here.",
    401: "No key.",
    403: "The wrong key, or a name, a page or a path that is not allowed.",
    404: "There is no such session, case or file (any more).",
    408: "The body arrived too slowly.",
    409: "Somebody else or the state does not allow it: nothing to undo, no such object, changed meanwhile.",
    413: "Too large.",
    422: "A value that is not usable; the sentence names it and says what is expected.",
    503: "No place or no memory at the moment; try again after Retry-After.",
    504: "Fetching, reading or computing took too long.",
}


def error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The errors of a route as OpenAPI describes them; all of them if none are named."""
    return {
        status: {"description": _MEANINGS[status], "model": ErrorAnswer} for status in statuses or _MEANINGS
    }


def json_response(answer: Answer, status: int = 200) -> Response:
    """Answer with JSON."""
    return Response(answer.model_dump_json(), status, media_type="application/json")


def json_body(model: type[Message]) -> dict[str, Any]:
    """The body of a request as OpenAPI describes it, for `openapi_extra`: bodies are read by `limits`."""
    content = {"application/json": {"schema": model.model_json_schema()}}
    return {"requestBody": {"required": True, "content": content}}


def read_message(model: type[_Model], body: bytes | bytearray) -> _Model:
    """Turn the body of a request into values; see `validated`.

    Raises:
        BadRequest: It is not JSON as well.
    """
    return validated(model, read_json(body))


def read_json(body: bytes | bytearray) -> object:
    """Read the JSON of a request.

    Raises:
        BadRequest: It is not JSON.
    """
    try:
        return json_in(body)
    except ValueError as error:
        raise BadRequest(f"the request is not JSON: {error}") from None


def validated(model: type[_Model], values: object, *, where: str = "") -> _Model:
    """Turn JSON into values.

    Args:
        model: What is expected.
        values: What was read.
        where: What the sentence about a wrong value begins with.

    Raises:
        BadRequest: It is not an object, or has a key that has no meaning.
        InputError: A value is missing or not usable; the sentence names it and says what is expected.
    """
    keys = ", ".join(model.model_fields)
    if not isinstance(values, dict):
        raise BadRequest(f"the request is {shown(values)}; an object with the keys {keys} is expected")
    if model.model_config.get("extra") == "forbid":
        # Before pydantic, which would report each of a million unknown keys.
        for key in values:
            if key not in model.model_fields:
                raise BadRequest(f"{where}the request has a key {shown(key)}; keys are {keys}")
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise InputError(where + sentence_about(model, error)) from None


def sentence_about(
    model: type[BaseModel], error: ValidationError, spelled: Callable[[str], str] = str
) -> str:
    """Say the first thing that is wrong: the field, its value, and what is expected of it.

    Args:
        model: What was expected.
        error: What pydantic found.
        spelled: Turns a field's name into the one that the caller knows.
    """
    first = error.errors(include_url=False)[0]
    if not first["loc"]:
        return str(first["ctx"]["error"])
    field = str(first["loc"][0])
    if first["type"] == "missing":
        expected = (one.text for one in model.model_fields[field].metadata if isinstance(one, Expected))
        return f"{spelled(field)} is missing; {next(expected, 'a value is expected')}"
    if first["type"] == "value_error":
        return f"{spelled(field)}: {first['ctx']['error']}"
    text = first["msg"]
    return f"{spelled(field)} is {shown(first['input'])}; {text[:1].lower()}{text[1:]}"
