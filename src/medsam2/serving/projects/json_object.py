"""The JSON object that a request brings, and what it says under its names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from fastapi import Request

from medsam2.serving.body import read_body
from medsam2.serving.encodings import json_in
from medsam2.serving.faults import Fault, shown
from medsam2.serving.service import Service
from medsam2.serving.usage import usage_of

_Value = TypeVar("_Value")


class Fields:
    """A JSON object of a caller's."""

    def __init__(self, values: Mapping[str, object]) -> None:
        self._values = values

    def get(self, name: str) -> object:
        """Return what is there, None if nothing is."""
        return self._values.get(name)

    def text(self, name: str, default: str | None = None) -> str:
        """Return a text.

        Raises:
            Fault: 422, it is something else, or missing without a default.
        """
        return self._typed(name, str, "a text", default)

    def whole(self, name: str) -> int:
        """Return a whole number.

        Raises:
            Fault: 422, it is something else, or missing.
        """
        value = self._typed(name, int, "a whole number", None)
        if isinstance(value, bool):
            raise Fault(422, f"{name} is a whole number, not {shown(value)}")
        return value

    def items(self, name: str) -> list[object]:
        """Return a list, empty if it is missing.

        Raises:
            Fault: 422, it is something else.
        """
        return self._typed(name, list, "a list", [])

    def _typed(self, name: str, kind: type[_Value], called: str, default: _Value | None) -> _Value:
        value = self._values.get(name)
        if value is None and default is not None:
            return default
        if not isinstance(value, kind):
            raise Fault(422, f"{name} is {called}, not {shown(value)}")
        return value


async def read_object(service: Service, request: Request, max_mib: int | None = None) -> Fields:
    """Take in a request's body as a JSON object.

    Args:
        service: Its limits count.
        request: With the body.
        max_mib: A limit below the server's own.

    Raises:
        Fault: 400, it is no JSON object; 408, 413 and 503 as for every body.
        ClientDisconnect: The caller is gone.
    """
    usage = usage_of(request.scope)
    settings = service.settings
    if max_mib is not None and max_mib < settings.max_body:
        settings = settings.model_copy(update={"max_body": max_mib})
    body = await read_body(request.scope, request.receive, settings, usage.reservation)
    usage.num_bytes = len(body)
    try:
        values = json_in(body)
    except ValueError as error:
        raise Fault(400, f"the body is not JSON: {error}") from None
    if not isinstance(values, dict):
        raise Fault(400, f"the body is a JSON object, not {shown(values)}")
    return Fields(values)
