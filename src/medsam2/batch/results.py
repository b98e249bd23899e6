"""The results of a batch: every case as CSV and JSON, a summary, and a page."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from statistics import mean, quantiles
from types import MappingProxyType

from medsam2.batch.cases import Case
from medsam2.batch.records import MASKS, CaseRecord, Failure, Tally, read_record
from medsam2.imaging.replacing import replacing
from medsam2.reports import page
from medsam2.reports.page import PAGE as PAGE
from medsam2.reports.tables import Table

TABLE = "results.csv"
NUMBERS = "results.json"
DONE, KEPT, FAILED, CHANGED = "done", "kept", "failed", "changed"
"""A case was done in this run, was done before, has failed, or has an outdated mask."""
_GONE = "its mask was removed during the run"

_Cell = str | int | float | None
_COLUMNS: Mapping[str, Callable[[CaseRecord], _Cell]] = MappingProxyType(
    {
        "mask": lambda one: f"{MASKS}/{one.files[0]}",
        "objects": lambda one: len(one.objects),
        "slices": lambda one: one.num_slices,
        "slices_visited": lambda one: one.visited,
        "volume_ml": lambda one: round(one.volume_ml, 6),
        "seconds": lambda one: one.seconds,
        "peak_mib": lambda one: one.peak_mib,
    }
)


@dataclass(frozen=True, kw_only=True)
class Result:
    """One case at the end of a run."""

    case: str
    image: str
    status: str
    """One of `DONE`, `KEPT`, `FAILED`, `CHANGED`."""
    record: CaseRecord | None = None
    error: str | None = None


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A run in numbers; the seconds per case are of all cases that are done, also of those done before."""

    cases: int
    done: int
    kept: int
    changed: int
    failed: int
    wall_seconds: float
    cases_per_minute: float | None
    """Cases done in this run; None if there are none."""
    mean_seconds: float | None
    """Mean seconds per case, in one process."""
    median_seconds: float | None
    p95_seconds: float | None
    max_peak_mib: float | None
    slices_visited: int
    volume_ml: float
    errors: Mapping[str, int]
    """The most frequent errors, without the file that they begin with, and how often each occurred."""

    @property
    def is_complete(self) -> bool:
        """Whether every case has a mask that is up to date."""
        return self.failed == self.changed == 0


def each_result(cases: Iterable[Case], tally: Tally, folder: Path) -> Iterator[Result]:
    """Yield the result of each case in the order of the table; one record is in memory at a time."""
    for case in cases:
        failure = tally.failures.get(case.name)
        record = None if failure is not None else read_record(case.name, folder)
        if record is not None:
            status = KEPT if case.name in tally.kept else DONE
            yield Result(case=case.name, image=case.image, status=status, record=record)
            continue
        failure = failure or Failure(case=case.name, error=_GONE)
        status = CHANGED if failure.is_changed else FAILED
        yield Result(case=case.name, image=case.image, status=status, error=failure.error)


def write_results(cases: Sequence[Case], tally: Tally, folder: Path, wall_seconds: float) -> Summary:
    """Write `results.csv`, with a row per case, and `results.json`, with all objects, summary and `errors`.

    Args:
        cases: All cases of the table.
        tally: The state at the end of the run.
        folder: Folder of the batch.
        wall_seconds: Duration of the run.

    Raises:
        InputError: A file cannot be written.
    """
    gathered = _Gathered()
    with (
        replacing(folder / TABLE, ".part") as table_path,
        replacing(folder / NUMBERS, ".part") as numbers_path,
        table_path.open("x", encoding="utf-8", errors="backslashreplace", newline="") as table,
        numbers_path.open("x", encoding="utf-8", errors="backslashreplace") as numbers,
    ):
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(("case", "image", "status", *_COLUMNS, "error"))
        numbers.write('{"cases": [')
        for index, result in enumerate(each_result(cases, tally, folder)):
            gathered.add(result)
            writer.writerow(_row(result))
            numbers.write(f"{',' if index else ''}\n{json.dumps(_plain(result), ensure_ascii=False)}")
        summary = gathered.summary(wall_seconds)
        rest = {"summary": asdict(summary), "errors": gathered.failures}
        numbers.write(f"\n], {json.dumps(rest, ensure_ascii=False, indent=1)[1:]}\n")
    return summary


def sentences(summary: Summary) -> Iterator[str]:
    """Describe a run in lines for a person."""
    parts = [f"{summary.done} done", f"{summary.kept} done before"]
    parts += [f"{summary.changed} changed since"] if summary.changed else []
    yield f"{summary.cases} cases: {', '.join(parts)}, {summary.failed} failed; {summary.wall_seconds:.1f} s"
    if summary.mean_seconds is not None:
        rate = "" if summary.cases_per_minute is None else f"{summary.cases_per_minute:.1f} cases a minute; "
        peak = "" if summary.max_peak_mib is None else f", at most {summary.max_peak_mib:.0f} MiB"
        yield (
            f"{rate}a case takes {summary.mean_seconds:.2f} s in the mean, {summary.p95_seconds:.2f} s at "
            f"the 95th percentile{peak}"
        )
    for error, count in summary.errors.items():
        yield f"{count} x {error}"


