"""The simulated user: the first prompt of a case, and a click in the largest error of each answer."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from medsam2.errors import InputError
from medsam2.evaluation.cases import Task, choose_box
from medsam2.imaging.geometry import slices_along
from medsam2.imaging.volume import Volume
from medsam2.inference.job import Job, open_job
from medsam2.inference.options import InferenceOptions
from medsam2.inference.predictor import Predictor
from medsam2.inference.record import watched_memory
from medsam2.prompts.simulate import box_of_line, center_point, largest_error_click, longest_line
from medsam2.prompts.types import MaskPrompt, Prompt, prompt_from

PROTOCOLS = ("box", "clicks", "mask", "recist", "interactive")
"""box: one box on the key slice. clicks: a click in the middle of the object there, the next ones in the
largest error. mask: the object in the key slice, drawn. recist: the box around its longest diameter there.
interactive: a box, then clicks in the largest error, as in the CVPR 2025 challenge."""

_NOISY = ("box", "interactive")
_CLICKING = ("clicks", "interactive")
_OBJECT = 1  # number of the object in its session


class BoxMethod(Protocol):
    """A method without corrections, such as the classical peers of the network."""

    def segment(self, job: Job) -> Volume:
        """Return the mask, 0 and 1 on the volume's grid, of the object in the one box of a job."""


Segmenter = Predictor | BoxMethod
"""What can be evaluated."""


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How cases are prompted.

    Raises:
        InputError: A number is out of range, a choice is unknown, or repeats would give the same numbers.
    """

    box_noise: float = 0.0
    """Largest shift of each end of the box, as a fraction of its width or height; 0 is no noise."""
    repeats: int = 1
    """How often each case is run, each time with other noise."""
    seed: int = 0
    """Of the noise."""
    memory: str = "recent"
    """The network's memory policy."""
    protocol: str = "box"
    """One of `PROTOCOLS`."""
    clicks: int = 5
    """How many, where the protocol has clicks; after the box in the protocol of the challenge."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        if not 0 <= self.box_noise <= 1:
            raise InputError(f"box noise is a fraction of the box's side, 0 to 1, not {self.box_noise:g}")
        if self.repeats < 1 or self.seed < 0:
            raise InputError(f"repeats start at 1 and seeds at 0, these are {self.repeats} and {self.seed}")
        if self.repeats > 1 and self.box_noise == 0:
            raise InputError(f"{self.repeats} repeats without noise on the box would give the same numbers")
        if self.protocol not in PROTOCOLS:
            raise InputError(f"protocol is one of {', '.join(PROTOCOLS)}, not {self.protocol!r}")
        if self.box_noise and self.protocol not in _NOISY:
            raise InputError(
                f"the protocol {self.protocol} has no box to put noise on; those that have are "
                f"{' and '.join(_NOISY)}"
            )
        if self.clicks < 1:
            raise InputError(f"clicks are at least 1, not {self.clicks}")

    @property
    def has_clicks(self) -> bool:
        """Whether the user corrects the first mask with clicks."""
        return self.protocol in _CLICKING


@dataclass(frozen=True, kw_only=True, eq=False)
class Answer:
    """The mask after one more interaction."""

    mask: npt.NDArray[np.bool_]
    """`(z, y, x)` on the scan's grid."""
    seconds: float
    """From the interaction to the mask; 0 if the mask before had no error, so that no click was placed."""
    peak_mib: float | None
    """The most memory that the process used meanwhile."""
    interactions: int
    """So far, this one included."""


def prompt_case(task: Task, segmenter: Segmenter, options: RunOptions, repeat: int) -> Iterator[Answer]:
    """Prompt a case, and correct the mask with as many clicks as the protocol has.

    A correction is a click in the slice where it lies, after which the object is propagated again. A mask
    without an error is not corrected; the clicks that are left give the same mask again.

    Yields:
        A mask for each interaction.

    Raises:
        InputError: The protocol needs more than a box, and the segmenter takes a box only.
        MedSAM2Error: The segmenter fails.
    """
    job = Job(
        image=task.volume,
        objects={_OBJECT: [first_prompt(task, options, repeat)]},
        window=task.case.window,
        axis=task.axis,
        options=InferenceOptions(memory=options.memory),
    )
    if not isinstance(segmenter, Predictor):
        if options.protocol != "box":
            raise InputError(
                f"the protocol {options.protocol} needs the network; this predictor takes a box only"
            )
        with _measured() as cost:
            mask = segmenter.segment(job).array != 0
        yield Answer(mask=mask, seconds=cost.seconds, peak_mib=cost.peak_mib, interactions=1)
        return
    with _measured() as cost:
        opened = open_job(job, segmenter)
        for _ in opened.propagate():
            pass
        session = opened.session
        mask = session.result().array != 0
    yield Answer(mask=mask, seconds=cost.seconds, peak_mib=cost.peak_mib, interactions=1)
    # The challenge counts clicks: a box that came before them is one interaction more.
    total = options.clicks + (options.protocol == "interactive") if options.has_clicks else 1
    truth = slices_along(task.truth, task.axis)
    for number in range(2, total + 1):
        click = largest_error_click(slices_along(mask, task.axis), truth)
        cost = _Cost()
        if click is not None:
            with _measured() as cost:
                session.add(_OBJECT, click)
                session.finish()
                mask = session.result().array != 0
        yield Answer(mask=mask, seconds=cost.seconds, peak_mib=cost.peak_mib, interactions=number)


@dataclass
class _Cost:
    """What an interaction took."""

    seconds: float = 0.0
    peak_mib: float | None = None


@contextmanager
def _measured() -> Iterator[_Cost]:
    """Measure the time and the memory of what is done inside."""
    cost = _Cost()
    with watched_memory() as peak:
        start = time.perf_counter()
        yield cost
        cost.seconds = time.perf_counter() - start
    cost.peak_mib = peak.mib


def first_prompt(task: Task, options: RunOptions, repeat: int) -> Prompt:
    """Return the first prompt of a case, from its truth in the key slice or from its box."""
    z = task.case.key_slice
    truth = slices_along(task.truth, task.axis)[z]
    if options.protocol == "mask":
        return Prompt(slice_index=z, mask=MaskPrompt(array=truth))
    if options.protocol == "clicks":
        return Prompt(slice_index=z, points=(center_point(truth, is_positive=True),))
    if options.protocol == "recist":
        x_mm, y_mm = (step for axis, step in enumerate(task.spacing) if axis != task.axis)
        line = longest_line(truth, (x_mm, y_mm))
        height, width = truth.shape
        return Prompt(slice_index=z, box=box_of_line(line, (height, width), (x_mm, y_mm)))
    box = choose_box(task, noise=options.box_noise, seed=options.seed, repeat=repeat)
    return prompt_from(z, box=box)


def auc(values: Sequence[float]) -> float | None:
    """Return the area under a score over the clicks, by trapezoids one click wide.

    The challenge's DSC_AUC and NSD_AUC: over the five masks after a click, so 4 at most. Ours differs from
    it in that the surface Dice is MONAI's, which counts surface voxels and not triangles, and that it is
    measured however low the Dice is (the challenge writes 0 below 0.2).

    Args:
        values: A score after each click, without that after the box.

    Returns:
        None for fewer than two clicks.
    """
    return float(np.trapezoid(values)) if len(values) > 1 else None
