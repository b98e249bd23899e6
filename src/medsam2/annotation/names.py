"""Checks of the names of users, cases, objects and events: they come from strangers and go into files."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping

from medsam2.errors import InputError

MAX_USER = 64
MAX_OBJECT_NAME = 64
MAX_LABEL = 255
MAX_COMMENT = 2000
LONGEST_CASE_BYTES = 200
"""Longest name of a case: file systems allow 255 bytes, and a suffix is added."""

_BESIDE_LETTERS = "._- "
_KIND = re.compile(r"[a-z][a-z_]{0,23}")
_COLOUR = re.compile(r"#[0-9a-fA-F]{6}")
DEFAULT_COLOUR = "#e63c3c"


def check_user(name: object) -> str:
    """Return a user's name in the form that is stored, or refuse it.

    Raises:
        InputError: It is not 1 to 64 letters, digits, dots, underscores, hyphens and spaces.
    """
    if isinstance(name, str) and len(name) <= MAX_USER:
        # Keyboards encode accented letters in two ways; both must be the same user.
        kept = unicodedata.normalize("NFC", name).strip(" ")
        if 0 < len(kept) <= MAX_USER and all(sign.isalnum() or sign in _BESIDE_LETTERS for sign in kept):
            return kept
    raise InputError(
        f"a user's name is 1 to {MAX_USER} letters, digits, dots, underscores, hyphens or spaces, "
        f"not {_short(name)}"
    )


def check_case_name(name: str) -> str:
    """Return a case's name, or refuse one that a file should not have.

    Raises:
        InputError: The name is empty, hidden or too long, or has characters that cannot be printed.
    """
    if not name.strip() or name.startswith(".") or not name.isprintable() or "/" in name or "\\" in name:
        raise InputError(
            "a case's name has printable characters only, no slash and no dot at its start, unlike "
            f"{_short(name)}; rename the file"
        )
    if len(name.encode()) > LONGEST_CASE_BYTES:
        raise InputError(f"a case's name has at most {LONGEST_CASE_BYTES} bytes, {_short(name)} has more")
    return name


def check_kind(kind: object) -> str:
    """Return the kind of an event, or refuse it.

    Raises:
        InputError: It is not 1 to 24 small letters and underscores.
    """
    if isinstance(kind, str) and _KIND.fullmatch(kind):
        return kind
    raise InputError(
        f"the kind of an event is 1 to 24 small letters, such as box or brush, not {_short(kind)}"
    )


def check_comment(comment: object) -> str:
    """Return a comment, or refuse it.

    Raises:
        InputError: It is not text, is too long, or has characters that are neither printable nor line breaks.
    """
    is_short = isinstance(comment, str) and len(comment) <= MAX_COMMENT
    if is_short and all(sign.isprintable() or sign in "\r\n\t" for sign in str(comment)):
        return str(comment).strip()
    raise InputError(
        f"a comment is printable text of at most {MAX_COMMENT} characters, not {_short(comment)}"
    )


def check_json(what: str, value: object, max_bytes: int) -> str:
    """Return a value as JSON, or refuse it.

    Args:
        what: What the value is, as the subject of an error's sentence.
        value: The value.
        max_bytes: The most bytes that its JSON may have.

    Raises:
        InputError: The value is not JSON, or too large.
    """
    try:
        text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{what} must be JSON: {error}") from None
    if len(text) > max_bytes:
        raise InputError(f"{what} can be at most {max_bytes} bytes of JSON, not {len(text)}")
    return text


def check_objects(objects: object) -> dict[str, dict[str, str]]:
    """Return label -> {"name", "colour"} of a mask's objects, or refuse it.

    Args:
        objects: {"1": {"name": "liver", "colour": "#e63c3c"}, ...}; name and colour may be missing, and None
            stands for no objects.

    Raises:
        InputError: Something has another form.
    """
    if objects is None:
        return {}
    if not isinstance(objects, Mapping):
        raise InputError(f'objects are {{"1": {{"name", "colour"}}}}, not {_short(objects)}')
    found = {}
    for label, facts in objects.items():
        # str.isdecimal alone would accept digits of other scripts.
        is_number = isinstance(label, str) and re.fullmatch(r"[0-9]{1,3}", label) is not None
        if not is_number or not 1 <= int(label) <= MAX_LABEL:
            raise InputError(f"an object's number is 1 to {MAX_LABEL}, not {_short(label)}")
        if not isinstance(facts, Mapping):
            raise InputError(f"object {label} has a name and a colour, not {_short(facts)}")
        found[str(int(label))] = {
            "name": _object_name(facts.get("name", f"object {int(label)}")),
            "colour": _colour(facts.get("colour", DEFAULT_COLOUR)),
        }
    return found


def _object_name(name: object) -> str:
    if isinstance(name, str) and 0 < len(name.strip()) <= MAX_OBJECT_NAME and name.isprintable():
        return name.strip()
    raise InputError(f"an object's name is 1 to {MAX_OBJECT_NAME} printable characters, not {_short(name)}")


def _colour(colour: object) -> str:
    if isinstance(colour, str) and _COLOUR.fullmatch(colour):
        return colour.lower()
    raise InputError(f"a colour is # and six hexadecimal digits, not {_short(colour)}")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
