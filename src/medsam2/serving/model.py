"""The one model of a server, and the thread that all its work is done in."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from medsam2.errors import InputError
from medsam2.imaging.intensity import check_intensities
from medsam2.imaging.volume import Volume
from medsam2.serving.answers import Found
from medsam2.serving.faults import in_column
from medsam2.serving.meters import Meters
from medsam2.serving.rows import Row

if TYPE_CHECKING:
    from medsam2.inference.predictor import Predictor


class Stopped(Exception):
    """Nobody waits for the mask any more."""


class Model:
    """A predictor whose work is done in the order it is asked for, one row at a time."""

    def __init__(self, predictor: Predictor, meters: Meters) -> None:
        self._predictor = predictor
        self._meters = meters
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="medsam2-model")

    async def segment(self, volume: Volume, row: Row) -> Found:
        """Segment what a row asks for; if the caller is cancelled, the work ends with the slice at hand.

        Raises:
            Fault: 422, the image or the prompt is not usable.
        """
        stop = threading.Event()
        work = asyncio.get_running_loop().run_in_executor(self._executor, self._work, volume, row, stop)
        try:
            return await work
        finally:
            stop.set()

    def close(self) -> None:
        """Let what is at work come to its end."""
        self._executor.shutdown(wait=True)

    def _work(self, volume: Volume, row: Row, stop: threading.Event) -> Found:
        started = time.perf_counter()
        try:
            return Found.of(self._mask(volume, row, stop), row)
        finally:
            self._meters.model_seconds.observe(time.perf_counter() - started)

    def _mask(self, volume: Volume, row: Row, stop: threading.Event) -> Volume:
        from medsam2.inference.options import InferenceOptions

        try:
            check_intensities(volume.array)
        except InputError as error:
            raise in_column(row.number, "nii_image", error) from None
        session = self._predictor.session(
            volume, window=row.window, options=InferenceOptions(memory=row.memory)
        )
        session.add(
            1,
            slice=row.adjusted_index,
            box=row.box_xyxy,
            points=row.points_xy,
            labels=row.point_labels,
        )
        for _ in session.propagate():
            self._meters.slices.inc()
            if stop.is_set():
                raise Stopped
        return session.result()
