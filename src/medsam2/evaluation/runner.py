"""Run a predictor over cases and measure what it finds."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from medsam2.errors import MedSAM2Error
from medsam2.evaluation.extent import poor_slices
from medsam2.evaluation.metrics import load_monai, measure
from medsam2.evaluation.protocol import Case
from medsam2.evaluation.rounds import RunOptions, Segmenter, ask, auc
from medsam2.evaluation.scoring import Scores, score
from medsam2.evaluation.task import Task, read_task
from medsam2.imaging.geometry import slices_along

# The last three are what a machine that is too small, or a file that vanishes, looks like.
_FAILURES = (MedSAM2Error, RuntimeError, MemoryError, OSError)

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Step:
    """What the mask was after one interaction."""

    interactions: int
    """So far, this one included."""
    dice: float
    surface_dice: float
    seconds: float
    """That the machine took for this interaction."""
    poor_slices: int
    """Slices of the object or the mask whose own Dice is below `extent.TARGET_DICE`."""


@dataclass(frozen=True, kw_only=True)
class CaseResult:
    """One run of one case."""

    name: str
    modality: str
    target: str
    dimensions: int
    """3, or 2 for a picture."""
    repeat: int = 0
    """Counted from 0."""
    scan: int | None = None
    """Cases of one patient, or of one image, share a number; see `protocol.Case`."""
    reference: str | None = None
    """How the truth was made; see `protocol.Case`."""
    scores: Scores | None = None
    """Of the last mask; None if the case failed."""
    steps: tuple[Step, ...] = ()
    """The mask after each interaction."""
    error: str | None = None
    """Why it failed, in a sentence."""


Keep = Callable[[CaseResult, np.ndarray], None]
"""Takes a result and its mask, bool `(z, y, x)`, which is not kept otherwise."""


def run_cases(
    cases: Iterable[Case],
    segmenter: Segmenter,
    options: RunOptions | None = None,
    *,
    keep: Keep | None = None,
) -> Iterator[CaseResult]:
    """Run cases one by one; one that fails does not stop the rest.

    Args:
        cases: What to run.
        segmenter: What to run it with.
        options: How to prompt; the tight box once if not given.
        keep: Is given each result with its last mask.

    Yields:
        One result for each repeat of each case, as it is done.

    Raises:
        InputError: MONAI, which measures, is not installed.
    """
    options = options or RunOptions()
    load_monai()  # or every case would fail for the same reason
    for case in cases:
        try:
            task = read_task(case)
        except _FAILURES as error:
            yield from (_failed(case, repeat, error) for repeat in range(options.repeats))
            continue
        for repeat in range(options.repeats):
            try:
                result, mask = _run_task(task, segmenter, options, repeat)
            except _FAILURES as error:
                yield _failed(case, repeat, error)
                continue
            if keep is not None:
                keep(result, mask)
            yield result


def _run_task(
    task: Task, segmenter: Segmenter, options: RunOptions, repeat: int
) -> tuple[CaseResult, np.ndarray]:
    steps: list[Step] = []
    peaks: list[float] = []
    for answer in ask(task, segmenter, options, repeat):
        mask = answer.mask
        agreement = measure(mask, task.truth, task.spacing)
        slices, truth = (slices_along(array, task.axis) for array in (mask, task.truth))
        steps.append(
            Step(
                interactions=answer.interactions,
                dice=agreement.dice,
                surface_dice=agreement.surface_dice,
                seconds=answer.seconds,
                poor_slices=poor_slices(slices, truth),
            )
        )
        peaks += [] if answer.peak_mib is None else [answer.peak_mib]
    seconds, peak_mib = sum(step.seconds for step in steps), max(peaks, default=None)
    scores = score(mask, task, agreement, seconds=seconds, peak_mib=peak_mib)
    if options.has_clicks:
        after_clicks = [step for step in steps if step.interactions > 1 or options.protocol == "clicks"]
        scores = dataclasses.replace(
            scores,
            dice_auc=auc([step.dice for step in after_clicks]),
            surface_dice_auc=auc([step.surface_dice for step in after_clicks]),
        )
    result = dataclasses.replace(_blank(task.case, repeat), scores=scores, steps=tuple(steps))
    return result, mask


def _failed(case: Case, repeat: int, error: Exception) -> CaseResult:
    if not isinstance(error, MedSAM2Error):
        _logger.error("case %s failed", case.name, exc_info=error)
    return dataclasses.replace(_blank(case, repeat), error=str(error) or type(error).__name__)


def _blank(case: Case, repeat: int) -> CaseResult:
    return CaseResult(
        name=case.name,
        modality=case.modality,
        target=case.target,
        dimensions=2 if case.axis is None else 3,
        repeat=repeat,
        scan=case.scan,
        reference=case.reference,
    )
