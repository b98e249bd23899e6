"""The report of a run: held-out cases before and after it, as a page and as text."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from medsam2.evaluation.gallery import show_cases
from medsam2.evaluation.protocol import read_cases
from medsam2.evaluation.provenance import describe_run
from medsam2.evaluation.publish import PAGE, prepare_folder, publish
from medsam2.evaluation.rounds import RunOptions
from medsam2.evaluation.runner import CaseResult
from medsam2.evaluation.study import Arm, Masks, Study, conclude, run_arms_of
from medsam2.imaging.replacing import replacing
from medsam2.inference.predictor import load

TEXT = "report.txt"
_BEFORE, _AFTER = "before", "after"


def compare_weights(cases: Path, before: str | Path, after: Path, *, device: str, command: str) -> Study:
    """Segment cases with the weights that a run began with and with those that it ended with.

    Args:
        cases: The list of cases.
        before: Name or file of weights.
        after: File of weights.
        device: `auto`, `cpu` or `cuda`.
        command: What the report says was run.

    Returns:
        A study whose first arm is before, and whose masks are those of after.

    Raises:
        CheckpointError: Weights cannot be loaded.
        InputError: The list cannot be read, or MONAI is not installed.
    """
    listed, options = read_cases(cases), RunOptions()
    arms = [
        Arm(name=name, segmenter=load(weights, device=device), options=options)
        for name, weights in ((_BEFORE, before), (_AFTER, after))
    ]
    facts = describe_run(command, cases, [str(before), str(after)], device)
    masks = Masks()
    # The masks that are kept and shown are those of the arm that runs first.
    found = [(1 - arm, result) for arm, result in run_arms_of(listed, arms[::-1], masks)]
    return conclude(listed, arms, found, masks, facts)


def write_comparison(study: Study, folder: Path) -> list[str]:
    """Write a comparison as a page that needs no other file, as tables, and as text.

    Args:
        study: From `compare_weights`.
        folder: Where to write; made if need be.

    Returns:
        The lines of the text.

    Raises:
        InputError: A file cannot be written, or matplotlib is not installed.
    """
    prepare_folder(folder)
    turned = dataclasses.replace(study, arms=study.arms[::-1], results=study.results[::-1])
    publish(study, folder, show_cases(turned))
    lines = list(_lines(study))
    with replacing(folder / TEXT, ".part") as temporary:
        temporary.write_text("\n".join([*lines, f"pictures and tables: {PAGE}", ""]), encoding="utf-8")
    return lines


def _lines(study: Study) -> Iterator[str]:
    before, after = study.results
    pairs = list(zip(before, after, strict=True))
    width = max(len(first.name) for first, _ in pairs)
    measured = [(_dice(first), _dice(second)) for first, second in pairs]
    both = [(b, a) for b, a in measured if b is not None and a is not None]
    if both:
        first, second = (sum(values) / len(both) for values in zip(*both, strict=True))
        yield f"mean Dice of {len(both)} held-out objects: {first:.3f} before, {second:.3f} after"
        better = sum(a > b for b, a in both)
        worse = sum(a < b for b, a in both)
        yield f"{better} are better, {worse} worse"
    for (result, other), (b, a) in zip(pairs, measured, strict=True):
        if b is None or a is None:
            yield f"{result.name:{width}}  failed: {result.error or other.error}"
        else:
            yield f"{result.name:{width}}  {b:.3f} -> {a:.3f}  ({a - b:+.3f})"


def _dice(result: CaseResult) -> float | None:
    return None if result.scores is None else result.scores.dice
