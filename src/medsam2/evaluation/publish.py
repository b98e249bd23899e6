"""Write a study into a folder: the page, and beside it the numbers as CSV and JSON."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
from pathlib import Path

from medsam2.errors import InputError
from medsam2.evaluation.figures import check_matplotlib
from medsam2.evaluation.gallery import Exhibit, show_cases
from medsam2.evaluation.page import render_page
from medsam2.evaluation.report import as_json, write_csv, write_steps_csv
from medsam2.evaluation.study import Study
from medsam2.evaluation.summary import summarise
from medsam2.imaging.replacing import replacing

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
