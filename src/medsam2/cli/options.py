"""Options that several commands share, and options under headings in the help."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import fields
from functools import wraps
from typing import TYPE_CHECKING, TypeVar
from weakref import WeakKeyDictionary

import click

from medsam2.cli.messages import say
from medsam2.inference.options import MEMORY_POLICIES, PRECISIONS, RUNTIMES

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_Command = TypeVar("_Command", bound=Callable[..., None])

OTHER = "Options"
"""The heading of options that have none of their own, `--help` for one."""
_headings: WeakKeyDictionary[click.Parameter, str] = WeakKeyDictionary()


def heading(title: str) -> Callable[[_Command], _Command]:
    """Put the options that follow under a heading in the help, down to the next heading.

    @click.command(cls=HeadedCommand)
    @heading("Prompt")
    @click.option("--box", ...)
    @heading("Output")
    @click.option("--output", ...)
    """

    def decorate(command: _Command) -> _Command:
        # Decorators work from the bottom up: what is there without a heading stands below this one.
        for option in getattr(command, "__click_params__", ()):
            _headings.setdefault(option, title)
        return command

    return decorate


class HeadedCommand(click.Command):
    """A command whose help lists the options under their headings.

    A subclass because click has no headings for options.
    """

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write a section for each heading, in the order of the options."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx) if isinstance(parameter, click.Option) else None
            if record is not None:
                sections.setdefault(_headings.get(parameter, OTHER), []).append(record)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)


def grouped(
    name: str, group: type[DataclassInstance], *options: Callable[[_Command], _Command]
) -> Callable[[_Command], _Command]:
    """Give a command some options, whose values reach it as one argument.

    Args:
        name: The argument.
        group: A dataclass with a field for each option.
        options: click options and headings, in the order in which the help shows them.
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


_WEIGHTS_HELP = "Weights, by name (see medsam2 weights) or as a file"
_DEVICE_HELP = "Where to compute: auto, cpu, cuda, cuda:N or mps"
_PRECISION_HELP = (
    "Number format of the network. auto: the fastest one that does not change masks; float32: the published "
    "order of operations"
)
weights_option = click.option(
    "--weights", default="compact", show_default=True, metavar="NAME|FILE", help=f"{_WEIGHTS_HELP}."
)
device_option = click.option("--device", default="auto", show_default=True, help=f"{_DEVICE_HELP}.")
precision_option = click.option(
    "--precision", type=click.Choice(PRECISIONS), default="auto", show_default=True,
    help=f"{_PRECISION_HELP}.",
)  # fmt: skip
runtime_option = click.option(
    "--runtime", type=click.Choice(RUNTIMES), default="torch", show_default=True,
    help="What computes the network: PyTorch, or ONNX Runtime on the CPU. With onnx, --weights may also be a "
    "folder that `medsam2 export onnx` made.",
)  # fmt: skip
memory_option = click.option(
    "--memory", type=click.Choice(list(MEMORY_POLICIES)), default="recent", show_default=True,
    help="Which slices or frames the memory bank keeps: the latest ones, or those that are sure and differ "
    "most.",
)  # fmt: skip
plane_option = click.option(
    "--plane", type=click.Choice(["axial", "coronal", "sagittal"]),
    help="Plane of the slices, found from the scan's orientation; the file's third axis if not given. Slices "
    "and pixels are still counted as in the file.",
)  # fmt: skip
json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object instead of sentences."
)


def server_model_options(command: _Command) -> _Command:
    """Add weights, device and precision of a server; without them, its environment and its defaults count."""
    for option in (
        click.option(
            "--precision", type=click.Choice(PRECISIONS), help=f"{_PRECISION_HELP}; auto if not given."
        ),
        click.option("--device", help=f"{_DEVICE_HELP}; auto if not given."),
        click.option("--weights", metavar="NAME|FILE", help=f"{_WEIGHTS_HELP}; compact if not given."),
    ):
        command = option(command)
    return command


WINDOW_OPTION = "--window"

# Windows as radiologists give them, (level, width), that could be limits too: -600 to 1500 is no lung window.
_LEVELS_AND_WIDTHS = frozenset(
    (level, width)
    for level, widths in (
        (-700, (1500,)), (-650, (1500,)), (-600, (1200, 1500, 1600)), (-500, (1400, 1500)), (30, (150, 300)),
        (35, (80, 350)), (40, (80, 120, 350, 400)), (45, (400,)), (50, (150, 250, 350, 400, 450)),
        (60, (150, 360, 400)), (80, (200,)), (100, (700,)), (150, (600,)), (200, (600,)), (300, (1500, 2000)),
        (350, (2000,)), (400, (1500, 1800, 2000)), (450, (1500,)), (480, (2500,)), (500, (1500, 2000, 2500)),
        (600, (2800, 4000)), (700, (4000,)),
    )
    for width in widths
)  # fmt: skip


class WindowCommand(HeadedCommand):
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
            option, _, first = word.partition("=")
            if word == WINDOW_OPTION and len(rest) >= 2 and _is_number(rest[0]) and _is_number(rest[1]):
                joined += [word, f"{rest.pop(0)} {rest.pop(0)}"]
            elif option == WINDOW_OPTION and rest and _is_number(first) and _is_number(rest[0]):
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
        raise click.BadParameter(_wrong_limits(lower, upper))
    if (lower, upper) in _LEVELS_AND_WIDTHS:
        say(
            f"the window {lower:g} {upper:g} is read as limits, LO HI; if it is level and width, give "
            f"{WINDOW_OPTION} {lower - upper / 2:g} {lower + upper / 2:g}"
        )
    return lower, upper


window_option = click.option(
    WINDOW_OPTION, metavar="LO HI|NAME", callback=parse_window,
    help="Intensities to show as black and as white, for example --window -160 240, or the name of a CT "
    "window (lung, liver, bone, ...).",
)  # fmt: skip


def _wrong_limits(first: float, second: float) -> str:
    """Say that the lower limit is not below the upper one, and what may be meant."""
    text = f"a window is its limits, LO HI with lower < upper, not {first:g} {second:g}"
    if first != second:
        text += f"; turned round it is {WINDOW_OPTION} {second:g} {first:g}"
    if first > 0:
        lower, upper = second - first / 2, second + first / 2
        text += f"; as width {first:g} and level {second:g} it is {WINDOW_OPTION} {lower:g} {upper:g}"
    return text


def _is_number(word: str) -> bool:
    try:
        float(word.rstrip(","))
    except ValueError:
        return False
    return True
