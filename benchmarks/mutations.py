"""What can be wrong with a header, by chance and on purpose, as changes to its bytes."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Sequence
from random import Random

from small_files import Element, SmallFile

_INTEGERS = (
    0,
    1,
    -1,
    2,
    3,
    4,
    7,
    8,
    127,
    128,
    255,
    256,
    32767,
    -32768,
    65535,
    2**31 - 1,
    -(2**31),
    2**32 - 1,
)
_LARGE = (2**40, 2**62, 2**63 - 1, -(2**63))
_FLOATS = (0.0, -0.0, 1.0, -1.0, 1e-45, 1e-30, 1e30, 3e38, float("inf"), float("-inf"), float("nan"))
_WORDS = (
    *(b"", b"0", b"-1", b"1", b"2", b"3", b"4", b"16", b"65535", b"-0", b"00", b"1e", b"+", b" "),
    *(b"4294967296", b"99999999999999999999", b"9" * 400, b"nan", b"inf", b"-inf", b"1e400", b"1e-400"),
    *(b"1e30", b"0.0", b"0x10", b"True", b"None", b"\\", b"1\\2", b"1\\2\\3\\4", b"\\\\\\", b"a" * 300),
    *(b"()", b"(1,)", b"{}", b"'", b'"', b"%", b"%s%n", b"../x", b"/dev/null", b"LOCAL", b"LIST", b"\0"),
    *(b"\xff\xfe\x00", b"\xc3\xa9", b"\r", b"\n", b"\n\n", b"int", b"double", b"short", b"O", b"<f8", b"|O"),
    *(b"gzip", b"raw", b"ascii", b"hex", b"bzip2", b"MET_DOUBLE", b"MET_UCHAR_ARRAY", b"block", b"float"),
    *(b"MONOCHROME1", b"RGB", b"PALETTE COLOR", b"MR", b"US", b"SEG", b"LOCALIZER", b"1.2.840.10008.1.2.5"),
)
_TOKEN = re.compile(rb"[^\s,:=()\\]+")
_VRS = (
    b"US",
    b"SS",
    b"UL",
    b"SL",
    b"FL",
    b"FD",
    b"DS",
    b"IS",
    b"CS",
    b"UI",
    b"LO",
    b"SQ",
    b"OW",
    b"UN",
    b"AT",
)
_LARGEST_NUMBER_OF_CHANGES = 4

Change = Callable[[bytearray, int, Random], None]


def mutated(file: SmallFile, random: Random) -> bytes:
    """Return a file with one to four things wrong in its header, packed as its format is.

    Args:
        file: The sound one.
        random: Chooses; the same state gives the same bytes.
    """
    content = bytearray(file.content)
    if file.elements and random.random() < 0.7:
        _change_element(content, random.choice(file.elements), random)
        return bytes(content)
    changes = _TEXT_CHANGES if file.is_text and random.random() < 0.8 else _BYTE_CHANGES
    for _ in range(random.randint(1, _LARGEST_NUMBER_OF_CHANGES)):
        # What was changed before may have made the header shorter.
        random.choice(changes)(content, max(1, min(file.header_size, len(content))), random)
    return file.pack(bytes(content))


def _flip(content: bytearray, size: int, random: Random) -> None:
    if content:
        content[random.randrange(size)] ^= 1 << random.randrange(8)


def _set_byte(content: bytearray, size: int, random: Random) -> None:
    if content:
        content[random.randrange(size)] = random.randrange(256)


def _set_number(content: bytearray, size: int, random: Random) -> None:
    """Write a number at an even place, as headers have them."""
    place = random.randrange(size) & ~1
    value = _number(random)
    content[place : place + len(value)] = value


def _cut_off(content: bytearray, size: int, random: Random) -> None:
    del content[random.randrange(size) :]


def _cut_out(content: bytearray, size: int, random: Random) -> None:
    place = random.randrange(size)
    del content[place : place + random.randint(1, 16)]


def _repeat(content: bytearray, size: int, random: Random) -> None:
    place = random.randrange(size)
    content[place:place] = content[place : place + random.randint(1, 32)]


def _replace_token(content: bytearray, size: int, random: Random) -> None:
    tokens = list(_TOKEN.finditer(content, 0, size))
    if tokens:
        start, end = random.choice(tokens).span()
        content[start:end] = random.choice(_WORDS)


def _insert_word(content: bytearray, size: int, random: Random) -> None:
    place = random.randrange(size)
    content[place:place] = random.choice(_WORDS)


def _move_line(content: bytearray, size: int, random: Random) -> None:
    """Take a line out, and put it in again elsewhere, twice or never."""
    lines = bytes(content[:size]).splitlines(keepends=True)
    line = lines.pop(random.randrange(len(lines))) if lines else b""
    for _ in range(random.randrange(3)):
        lines.insert(random.randint(0, len(lines)), line)
    content[:size] = b"".join(lines)


_BYTE_CHANGES: tuple[Change, ...] = (_flip, _set_byte, _set_number, _set_number, _cut_off, _cut_out, _repeat)
_TEXT_CHANGES: tuple[Change, ...] = (_replace_token, _replace_token, _insert_word, _move_line, _cut_off)


def _number(random: Random) -> bytes:
    order = random.choice("<>")
    kind = random.choice("hiqfd")
    if kind in "fd":
        return struct.pack(f"{order}{kind}", random.choice(_FLOATS))
    bits = {"h": 16, "i": 32, "q": 64}[kind]
    value = random.choice(_INTEGERS if kind != "q" else _INTEGERS + _LARGE)
    return struct.pack(f"{order}{kind.upper()}", value % (1 << bits))


def _change_element(content: bytearray, element: Element, random: Random) -> None:
    """Leave the file whole but for one element: its value, its kind, or whether it is there."""
    what = random.randrange(8)
    if what == 0:
        _resize(content, element.lengths[1:], element.start - element.end)
        del content[element.start : element.end]
    elif what == 1:
        again = content[element.start : element.end]
        _resize(content, element.lengths[1:], len(again))
        content[element.end : element.end] = again
    elif what == 2:
        content[element.start + 4 : element.start + 6] = random.choice(_VRS)
    else:
        value = _value(content[element.value : element.end], random)
        value += b" " * (len(value) % 2)  # an odd length is another fault
        _resize(content, element.lengths, len(value) - (element.end - element.value))
        content[element.value : element.end] = value


def _value(old: bytes | bytearray, random: Random) -> bytes:
    what = random.randrange(4)
    if what == 0:
        return _number(random) * random.choice((1, 1, 2, 3))
    parts = bytes(old).split(b"\\")
    if what == 1 and len(parts) > 1:
        parts[random.randrange(len(parts))] = random.choice(_WORDS)
        return b"\\".join(parts)
    if what == 2:
        return bytes(old[: random.randint(0, len(old))])
    return random.choice(_WORDS)


def _resize(content: bytearray, lengths: Sequence[tuple[int, int]], change: int) -> None:
    """Have every length that counts a value count what it has become."""
    for place, num_bytes in lengths:
        size = int.from_bytes(content[place : place + num_bytes], "little") + change
        content[place : place + num_bytes] = (size % (1 << 8 * num_bytes)).to_bytes(num_bytes, "little")
