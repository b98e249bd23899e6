"""Read the forms that viewers send: fields of text, and files with names of theirs."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from types import MappingProxyType
from urllib.parse import parse_qsl

from python_multipart.exceptions import MultipartParseError
from starlette.datastructures import Headers
from starlette.formparsers import MultiPartException, MultiPartParser

from medsam2.errors import InputError
from medsam2.serving.http_errors import BadRequest, TooLarge, shown
from medsam2.serving.schemas import json_in

MAX_PARTS = 20_000
"""Parts of one form at most; each slice of a series is a file."""
MAX_TEXT = 4 << 20
"""Bytes of a field, or of JSON, at most."""
_MAX_DEPTH = 32
_STEP = 1 << 20  # bytes that the parser gets at once
_MULTIPART = "multipart/form-data"
_URLENCODED = "application/x-www-form-urlencoded"


@dataclass(frozen=True, kw_only=True, eq=False)
class Upload:
    """A file of a form."""

    field: str
    name: str
    """The last part of the caller's name for it; never to be used as a path."""
    content: bytes


@dataclass(frozen=True, kw_only=True, eq=False)
class Form:
    """The body of a request."""

    fields: Mapping[str, str]
    files: tuple[Upload, ...] = ()

    def file(self, field: str) -> Upload | None:
        """The file of a field, or None without one."""
        return next((upload for upload in self.files if upload.field == field), None)

    def json(self, field: str) -> dict[str, object]:
        """A field that holds a JSON object, empty if it is not there.

        Raises:
            InputError: It holds something else.
        """
        return read_object(self.fields.get(field, "").encode(), field)


def read_form(content_type: str, body: bytes | bytearray) -> Form:
    """Read a request's body; one that is empty is a form without fields.

    Args:
        content_type: The request's header.
        body: All of it.

    Raises:
        BadRequest: It is not the form that the header announces.
        TooLarge: It has too many parts, or a field is too long.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind == _MULTIPART:
        return _multipart(content_type, body)
    if kind == _URLENCODED:
        try:
            pairs = parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=MAX_PARTS)
        except ValueError:
            raise BadRequest("the form is not text in UTF-8 of a few fields") from None
        return Form(fields=MappingProxyType(dict(pairs)))
    if body:
        raise BadRequest(f"the body is {shown(kind or 'of no type')}; {_MULTIPART} is expected")
    return Form(fields=MappingProxyType({}))


def read_object(text: bytes | bytearray, what: str) -> dict[str, object]:
    """Read a JSON object; an empty text is an empty object.

    Raises:
        InputError: It is something else.
    """
    if not text.strip():
        return {}
    try:
        found = json_in(text)
    except ValueError as error:
        raise InputError(f"{what} is not JSON: {error}") from None
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise InputError(f"{what} is {shown(found)}; a JSON object is expected")
    if _is_deeper(found, _MAX_DEPTH):
        raise InputError(f"{what} is nested more than {_MAX_DEPTH} times")
    return found


def _is_deeper(value: object, levels: int) -> bool:
    """Whether a value has more levels than can be written to the index again."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(levels == 0 or _is_deeper(one, levels - 1) for one in inner)


class _Parser(MultiPartParser):
    """Starlette's parser, which also notices a form that is cut off."""

    # The body is in memory already, and a series has more files than a process may open.
    spool_max_size = sys.maxsize
    is_complete = False

    def on_end(self) -> None:
        self.is_complete = True


def _multipart(content_type: str, body: bytes | bytearray) -> Form:
    async def steps() -> AsyncGenerator[bytes, None]:
        for start in range(0, len(body), _STEP):
            yield bytes(memoryview(body)[start : start + _STEP])

    headers = Headers({"content-type": content_type})
    parser = _Parser(headers, steps(), max_files=MAX_PARTS, max_fields=MAX_PARTS, max_part_size=MAX_TEXT)
    try:
        found = asyncio.run(parser.parse())
    except MultiPartException as error:
        reason = str(error.__cause__ or error.message)
        if reason.startswith(("Too many", "Part exceeded")):
            raise TooLarge(f"the form is too large: {reason}") from None
        raise BadRequest(f"the form is damaged: {reason}") from None
    except MultipartParseError as error:  # Starlette before 1.10 lets it through
        raise BadRequest(f"the form is damaged: {error}") from None
    if not parser.is_complete:
        raise BadRequest("the form ends before its last boundary")
    fields: dict[str, str] = {}
    files: list[Upload] = []
    for field, value in found.multi_items():
        if isinstance(value, str):
            fields[field] = value
        else:
            name = PurePosixPath((value.filename or "").replace("\\", "/")).name
            with value.file:
                files.append(Upload(field=field, name=name, content=value.file.read()))
    return Form(fields=MappingProxyType(fields), files=tuple(files))
