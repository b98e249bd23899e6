"""Masks of frames that were found before their turn, in a nameless file on disk."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

import numpy as np
import numpy.typing as npt
import torch

from medsam2.errors import InputError
from medsam2.imaging.labels import from_run_lengths, run_lengths
from medsam2.inference.postprocess import to_slice
from medsam2.inference.state import SliceResult
from medsam2.inference.zoom import View


@dataclass(frozen=True, kw_only=True, eq=False)
class Found:
    """An object in a frame."""

    mask: npt.NDArray[np.bool_]
    """`(y, x)`."""
    score: float
    logits: Callable[[], npt.NDArray[np.float32]]
    """Gives the mask's logits `(y, x)`."""


@dataclass(frozen=True, kw_only=True)
class _Place:
    """Where an object's mask in a frame lies in the file, and what is small enough to be kept."""

    offset: int
    score: float
    view: View


class MaskArchive:
    """Writes masks as run lengths, and logits as the network gave them where objects may overlap.

    Args:
        shape_yx: Size of a frame.
        keeps_logits: Whether logits are asked for later.
    """

    def __init__(self, shape_yx: tuple[int, int], *, keeps_logits: bool) -> None:
        self._shape_yx = shape_yx
        self._keeps_logits = keeps_logits
        self._places: dict[int, dict[int, _Place]] = {}
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  closed by __exit__

    def __enter__(self) -> MaskArchive:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def put(self, index: int, number: int, result: SliceResult, mask: npt.NDArray[np.bool_]) -> None:
        """Keep what was found of an object in a frame.

        Raises:
            InputError: The folder for temporary files has no room.
        """
        try:
            offset = self._file.seek(0, 2)
            np.save(self._file, run_lengths(mask))
            if self._keeps_logits:
                np.save(self._file, result.frame.low_res_logits.float().cpu().numpy())
        except OSError as error:
            raise InputError(
                f"masks do not fit into the folder for temporary files {tempfile.gettempdir()}: "
                f"{error.strerror or error}"
            ) from error
        place = _Place(offset=offset, score=result.score, view=result.view)
        self._places.setdefault(index, {})[number] = place

    def take(self, index: int) -> dict[int, Found]:
        """Give the objects of a frame by their numbers, and forget where they are."""
        return {number: self._read(place) for number, place in self._places.pop(index, {}).items()}

    def _read(self, place: _Place) -> Found:
        self._file.seek(place.offset)
        mask = from_run_lengths(np.load(self._file), self._shape_yx)
        low_res = np.load(self._file) if self._keeps_logits else None

        def logits() -> npt.NDArray[np.float32]:
            assert low_res is not None, "a single object is never contested"
            return to_slice(torch.from_numpy(low_res), place.view, self._shape_yx)

        return Found(mask=mask, score=place.score, logits=logits)
