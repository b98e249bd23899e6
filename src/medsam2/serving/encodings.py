"""JSON and base64 in the forms that callers write them in."""

from __future__ import annotations

import base64
import binascii
import codecs
from urllib.parse import unquote

import orjson

_OTHER_MARKS = {codecs.BOM_UTF16_LE: "UTF-16", codecs.BOM_UTF16_BE: "UTF-16"}
_TO_STANDARD = str.maketrans("-_", "+/")


def json_in(body: bytes | bytearray | memoryview) -> object:
    """Read JSON; a byte order mark before it says nothing (RFC 8259 lets a reader skip it).

    Raises:
        ValueError: It is none, in one clause.
    """
    text = memoryview(body)
    if bytes(text[:3]) == codecs.BOM_UTF8:
        text = text[3:]
    elif (mark := bytes(text[:2])) in _OTHER_MARKS:
        raise ValueError(f"it is text in {_OTHER_MARKS[mark]}; UTF-8 is expected")
    return orjson.loads(text)


def bytes_in(text: str) -> bytes:
    """Read base64 (RFC 4648) in either alphabet, with or without padding, line breaks and `data:...;base64,`.

    Raises:
        ValueError: It is none, in one clause.
    """
    if text[:5].lower() == "data:":
        head, comma, text = text.partition(",")
        if not comma or not head.lower().endswith(";base64"):
            raise ValueError("a data: URI holds ;base64, before its data")
        text = unquote(text) if "%" in text else text
    if any(space in text for space in "\r\n\t "):  # some encoders break lines
        text = "".join(text.split())
    if "-" in text or "_" in text:
        text = text.translate(_TO_STANDARD)
    text = text.rstrip("=") if text.endswith("=") else text
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from None
