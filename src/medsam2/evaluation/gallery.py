"""The best, the median and the worst case of an evaluation, as pictures."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medsam2.evaluation.cases import Case, read_task
from medsam2.evaluation.experiment import Study
from medsam2.evaluation.runner import CaseResult
from medsam2.evaluation.simulated_user import RunOptions, first_prompt
from medsam2.imaging.geometry import slices_along
from medsam2.imaging.intensity import resolve_window, to_uint8
from medsam2.measure.preview import draw_preview


@dataclass(frozen=True, kw_only=True)
class Exhibit:
    """A case and what it looks like."""

    rank: str
    """best, median or worst; several where there are few runs."""
    result: CaseResult
    found_jpeg: bytes
    """The prompted slice with the box, if there was one, and slices through the object; the mask outlined."""
    truth_jpeg: bytes
    """The same for the reference, without the box."""


def show_cases(study: Study) -> list[Exhibit]:
    """Draw the best, the median and the worst run of the first arm by Dice, first repeats only.

    Raises:
        InputError: A file that was there before is no longer.
    """
    cases = {case.name: case for case in study.cases}
    return [
        _draw(rank, result, cases[result.name], study.masks.get(result), study.options)
        for rank, result in choose_cases(study.results[0])
    ]


def choose_cases(results: Sequence[CaseResult]) -> list[tuple[str, CaseResult]]:
    """Choose up to three runs by Dice, of the scans where there are any, or else of the pictures.

    Of an even number the lower one is the median.
    """
    ran = [result for result in results if result.scores is not None and result.repeat == 0]
    ranked = sorted(
        [result for result in ran if result.dimensions == 3] or ran,
        key=lambda result: -1.0 if result.scores is None else result.scores.dice,
    )
    if not ranked:
        return []
    chosen = {"best": ranked[-1], "median": ranked[(len(ranked) - 1) // 2], "worst": ranked[0]}
    # Of fewer than three runs one has several ranks; it is shown once.
    ranks: dict[str, list[str]] = {}
    for rank, result in chosen.items():
        ranks.setdefault(result.name, []).append(rank)
    named = {result.name: result for result in chosen.values()}
    return [(" and ".join(of_case), named[name]) for name, of_case in ranks.items()]


def _draw(rank: str, result: CaseResult, case: Case, mask: np.ndarray, options: RunOptions) -> Exhibit:
    task = read_task(case)
    slices = slices_along(task.volume.array, task.axis)
    limits = resolve_window(task.volume, case.window)
    width_mm, height_mm = (step for axis, step in enumerate(task.spacing) if axis != task.axis)
    box = first_prompt(task, options, result.repeat).box

    def picture(shown: np.ndarray, *, with_box: bool) -> bytes:
        drawn = draw_preview(
            lambda z: to_uint8(slices[z], limits),
            slices_along(shown, task.axis),
            case.key_slice,
            box_xyxy=box.xyxy if with_box and box is not None else None,
            aspect=height_mm / width_mm,
        )
        buffer = io.BytesIO()
        # A third of a PNG. Colours keep their resolution, or thin outlines would fade.
        drawn.save(buffer, format="JPEG", quality=85, subsampling=0, optimize=True)
        return buffer.getvalue()

    return Exhibit(
        rank=rank,
        result=result,
        found_jpeg=picture(mask, with_box=True),
        truth_jpeg=picture(task.truth, with_box=False),
    )
