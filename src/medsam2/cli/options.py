"""Options that several commands share, and groups of options that reach a command as one value."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import fields
from functools import wraps
from typing import TYPE_CHECKING, TypeVar

import click

from medsam2.cli.messages import say

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


precision_option = click.option(
    "--precision", type=click.Choice(["auto", "float32", "float32-fast", "bfloat16"]), default="auto",
    show_default=True,
    help="auto is the fastest that keeps masks; float32 computes in the published order of operations.",
)  # fmt: skip


OPTION = "--window"
HELP = "Intensities shown black and white, LO HI, or a CT window by name (lung, liver, bone, ...)."

# Windows as radiologists name them, (level, width), that make limits as well: -600 to 1500 is no lung window.
_LEVELS_AND_WIDTHS = frozenset(
    {
        *((-700, 1500), (-650, 1500), (-600, 1600), (-600, 1500), (-600, 1200), (-500, 1500), (-500, 1400)),
        *((30, 150), (30, 300), (35, 80), (35, 350), (40, 80), (40, 120), (40, 350), (40, 400), (45, 400)),
        *((50, 150), (50, 250), (50, 350), (50, 400), (50, 450), (60, 150), (60, 360), (60, 400), (80, 200)),
        *(
            (100, 700),
            (150, 600),
            (200, 600),
            (300, 1500),
            (300, 2000),
            (350, 2000),
            (400, 1500),
            (400, 1800),
        ),
        *((400, 2000), (450, 1500), (480, 2500), (500, 1500), (500, 2000), (500, 2500), (600, 2800)),
        *((600, 4000), (700, 4000)),
    }
)


class WindowCommand(click.Command):
    """A command whose `--window` is followed by one name or by two numbers.

    A subclass because click's options take a fixed number of values; the two numbers are joined into
    one value before click sees them.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Join the two limits after `--window` or `--window=`, then parse as usual."""
        joined: list[str] = []
        rest = list(args)
        while rest:
            word = rest.pop(0)
            if word == "--":
                joined += [word, *rest]
                break
            if word == OPTION and len(rest) >= 2 and _is_number(rest[0]) and _is_number(rest[1]):
                joined += [word, f"{rest.pop(0)} {rest.pop(0)}"]
            elif word.startswith(f"{OPTION}=") and rest and _is_number(word[9:]) and _is_number(rest[0]):
                joined.append(f"{word} {rest.pop(0)}")
            else:
                joined.append(word)
        return super().parse_args(ctx, joined)


def parse_window(
    _ctx: click.Context, _option: click.Parameter, value: str | None
) -> str | tuple[float, float] | None:
    """Turn the value of `--window` into a name or two limits, `-160 240` or `-160,240`."""
    if value is None:
        return None
    words = [word for word in re.split(r"[\s,;]+", value.strip().strip("[]()")) if word]
    if not words or not all(_is_number(word) for word in words):
        return value
    if len(words) != 2:
        raise click.BadParameter(f"a window is two numbers LO HI or a name, not {value!r}")
    lower, upper = float(words[0]), float(words[1])
    if lower >= upper:
        raise click.BadParameter(_no_limits(lower, upper))
    if (lower, upper) in _LEVELS_AND_WIDTHS:
        shown = _shown(lower - upper / 2, lower + upper / 2)
        say(
            f"the window {lower:g} {upper:g} is read as limits, LO HI; if it is level and width, give "
            f"{OPTION} {shown}"
        )
    return lower, upper


def _no_limits(first: float, second: float) -> str:
    """What is wrong with limits of which the lower is not below the upper, and what may be meant."""
    meant = [] if first == second else [f"turned round it is {OPTION} {_shown(second, first)}"]
    if first > 0:
        meant.append(
            f"as width {first:g} and level {second:g} it is "
            f"{OPTION} {_shown(second - first / 2, second + first / 2)}"
        )
    listed = "".join(f"; {one}" for one in meant)
    return f"a window is its limits, LO HI with lower < upper, not {first:g} {second:g}{listed}"


def _shown(lower: float, upper: float) -> str:
    return f"{lower:g} {upper:g}"


def _is_number(word: str) -> bool:
    try:
        float(word.rstrip(","))
    except ValueError:
        return False
    return True
