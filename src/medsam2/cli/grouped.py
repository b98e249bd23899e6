"""Options of a command that belong together reach it as one value."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from functools import wraps
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_Command = TypeVar("_Command", bound=Callable[..., None])


def grouped(
    name: str, group: type[DataclassInstance], *options: Callable[[_Command], _Command]
) -> Callable[[_Command], _Command]:
    """Give a command some options, whose values come as one argument.

    Args:
        name: The argument.
        group: A dataclass with a field for each option.
        options: click options, in the order in which help shows them.
    """
    own = [field.name for field in fields(group)]

    def decorate(command: _Command) -> _Command:
        @wraps(command)
        def call(**values: object) -> None:
            command(**{name: group(**{key: values.pop(key) for key in own})}, **values)

        decorated = call
        for option in reversed(options):
            decorated = option(decorated)
        return decorated  # type: ignore[return-value]

    return decorate
