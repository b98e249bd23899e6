"""Show what an evaluation has found: as a table, as CSV, as JSON."""

import csv
import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

from medsam2.evaluation.runner import CaseResult, Step
from medsam2.evaluation.scoring import Scores
from medsam2.evaluation.summary import Means, Summary
from medsam2.imaging.replacing import replacing

Record = dict[str, str | int | float | None]

TABLE_HEADER = ("case", "Dice", "surface Dice", "HD95", "key slice", "over", "under", "seconds")
"""HD95 comes with its unit; over counts slices with a mask where none should be, under the reverse."""

_SCORE_NAMES = tuple(field.name for field in dataclasses.fields(Scores))
_STEP_NAMES = tuple(field.name for field in dataclasses.fields(Step))
_CASE_NAMES = tuple(
    field.name for field in dataclasses.fields(CaseResult) if field.name not in ("scores", "steps", "error")
)


def write_csv(results: Sequence[CaseResult], path: Path) -> None:
    """Write one row a run; an existing file is replaced once all is written.

    What a run does not have is empty, the HD95 of a run that found nothing is `inf`.

    Raises:
        InputError: The file cannot be written.
    """
    with (
        replacing(path, ".part") as temporary,
        temporary.open("x", encoding="utf-8", newline="") as file,
    ):
        writer = csv.DictWriter(file, [*_CASE_NAMES, *_SCORE_NAMES, "error"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(_flatten(result) for result in results)


def write_steps_csv(results: Sequence[CaseResult], path: Path) -> None:
    """Write one row an interaction; an existing file is replaced once all is written.

    Raises:
        InputError: The file cannot be written.
    """
    rows = [
        {"name": result.name, "repeat": result.repeat, **dataclasses.asdict(step)}
        for result in results
        for step in result.steps
    ]
    with (
        replacing(path, ".part") as temporary,
        temporary.open("x", encoding="utf-8", newline="") as file,
    ):
        writer = csv.DictWriter(file, ["name", "repeat", *_STEP_NAMES], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def as_json(results: Sequence[CaseResult], summary: Summary) -> dict[str, object]:
    """Return results and means as values that JSON knows; an infinite distance becomes null."""
    return {
        "cases": [{**_finite(_flatten(result)), **_steps(result)} for result in results],
        "means": {
            "3d": _finite(dataclasses.asdict(summary.volumes)),
            "2d": _finite(dataclasses.asdict(summary.stills)),
            "by_modality": {
                name: _finite(dataclasses.asdict(means)) for name, means in summary.by_modality.items()
            },
        },
    }


def as_table(results: Sequence[CaseResult], summary: Summary) -> tuple[list[list[str]], list[list[str]]]:
    """Return the rows of runs and the rows of means under `TABLE_HEADER`, as texts."""
    runs = [[_name(result), *_cells(result.scores)] for result in results]
    groups = [("3D", summary.volumes), ("2D", summary.stills), *summary.by_modality.items()]
    means = [[_title(name, group), *_cells(group)] for name, group in groups if group.num_runs]
    return runs, means


def _flatten(result: CaseResult) -> Record:
    record: Record = {name: getattr(result, name) for name in _CASE_NAMES}
    record |= {name: None if result.scores is None else getattr(result.scores, name) for name in _SCORE_NAMES}
    record["error"] = result.error
    return record


def _steps(result: CaseResult) -> dict[str, object]:
    """The way to the last mask, where there was more than one interaction."""
    if len(result.steps) < 2:
        return {}
    return {"steps": [dataclasses.asdict(step) for step in result.steps]}


def _finite(record: Record) -> Record:
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in record.items()
    }


def _name(result: CaseResult) -> str:
    return result.name if result.repeat == 0 else f"{result.name} #{result.repeat + 1}"


def _title(name: str, means: Means) -> str:
    counts = {"failed": means.num_failed, "missed": means.num_missed}
    notes = "".join(f", {count} {what}" for what, count in counts.items() if count)
    return f"mean {name} ({means.num_runs} runs{notes})"


def _cells(scores: Scores | Means | None) -> list[str]:
    if scores is None:
        return ["failed", *[""] * (len(TABLE_HEADER) - 2)]
    return [
        _number(scores.dice, ".3f"),
        _number(scores.surface_dice, ".3f"),
        " ".join(
            f"{value:.1f} {unit}"
            for value, unit in ((scores.hd95_mm, "mm"), (scores.hd95_px, "px"))
            if value is not None
        ),
        _number(scores.key_slice_dice, ".3f"),
        _number(scores.over_slices, ".3g"),
        _number(scores.under_slices, ".3g"),
        _number(scores.seconds, ".2f"),
    ]


def _number(value: float | None, style: str) -> str:
    return "" if value is None else format(value, style)
