"""The option `--window`, which takes a preset's name or two limits."""

from __future__ import annotations

import click

OPTION = "--window"
HELP = "Intensities shown black and white, LO HI, or a CT window by name (lung, liver, bone, ...)."


class WindowCommand(click.Command):
    """A command whose `--window` is followed by one name or by two numbers.

    A subclass because click's options take a fixed number of values; the two numbers are joined into
    one value before click sees them.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Join the two limits after `--window`, then parse as usual."""
        joined: list[str] = []
        rest = list(args)
        while rest:
            word = rest.pop(0)
            joined.append(word)
            if word == OPTION and len(rest) >= 2 and _is_number(rest[0]) and _is_number(rest[1]):
                joined.append(f"{rest.pop(0)} {rest.pop(0)}")
        return super().parse_args(ctx, joined)


def parse_window(
    _ctx: click.Context, _option: click.Parameter, value: str | None
) -> str | tuple[float, float] | None:
    """Turn the value of `--window` into a name or two limits."""
    if value is None:
        return None
    words = value.split()
    if all(_is_number(word) for word in words):
        if len(words) != 2:
            raise click.BadParameter(f"a window is two numbers LO HI or a name, not {value!r}")
        return float(words[0]), float(words[1])
    return value


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
