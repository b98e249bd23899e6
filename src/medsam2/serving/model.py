"""The one model of a server, and the thread that all its work is done in."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from medsam2.errors import InputError
from medsam2.imaging.intensity import check_intensities
from medsam2.imaging.volume import Volume
from medsam2.serving.answers import Found
from medsam2.serving.faults import in_column
from medsam2.serving.meters import Meters
from medsam2.serving.rows import Row
from medsam2.serving.threads import Threads

if TYPE_CHECKING:
    from medsam2.inference.predictor import Predictor
    from medsam2.inference.session import Session

_Result = TypeVar("_Result")
_Step = tuple[int, Mapping[int, npt.NDArray[np.bool_]]]


class Loaded(NamedTuple):
    """A predictor, and the name or the file of its weights."""

    predictor: Predictor
    weights: str


class Model:
    """A predictor whose work is done slice by slice, in the order it is asked for.

    Whoever follows objects asks for one slice after the other, so that others' slices come in between: a
    click waits for a slice of each of them, not for a volume.
    """

    def __init__(self, predictor: Predictor, weights: str, meters: Meters) -> None:
        self.loaded = Loaded(predictor, weights)
        self._meters = meters
        self._thread = Threads(1, "medsam2-model")
        self._row = asyncio.Lock()

    @property
    def predictor(self) -> Predictor:
        """The one for what begins now."""
        return self.loaded.predictor

    def take(self, predictor: Predictor, weights: str) -> None:
        """Let what begins from now on use other weights; open sessions keep those they were opened with."""
        self.loaded = Loaded(predictor, weights)

    async def run(self, work: Callable[[], _Result]) -> _Result:
        """Do some work in the model's thread; see `Threads.run`."""
        return await self._thread.run(work)

    async def step(self, steps: Iterator[_Step]) -> _Step | None:
        """Follow objects into the next slice; None when there is none left."""
        step = await self.run(partial(next, steps, None))
        if step is not None:
            self._meters.slices.inc()
        return step

    async def follow(self, session: Session) -> None:
        """Follow a session's objects through their volume, in turn with others who ask for a whole one."""
        async with self._row:
            with self._meters.model_seconds.time():
                steps = session.propagate()
                while await self.step(steps) is not None:
                    pass

    async def segment(self, volume: Volume, row: Row) -> Found:
        """Segment what a row asks for; if the caller is cancelled, the work ends with the slice at hand.

        Raises:
            Fault: 422, the image or the prompt is not usable.
        """
        async with self._row:  # in turn: the first is not kept waiting for the last
            started = time.perf_counter()
            try:
                session = await self.run(partial(self._begin, volume, row))
                steps = session.propagate()
                while await self.step(steps) is not None:
                    pass
                return await self.run(lambda: Found.of(session.result(), row))
            finally:
                self._meters.model_seconds.observe(time.perf_counter() - started)

    def close(self) -> None:
        """Let what is at work come to its end."""
        self._thread.close()

    def _begin(self, volume: Volume, row: Row) -> Session:
        from medsam2.inference.options import InferenceOptions

        try:
            check_intensities(volume.array)
        except InputError as error:
            raise in_column(row.number, "nii_image", error) from None
        session = self.predictor.session(
            volume, window=row.window, options=InferenceOptions(memory=row.memory)
        )
        session.add(
            1,
            slice=row.adjusted_index,
            box=row.box_xyxy,
            points=row.points_xy,
            labels=row.point_labels,
        )
        return session
