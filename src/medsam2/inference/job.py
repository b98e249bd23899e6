"""One job: what to segment in which image, and what came of it. Every way into the package makes one.

    job = Job(image="ct.nii.gz", objects={1: [prompt_from(42, box=(120, 96, 180, 150))]})
    outcome = run(job, load("compact"))
    outcome.labels, outcome.measurements, outcome.scores, outcome.record

A command, a row of a table, a request to the server: each translates its own form into a `Job`, and an
`Outcome` back into its own form. Reading, checking, opening, prompting, propagating, measuring and recording
are done here.

`run` does a job in one go. A caller that has work between opening and prompting, or between two slices, does
the same in steps:

    opened = open_job(job, predictor)      # reads, checks and opens; computes nothing
    for slice_index in opened.propagate():  # prompts at the first step, then follows the objects
        ...
    outcome = opened.outcome()

The prompts of a job may depend on the image, as those of a file or of a rough mask do. Then `Job.objects` is
a function of the cut volume: one that calls `objects_of` or `objects_in_mask` of `inference.prompting`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from medsam2.errors import InputError
from medsam2.imaging.arrays import as_volume
from medsam2.imaging.io import read
from medsam2.imaging.volume import Volume
from medsam2.inference.grid import SliceGrid, cut_volume
from medsam2.inference.options import InferenceOptions
from medsam2.inference.predictor import Predictor
from medsam2.inference.prompting import Objects
from medsam2.inference.record import Record, record_of
from medsam2.inference.session import Session
from medsam2.prompts.types import Prompt

Progress = Callable[[int], None]
"""Called with the index of each slice when it is done."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Job:
    """What to segment, in which image and how."""

    image: object
    """A file, a DICOM folder, a volume that has been read already, or what else `as_volume` takes."""
    objects: Mapping[int, Sequence[Prompt]] | Callable[[SliceGrid], Objects]
    """Object number, 1 to 255, to its prompts; or a function that finds them in the cut volume."""
    names: Mapping[int, str | None] = field(default_factory=dict)
    """Of the objects, where they have some."""
    spacing: Sequence[float] | None = None
    """(x, y, z) in mm, where the image is a numpy array."""
    frame: int | None = None
    """Of a 4D file."""
    series: str | None = None
    """Of a DICOM folder: its number or UID."""
    window: str | tuple[float, float] | None = None
    """Name of a CT window, or its limits; None takes that of the prompts, or finds one."""
    plane: str | None = None
    """`axial`, `coronal` or `sagittal`."""
    axis: int | None = None
    """Or a file axis, 0 to 2; the third without either."""
    options: InferenceOptions = field(default_factory=InferenceOptions)


@dataclass(frozen=True, kw_only=True, eq=False)
class Outcome:
    """What came of a job; masks and measurements are made when they are first looked at."""

    session: Session
    """Still open: for single objects, pictures and corrections."""
    prompts: Mapping[int, Sequence[Prompt]]
    """Of each object, on the slices of the image."""
    names: Mapping[int, str | None]
    """Name of each object, None where it has none."""
    record: Record

    @cached_property
    def labels(self) -> Volume:
        """All objects as one uint8 label volume on the image's grid."""
        return self.session.result()

    @cached_property
    def measurements(self) -> dict[int, dict[str, float]]:
        """Of each object, see `TrackedObject.measurements`."""
        return {number: self.session.object(number).measurements() for number in self.names}

    @cached_property
    def scores(self) -> dict[int, dict[int, float]]:
        """How sure the network is of each object, 0..1, in each slice that it was followed into."""
        return {number: self.session.object(number).scores() for number in self.names}


class OpenJob:
    """A job whose volume is open and whose prompts are known; made by `open_job`."""

    def __init__(self, job: Job, predictor: Predictor, session: Session, objects: Objects) -> None:
        self.job = job
        self.predictor = predictor
        self.session = session
        self.prompts = objects.prompts
        self.names: dict[int, str | None] = {n: objects.names.get(n) for n in objects.prompts}
        self._started = time.perf_counter()

    def propagate(self) -> Iterator[int]:
        """Add the prompts, then follow the objects; each step is the work of one slice.

        Yields:
            The index of the slice that is done.

        Raises:
            PromptError: A prompt does not lie in the volume.
        """
        self.session.add_all(self.prompts)
        for slice_index, _ in self.session.propagate():
            yield slice_index

    def outcome(self) -> Outcome:
        """What came of it."""
        record = record_of(
            self.session, self.predictor.runtime, self.prompts, self.names,
            plane=self.job.plane, options=self.job.options, seconds=time.perf_counter() - self._started,
        )  # fmt: skip
        return Outcome(session=self.session, prompts=self.prompts, names=self.names, record=record)


def open_job(job: Job, predictor: Predictor) -> OpenJob:
    """Read a job's image, find its prompts and open a session; nothing is computed yet.

    Raises:
        InputError: The image cannot be read or has nothing to see, or a choice is not there; its subclass
            PromptError: the prompts cannot be read.
    """
    path = job.image if isinstance(job.image, (str, os.PathLike)) else None
    if path is None:
        volume = as_volume(job.image, spacing=job.spacing)
    else:
        volume = read(path, frame=job.frame, series=job.series)
    grid = cut_volume(volume, plane=job.plane, axis=job.axis)
    objects = job.objects(grid) if callable(job.objects) else Objects(prompts=job.objects, names=job.names)
    window = objects.window() if job.window is None else job.window
    try:
        session = predictor.session(
            volume, window=window, plane=job.plane, axis=job.axis, options=job.options
        )
    except InputError as error:
        raise (error if path is None else type(error)(f"{path}: {error}")) from error
    return OpenJob(job, predictor, session, objects)


def run(job: Job, predictor: Predictor, progress: Progress | None = None) -> Outcome:
    """Do a job.

    Args:
        job: What to segment.
        predictor: With what.
        progress: Called after each slice.

    Raises:
        InputError: See `open_job`; a prompt does not lie in the volume.
    """
    opened = open_job(job, predictor)
    for slice_index in opened.propagate():
        if progress is not None:
            progress(slice_index)
    return opened.outcome()
