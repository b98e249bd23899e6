"""The server's log: one line of JSON per event, with nothing about a patient in it."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TextIO

import orjson

LOGGERS = ("medsam2.serving", "uvicorn.error")
_FIELDS = "medsam2_fields"


class JsonLines(logging.Formatter):
    """Turns records into JSON; a subclass, as that is how `logging` is told."""

    def format(self, record: logging.LogRecord) -> str:
        """Write a record with its fields."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage().strip(),
            **getattr(record, _FIELDS, {}),
        }
        if record.exc_info and record.exc_info[1] is not None:
            line |= _failure(record.exc_info[1])
        return orjson.dumps(line).decode()


def fields(**values: str | float | None) -> Mapping[str, Mapping[str, str | float | None]]:
    """The `extra` of a log call: values that get names of their own in the line."""
    return {_FIELDS: values}


@contextmanager
def log_lines_to(stream: TextIO) -> Iterator[None]:
    """Send what the server logs to a stream; undone at the end."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines())
    before = [(logger, logger.level, logger.propagate) for logger in map(logging.getLogger, LOGGERS)]
    for logger, _, _ in before:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False
    try:
        yield
    finally:
        for logger, level, propagate in before:
            logger.removeHandler(handler)
            logger.setLevel(level)
            logger.propagate = propagate


def _failure(error: BaseException) -> dict[str, object]:
    """What failed and where. Not its message, which may quote a file or a caller."""
    frames = traceback.extract_tb(error.__traceback__)
    places = [f"{frame.filename.rpartition('/')[2]}:{frame.lineno} {frame.name}" for frame in frames]
    return {"error": type(error).__name__, "where": places}
