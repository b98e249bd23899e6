"""The log: JSON, a line each, and no word of a message that an exception carries."""

from __future__ import annotations

import io
import json
import logging

from medsam2.serving.observe import LOGGERS, fields, log_lines_to


def test_lines_are_json_with_fields_and_without_messages_of_exceptions() -> None:
    stream = io.StringIO()
    logger = logging.getLogger("medsam2.serving.somewhere")
    before = [(logging.getLogger(name).level, logging.getLogger(name).propagate) for name in LOGGERS]
    with log_lines_to(stream):
        logger.info("request", extra=fields(status=200, path="/score"))
        try:
            int("Roe^Jane")
        except ValueError:
            logger.exception("Exception\n")
        logging.getLogger("uvicorn.error").warning("two\nlines of %s", "text")
        logger.debug("nothing")
    logger.info("after the end")
    request, failure, other = map(json.loads, stream.getvalue().splitlines())
    assert request.items() >= {"level": "info", "event": "request", "status": 200, "path": "/score"}.items()
    assert request["time"].endswith("+00:00")
    assert failure["error"] == "ValueError"
    assert failure["event"] == "Exception"
    assert failure["where"][0].startswith("test_logs.py:")
    assert "Jane" not in stream.getvalue()
    assert other["event"] == "two\nlines of text"
    assert before == [(logging.getLogger(name).level, logging.getLogger(name).propagate) for name in LOGGERS]
