"""Show what an evaluation has found: as a table, CSV, JSON, or a folder with a page."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path

from medsam2.errors import InputError
from medsam2.evaluation.experiment import Study
from medsam2.evaluation.figures import check_matplotlib
from medsam2.evaluation.gallery import Exhibit, show_cases
from medsam2.evaluation.page import render_page
from medsam2.evaluation.runner import CaseResult, Scores, Step
from medsam2.evaluation.summary import Means, Summary, summarise
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


PAGE = "report.html"
NUMBERS = "results.json"
CASES = "results.csv"
STEPS = "steps.csv"
DIFFERENCES = "differences.csv"
SECOND = "second-"
"""Before the names of the second arm's tables."""


def prepare_folder(folder: Path) -> None:
    """Make the folder of a report, before the work is done that fills it.

    Raises:
        InputError: It cannot be made or is a file, or matplotlib is not installed.
    """
    check_matplotlib()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made a folder: {error.strerror or error}") from error


def publish(study: Study, folder: Path, exhibits: list[Exhibit] | None = None) -> None:
    """Write a report; files of an earlier one are replaced, each once it is whole.

    Args:
        study: What was found.
        folder: Made by `prepare_folder`.
        exhibits: The cases to show; those that `show_cases` chooses if not given.

    Raises:
        InputError: A file cannot be written, or a case to be shown can no longer be read.
    """
    page = render_page(study, show_cases(study) if exhibits is None else exhibits)
    for prefix, results in zip(("", SECOND), study.results, strict=False):
        write_csv(results, folder / f"{prefix}{CASES}")
        write_steps_csv(results, folder / f"{prefix}{STEPS}")
    if study.differences:
        _write_differences(study, folder / DIFFERENCES)
    _write_text(json.dumps(study_json(study), allow_nan=False, indent=1) + "\n", folder / NUMBERS)
    _write_text(page, folder / PAGE)


def study_json(study: Study) -> dict[str, object]:
    """Return all numbers of a study as values that JSON knows; what is not finite becomes null.

    The keys of `report.as_json` are those of the first arm; `second` holds the same of the other one.
    """
    parts = [as_json(results, summarise(results)) for results in study.results]
    found: dict[str, object] = {
        "arms": list(study.arms),
        "options": dataclasses.asdict(study.options),
        "provenance": None if study.provenance is None else dataclasses.asdict(study.provenance),
        **parts[0],
        "costs": [None if cost is None else _plain(dataclasses.asdict(cost)) for cost in study.costs],
    }
    if len(parts) > 1:
        found["second"] = parts[1]
        found["alike"] = [
            {"name": name, "repeat": repeat, "dice": share}
            for (name, repeat), share in study.masks.alike.items()
        ]
        found["differences"] = [_plain(dataclasses.asdict(row)) for row in study.differences]
    return found


def _write_differences(study: Study, path: Path) -> None:
    rows = []
    for row in study.differences:
        low, high = row.difference.interval or ("", "")
        record = dataclasses.asdict(row)
        del record["difference"]
        rows.append(
            record
            | {"difference": row.difference.mean, "low": low, "high": high}
            | {"num_cases": row.difference.num_cases, "num_patients": row.difference.num_clusters}
        )
    with replacing(path, ".part") as temporary, temporary.open("x", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _write_text(text: str, path: Path) -> None:
    with replacing(path, ".part") as temporary:
        temporary.write_text(text, encoding="utf-8")


def _plain(value: object) -> object:
    """Replace numbers that JSON does not know, however deep."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
