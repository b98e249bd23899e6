"""What is said at the end: the table, the numbers, the page."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from medsam2.batch.cases import Case
from medsam2.batch.records import (
    CaseRecord,
    Failure,
    ObjectRecord,
    Tally,
    keep_record,
    masks_folder,
    working_in,
)
from medsam2.batch.results import MAX_ROWS, Summary, each_result, sentences, write_page, write_results

CaseMaker = Callable[..., Case]


def finish(case: Case, folder: Path, seconds: float) -> None:
    masks_folder(folder).joinpath(f"{case.name}.nii.gz").write_bytes(b"mask")
    sizes = {"volume_ml": 1.25, "longest_diameter_mm": 9.0, "num_slices": 3}
    record = CaseRecord(
        case=case.name,
        image=case.image,
        fingerprint="f",
        files=(f"{case.name}.nii.gz",),
        objects=tuple(ObjectRecord(number=n, name=None, **sizes) for n in (1, 2)),  # type: ignore[arg-type]
        num_slices=8,
        visited=12,
        seconds=seconds,
        peak_mib=100.0 + seconds,
        window=(0.0, 9.0),
        device="cpu",
        precision="float32",
        threads=1,
        weights="w",
        versions={},
    )
    keep_record(record, folder)


@pytest.fixture
def finished(case_of: CaseMaker, tmp_path: Path) -> tuple[list[Case], Tally, Path]:
    first = case_of()
    cases = [replace(first, name=name) for name in ("new", "old", "bad", "<b>", "stale", "vanished")]
    tally = Tally(kept={"old"})
    for name, error in (
        ("bad", "/d/x.nii: no such file"),
        ("<b>", "/d/y.nii: no such file"),
        ("stale", "changed"),
    ):
        tally.failures[name] = Failure(case=name, error=error, is_changed=name == "stale")
    folder = tmp_path / "out"
    with working_in(folder):
        finish(cases[0], folder, 2.0)
        finish(cases[1], folder, 4.0)
    return cases, tally, folder


def test_table_numbers_and_summary(finished: tuple[list[Case], Tally, Path]) -> None:
    cases, tally, folder = finished
    summary = write_results(cases, tally, folder, 60.0)
    assert (summary.cases, summary.done, summary.kept, summary.changed, summary.failed) == (6, 1, 1, 1, 3)
    assert (summary.mean_seconds, summary.median_seconds, summary.max_peak_mib) == (3.0, 3.0, 104.0)
    assert (summary.cases_per_minute, summary.slices_visited, summary.volume_ml) == (1.0, 24, 5.0)
    assert summary.errors["no such file"] == 2
    assert not summary.is_complete

    rows = list(csv.DictReader((folder / "results.csv").read_text(encoding="utf-8").splitlines()))
    assert [row["case"] for row in rows] == [case.name for case in cases]
    assert [row["status"] for row in rows] == ["done", "kept", "failed", "failed", "changed", "failed"]
    assert rows[0]["mask"] == "masks/new.nii.gz"
    assert [rows[0][key] for key in ("slices", "seconds", "volume_ml", "peak_mib")] == [
        "8",
        "2.0",
        "2.5",
        "102.0",
    ]
    assert (rows[2]["error"], rows[2]["mask"]) == ("/d/x.nii: no such file", "")
    assert "removed during" in rows[5]["error"]

    numbers = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    assert numbers["cases"][0]["objects"][1]["number"] == 2
    assert [one["case"] for one in numbers["errors"]] == ["bad", "<b>", "stale", "vanished"]
    assert numbers["summary"]["failed"] == 3
    assert sorted(path.name for path in folder.iterdir() if path.suffix == ".part") == []


def test_the_sentences(finished: tuple[list[Case], Tally, Path]) -> None:
    cases, tally, folder = finished
    lines = list(sentences(write_results(cases, tally, folder, 60.0)))
    assert lines[0] == "6 cases: 1 done, 1 done before, 1 changed since, 3 failed; 60.0 s"
    assert lines[1].startswith("1.0 cases a minute; a case takes 3.00 s in the mean, ")
    assert "2 x no such file" in lines
    tally.failures.clear()
    alone = list(sentences(write_results(cases[1:2], tally, folder, 1.0)))
    assert alone == [
        "1 cases: 0 done, 1 done before, 0 failed; 1.0 s",
        "a case takes 4.00 s in the mean, 4.00 s at the 95th percentile, at most 104 MiB",
    ]


def test_the_page_shows_what_failed_and_nothing_runs_in_it(finished: tuple[list[Case], Tally, Path]) -> None:
    cases, tally, folder = finished
    many = [replace(cases[0], name=f"lost{index}") for index in range(MAX_ROWS)]
    summary = write_results(cases + many, tally, folder, 60.0)
    write_page(summary, each_result(cases + many, tally, folder), {"table": "<i>"}, folder)
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "<b>" not in page
    assert "&lt;b&gt;" in page
    assert "&lt;i&gt;" in page
    assert page.index("/d/x.nii: no such file") < page.index(">new</td>")
    assert "default-src 'none'" in page
    assert "4 more are in results.csv" in page


def test_a_batch_of_faults_alone(case_of: CaseMaker, tmp_path: Path) -> None:
    case, folder = case_of(), tmp_path / "out"
    with working_in(folder):
        summary = write_results([case], Tally(failures={"one": Failure(case="one", error="no")}), folder, 0.0)
    assert isinstance(summary, Summary)
    assert (summary.mean_seconds, summary.cases_per_minute, summary.errors) == (None, None, {"no": 1})
    assert list(sentences(summary)) == ["1 cases: 0 done, 0 done before, 1 failed; 0.0 s", "1 x no"]
