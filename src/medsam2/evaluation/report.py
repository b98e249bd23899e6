"""Write the results of an evaluation: a table, CSV, JSON, or a folder with a page."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path

from medsam2.evaluation.comparison import Difference
from medsam2.evaluation.experiment import Experiment
from medsam2.evaluation.page import Exhibit, render_page, show_cases
from medsam2.evaluation.runner import CaseResult, Scores, Step
from medsam2.evaluation.summary import Means, Summary, summarise
from medsam2.reports.charts import check_matplotlib
from medsam2.reports.page import PAGE as PAGE
from medsam2.reports.page import make_folder, write_text
from medsam2.reports.tables import write_rows

TABLE_HEADER = ("case", "Dice", "surface Dice", "HD95", "key slice", "over", "under", "seconds")
"""HD95 comes with its unit; over counts slices with a mask where none should be, under the reverse."""

_SCORE_NAMES = tuple(field.name for field in dataclasses.fields(Scores))
_STEP_NAMES = tuple(field.name for field in dataclasses.fields(Step))
_CASE_NAMES = tuple(
    field.name for field in dataclasses.fields(CaseResult) if field.name not in ("scores", "steps", "error")
)


def write_csv(results: Sequence[CaseResult], path: Path) -> None:
    """Write a CSV with one row a run; an earlier file is replaced once the new one is whole.

    A value that a run does not have is empty; the HD95 of a run that found nothing is `inf`.

    Raises:
        InputError: The file cannot be written.
    """
    rows = [list(_flatten(result).values()) for result in results]
    write_rows(path, [*_CASE_NAMES, *_SCORE_NAMES, "error"], rows)


def write_steps_csv(results: Sequence[CaseResult], path: Path) -> None:
    """Write a CSV with one row an interaction; an earlier file is replaced once the new one is whole.

    Raises:
        InputError: The file cannot be written.
    """
    rows = [
        [result.name, result.repeat, *dataclasses.asdict(step).values()]
        for result in results
        for step in result.steps
    ]
    write_rows(path, ["name", "repeat", *_STEP_NAMES], rows)


def as_json(results: Sequence[CaseResult], summary: Summary) -> dict[str, object]:
    """Return results and means as values that JSON knows; an infinite distance becomes null."""
    return {
        "cases": [_plain(_flatten(result) | _steps(result)) for result in results],
        "means": {
            "3d": _plain(dataclasses.asdict(summary.volumes)),
            "2d": _plain(dataclasses.asdict(summary.stills)),
            "by_modality": {
                name: _plain(dataclasses.asdict(means)) for name, means in summary.by_modality.items()
            },
        },
    }


def as_table(results: Sequence[CaseResult], summary: Summary) -> tuple[list[list[str]], list[list[str]]]:
    """Return the rows of runs and the rows of means under `TABLE_HEADER`, as texts."""
    runs = [[_name(result), *_cells(result.scores)] for result in results]
    groups = [("3D", summary.volumes), ("2D", summary.stills), *summary.by_modality.items()]
    means = [[_title(name, group), *_cells(group)] for name, group in groups if group.num_runs]
    return runs, means


def _flatten(result: CaseResult) -> dict[str, object]:
    record: dict[str, object] = {name: getattr(result, name) for name in _CASE_NAMES}
    record |= {name: None if result.scores is None else getattr(result.scores, name) for name in _SCORE_NAMES}
    record["error"] = result.error
    return record


def _steps(result: CaseResult) -> dict[str, object]:
    """The masks on the way to the last one, where there was more than one interaction."""
    if len(result.steps) < 2:
        return {}
    return {"steps": [dataclasses.asdict(step) for step in result.steps]}


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
        _optional(scores.dice, ".3f"),
        _optional(scores.surface_dice, ".3f"),
        " ".join(
            f"{value:.1f} {unit}"
            for value, unit in ((scores.hd95_mm, "mm"), (scores.hd95_px, "px"))
            if value is not None
        ),
        _optional(scores.key_slice_dice, ".3f"),
        _optional(scores.over_slices, ".3g"),
        _optional(scores.under_slices, ".3g"),
        _optional(scores.seconds, ".2f"),
    ]


def _optional(value: float | None, style: str) -> str:
    return "" if value is None else format(value, style)


NUMBERS = "results.json"
CASES = "results.csv"
STEPS = "steps.csv"
DIFFERENCES = "differences.csv"
SECOND = "second-"
"""Before the names of the second arm's tables."""


def prepare_folder(folder: Path) -> None:
    """Make the folder of a report, before the work is done that fills it.

    Raises:
        InputError: It is a file or cannot be made, or matplotlib is not installed.
    """
    check_matplotlib()
    make_folder(folder)


def publish(found: Experiment, folder: Path, exhibits: Sequence[Exhibit] | None = None) -> None:
    """Write a report; each earlier file is replaced once the new one is whole.

    Args:
        found: The results.
        folder: Made by `prepare_folder`.
        exhibits: The cases to show; those that `show_cases` chooses if not given.

    Raises:
        InputError: A file cannot be written, or a case to be shown can no longer be read.
    """
    page = render_page(found, show_cases(found) if exhibits is None else exhibits)
    for prefix, results in zip(("", SECOND), found.results, strict=False):
        write_csv(results, folder / f"{prefix}{CASES}")
        write_steps_csv(results, folder / f"{prefix}{STEPS}")
    if found.differences:
        rows = [_flat_difference(row) for row in found.differences]
        write_rows(folder / DIFFERENCES, list(rows[0]), (list(row.values()) for row in rows))
    write_text(folder / NUMBERS, json.dumps(experiment_json(found), allow_nan=False, indent=1) + "\n")
    write_text(folder / PAGE, page)


def experiment_json(found: Experiment) -> dict[str, object]:
    """Return all numbers of an experiment as values that JSON knows; what is not finite becomes null.

    The keys of `as_json` are those of the first arm; `second` holds the same of the other one.
    """
    parts = [as_json(results, summarise(results)) for results in found.results]
    values: dict[str, object] = {
        "arms": list(found.arms),
        "options": dataclasses.asdict(found.options),
        "provenance": None if found.provenance is None else dataclasses.asdict(found.provenance),
        **parts[0],
        "costs": [None if cost is None else _plain(dataclasses.asdict(cost)) for cost in found.costs],
    }
    if len(parts) > 1:
        values["second"] = parts[1]
        values["alike"] = [
            {"name": name, "repeat": repeat, "dice": share}
            for (name, repeat), share in found.masks.alike.items()
        ]
        values["differences"] = [_plain(dataclasses.asdict(row)) for row in found.differences]
    return values


def _flat_difference(row: Difference) -> dict[str, object]:
    low, high = row.difference.interval or ("", "")
    record = dataclasses.asdict(row)
    del record["difference"]
    return record | {
        "difference": row.difference.mean,
        "low": low,
        "high": high,
        "num_cases": row.difference.num_cases,
        "num_patients": row.difference.num_clusters,
    }


def _plain(value: object) -> object:
    """Replace numbers that JSON does not know, however deep."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
