"""Put into a sentence what a library says of a file, which may quote anything that is in it."""

from __future__ import annotations

_LONGEST = 200


def in_a_line(said: object) -> str:
    """Return how a text begins: its first line, not too long, with nothing that cannot be printed."""
    line = next(iter(str(said).splitlines()), "")[:_LONGEST]
    return line if line.isprintable() else repr(line)
