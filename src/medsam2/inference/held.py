"""How many bytes the tensors and arrays take that somebody keeps."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Iterator

import numpy as np
from torch import Tensor


class Held:
    """A sum that grows with what is kept, and shrinks by itself when nobody keeps it any more.

    Moments of an undo share most of their values, so that a sum over all of them would count these again and
    again, or take longer than the work itself.
    """

    def __init__(self) -> None:
        self.num_bytes = 0
        self._counted: set[int] = set()

    def keep(self, value: object) -> None:
        """Count the tensors and arrays of a dataclass, those in its fields' dataclasses too, once each."""
        for part in _parts(value):
            if id(part) not in self._counted:
                self._counted.add(id(part))
                self.num_bytes += part.nbytes
                weakref.finalize(part, self._let_go, id(part), part.nbytes).atexit = False

    def _let_go(self, number: int, num_bytes: int) -> None:
        self._counted.discard(number)
        self.num_bytes -= num_bytes


def _parts(value: object) -> Iterator[Tensor | np.ndarray]:
    if isinstance(value, (Tensor, np.ndarray)):
        yield value
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from _parts(getattr(value, field.name))