class _Gathered:
    """Sums over results."""

    def __init__(self) -> None:
        self.statuses: Counter[str] = Counter()
        self.failures: list[dict[str, str]] = []
        self._seconds: list[float] = []
        self._peaks: list[float] = []
        self._visited = 0
        self._volume_ml = 0.0

    def add(self, result: Result) -> None:
        """Add a result."""
        self.statuses[result.status] += 1
        if result.record is None:
            self.failures.append({"case": result.case, "image": result.image, "error": result.error or ""})
            return
        self._seconds.append(result.record.seconds)
        self._peaks += [] if result.record.peak_mib is None else [result.record.peak_mib]
        self._visited += result.record.visited
        self._volume_ml += result.record.volume_ml

    def summary(self, wall_seconds: float) -> Summary:
        """Return the summary of all results."""
        # Of 19 cut points the 10th is the median and the last the 95th percentile; they need two numbers.
        seconds = self._seconds * 2 if len(self._seconds) == 1 else self._seconds
        cuts = quantiles(seconds, n=20, method="inclusive") if seconds else None
        done = self.statuses[DONE]
        return Summary(
            cases=self.statuses.total(),
            done=done,
            kept=self.statuses[KEPT],
            changed=self.statuses[CHANGED],
            failed=self.statuses[FAILED],
            wall_seconds=round(wall_seconds, 2),
            cases_per_minute=round(60 * done / wall_seconds, 2) if done else None,
            mean_seconds=round(mean(seconds), 3) if seconds else None,
            median_seconds=None if cuts is None else round(cuts[9], 3),
            p95_seconds=None if cuts is None else round(cuts[-1], 3),
            max_peak_mib=max(self._peaks, default=None),
            slices_visited=self._visited,
            volume_ml=round(self._volume_ml, 3),
            errors=dict(Counter(_kind(one["error"]) for one in self.failures).most_common(10)),
        )


def _row(result: Result) -> Iterator[_Cell]:
    yield from (result.case, result.image, result.status)
    yield from (None if result.record is None else take(result.record) for take in _COLUMNS.values())
    yield result.error


def _plain(result: Result) -> dict[str, object]:
    """Return a result as JSON."""
    plain: dict[str, object] = {"case": result.case, "image": result.image, "status": result.status}
    if result.record is None:
        return {**plain, "error": result.error}
    rest = asdict(result.record)
    return {
        **plain,
        **{name: take(result.record) for name, take in _COLUMNS.items()},
        **{key: rest[key] for key in ("objects", "files", "window", "device", "precision", "notes")},
    }


def _kind(error: str) -> str:
    """Remove the file or row at the beginning of an error, so that equal errors are counted together."""
    head, found, rest = error.partition(": ")
    return rest if found and ("/" in head or "." in head) else error


MAX_ROWS = 500
"""Number of cases of each kind that the page shows; the tables have all cases."""


def write_page(summary: Summary, results: Iterable[Result], facts: Mapping[str, str], folder: Path) -> None:
    """Write `report.html`.

    Args:
        summary: The run in numbers.
        results: Every case.
        facts: Settings of the run, as text.
        folder: Folder of the batch.

    Raises:
        InputError: The page cannot be written.
    """
    failed: list[tuple[str, ...]] = []
    fine: list[tuple[str, ...]] = []
    num_left = 0
    for result in results:
        rows = failed if result.record is None else fine
        if len(rows) < MAX_ROWS:
            rows.append(_page_row(result))
        else:
            num_left += 1
    cases = Table(
        header=("case", "status", "objects", "slices", "volume, ml", "seconds", "peak, MiB", "remark"),
        rows=(*failed, *fine),
        words=frozenset({"status", "remark"}),
        marks=("failed",) * len(failed) + ("",) * len(fine),
    )
    page.write_page(
        folder,
        "batch",
        summary=list(islice(sentences(summary), 2)),
        facts=facts,
        errors=[f"{count} x {error}" for error, count in summary.errors.items()],
        cases=cases,
        num_left=num_left,
    )


def _page_row(result: Result) -> tuple[str, ...]:
    one = result.record
    if one is None:
        return result.case, result.status, "", "", "", "", "", result.error or ""
    peak = "" if one.peak_mib is None else f"{one.peak_mib:.0f}"
    sizes = (str(len(one.objects)), str(one.num_slices), f"{one.volume_ml:.2f}", f"{one.seconds:.2f}", peak)
    return result.case, result.status, *sizes, "; ".join(one.notes)
