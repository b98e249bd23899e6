"""The most memory that a stretch of work had in use."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

# Linux keeps a high-water mark of each process and takes it back to today's level on request (proc(5)).
_STATUS = Path("/proc/self/status")
_RESET = Path("/proc/self/clear_refs")
_RESET_MARK = "5"
_MARK = "VmHWM:"


@dataclass
class Peak:
    """Filled when the work is done."""

    mib: float | None = None
    """Of the whole process, libraries and weights included; None where the system does not tell."""


@contextmanager
def watched_memory() -> Iterator[Peak]:
    """Give a `Peak` that says, after the block, how much memory the process held at most within it."""
    peak = Peak()
    can_reset = _reset()
    yield peak
    if can_reset:
        peak.mib = _read()


def _reset() -> bool:
    try:
        _RESET.write_text(_RESET_MARK)
    except OSError:
        return False
    return True


def _read() -> float | None:
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return None
    kib = next((line.split()[1] for line in lines if line.startswith(_MARK)), None)
    return None if kib is None else int(kib) / 1024
