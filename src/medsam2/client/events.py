"""Take a stream of events apart, as the server sends them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator


def events_of(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Name and data of each event of a `text/event-stream`, as it comes.

    Args:
        lines: Without their ends.
    """
    name, data = "message", list[str]()
    for line in lines:
        if not line:
            if data:
                yield name, "\n".join(data)
            name, data = "message", []
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            name = value
        elif field == "data":
            data.append(value)
