"""Take apart the forms that viewers send: fields of text, and files under names of theirs."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import TYPE_CHECKING, cast
from urllib.parse import parse_qsl

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from medsam2.serving.http_errors import Fault, shown
from medsam2.serving.rows import json_in

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

MAX_PARTS = 20_000
"""Of one form; the slices of a series come as a file each."""
MAX_TEXT = 4 << 20
"""Bytes of a field, and of JSON."""
_MAX_DEPTH = 32
# What is wrong with a form its sender is told, and nobody can fill the log with it.
_SILENT = logging.Logger("forms", logging.CRITICAL)
_SEVERAL = "multipart/form-data"
_URLENCODED = "application/x-www-form-urlencoded"


@dataclass(frozen=True, kw_only=True, eq=False)
class Upload:
    """A file of a form."""

    field: str
    name: str
    """The last part of what the caller calls it; never to be used as a path."""
    content: bytearray


@dataclass(frozen=True, kw_only=True, eq=False)
class Form:
    """What a request brings."""

    fields: Mapping[str, str]
    files: tuple[Upload, ...]

    def file(self, field: str) -> Upload | None:
        """The file of a field, or None without one."""
        return next((upload for upload in self.files if upload.field == field), None)

    def json(self, field: str) -> dict[str, object]:
        """A field that holds a JSON object, empty if it is not there.

        Raises:
            Fault: 422, it holds something else.
        """
        return read_object(self.fields.get(field, "").encode(), field)


def read_form(content_type: str, body: bytes | bytearray) -> Form:
    """Take a request's body apart.

    Args:
        content_type: The request's header.
        body: All of it; a body without a form is one without fields.

    Raises:
        Fault: 400, it is not the form that the header says; 413, it has too many parts.
    """
    kind, options = parse_options_header(content_type)
    name = kind.decode("latin-1")
    if name == _URLENCODED:
        try:
            pairs = parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=MAX_PARTS)
        except ValueError:
            raise Fault(400, "the form is not text in UTF-8 of a few fields") from None
        return Form(fields=MappingProxyType(dict(pairs)), files=())
    if name != _SEVERAL:
        if body:
            raise Fault(400, f"the body is {shown(name or 'of no type')}; {_SEVERAL} is expected")
        return Form(fields=MappingProxyType({}), files=())
    boundary = options.get(b"boundary", b"")
    if not boundary:
        raise Fault(400, f"{_SEVERAL} comes with a boundary, and the header names none")
    parts = _Parts()
    try:
        parser = MultipartParser(boundary, cast("MultipartCallbacks", parts.callbacks))
        parser.logger = _SILENT
        parser.write(cast(bytes, body))  # which it only looks into
        parser.finalize()
    except FormParserError as error:
        raise Fault(400, f"the form is damaged: {error}") from None
    if not parts.is_complete:
        raise Fault(400, "the form ends before its last boundary")
    return parts.form()


def read_object(text: bytes | bytearray, what: str) -> dict[str, object]:
    """Read a JSON object; nothing at all is an empty one.

    Raises:
        Fault: 422, it is something else.
    """
    if not text.strip():
        return {}
    try:
        found = json_in(text)
    except ValueError as error:
        raise Fault(422, f"{what} is not JSON: {error}") from None
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise Fault(422, f"{what} is {shown(found)}; a JSON object is expected")
    if _is_deeper(found, _MAX_DEPTH):
        raise Fault(422, f"{what} is nested more than {_MAX_DEPTH} times")
    return found


def _is_deeper(value: object, levels: int) -> bool:
    """Whether there is something below so many levels; what is kept has to be written again."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(levels == 0 or _is_deeper(one, levels - 1) for one in inner)


class _Parts:
    """Gathers what the parser finds."""

    def __init__(self) -> None:
        self.is_complete = False
        self._fields: dict[str, str] = {}
        self._files: list[Upload] = []
        self._header = bytearray()
        self._value = bytearray()
        self._headers: dict[bytes, bytes] = {}
        self._content = bytearray()
        self._num_parts = 0

    @property
    def callbacks(self) -> dict[str, object]:
        """What the parser calls."""
        return {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self._header.extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
            "on_header_end": self._end_header,
            "on_part_data": lambda data, start, end: self._content.extend(memoryview(data)[start:end]),
            "on_part_end": self._end,
            "on_end": self._finish,
        }

    def form(self) -> Form:
        """All that was found."""
        return Form(fields=MappingProxyType(self._fields), files=tuple(self._files))

    def _begin(self) -> None:
        self._num_parts += 1
        if self._num_parts > MAX_PARTS:
            raise Fault(413, f"the form has more than {MAX_PARTS} parts")
        self._headers, self._content = {}, bytearray()

    def _end_header(self) -> None:
        self._headers[bytes(self._header).lower()] = bytes(self._value)
        self._header, self._value = bytearray(), bytearray()

    def _end(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        field = options.get(b"name", b"").decode("utf-8", "replace")
        if b"filename" in options:
            name = options[b"filename"].decode("utf-8", "replace").replace("\\", "/")
            self._files.append(Upload(field=field, name=PurePosixPath(name).name, content=self._content))
            return
        if len(self._content) > MAX_TEXT:
            raise Fault(413, f"the field {shown(field)} is longer than {MAX_TEXT >> 20} MiB")
        try:
            self._fields[field] = self._content.decode()
        except UnicodeDecodeError:
            raise Fault(422, f"the field {shown(field)} is not text in UTF-8") from None

    def _finish(self) -> None:
        self.is_complete = True
