"""Write a project's report into a folder: the page, and its numbers as CSV."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

from medsam2.annotation.attempts import Agreement
from medsam2.annotation.cases import moment
from medsam2.annotation.clock import NO_OBJECT
from medsam2.annotation.findings import Findings, find
from medsam2.annotation.layout import make_folder
from medsam2.annotation.page import render
from medsam2.annotation.project import Project
from medsam2.imaging.replacing import replacing

PAGE = "report.html"

_ATTEMPTS = (
    *("case", "user", "baseline", "round", "started", "active_s", "interactions", "voxels_by_hand"),
    *("finished", "acts"),
)
_OBJECTS = ("case", "object", "user", "baseline", "round", "active_s", "interactions", "voxels_by_hand")
_AGREEMENT = ("case", "object", "first", "second", "round", "dice")
# What a spreadsheet takes for the start of a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def write_report(project: Project, folder: Path, simulation: str = "") -> Path:
    """Write report.html, attempts.csv, objects.csv, agreement.csv and proposals.csv; older ones are replaced.

    Args:
        project: The project.
        folder: Where; it is made if it is not there.
        simulation: What was simulated, if anything was, for the page to say.

    Returns:
        The page.

    Raises:
        InputError: Something cannot be written.
    """
    make_folder(folder)
    findings = find(project)
    _write_csv(folder / "attempts.csv", _ATTEMPTS, _attempt_rows(findings))
    _write_csv(folder / "objects.csv", _OBJECTS, _object_rows(findings))
    _write_csv(folder / "agreement.csv", _AGREEMENT, map(_agreement_row, findings.authors))
    _write_csv(folder / "proposals.csv", _AGREEMENT, map(_agreement_row, findings.proposals))
    page = folder / PAGE
    with replacing(page, ".html") as temporary:
        text = render(findings, made=moment(project.now_ms()), simulation=simulation)
        temporary.write_text(text, encoding="utf-8")
    return page


def _attempt_rows(findings: Findings) -> Iterable[Sequence[object]]:
    for one in findings.record.attempts:
        acts = " ".join(f"{kind}:{count}" for kind, count in sorted(one.acts.items()))
        yield (
            one.case, one.user, int(one.baseline), one.round, moment(one.started_ms), f"{one.active_s:.3f}",
            one.num_interactions, one.hand_voxels, int(one.is_finished), acts,
        )  # fmt: skip


def _object_rows(findings: Findings) -> Iterable[Sequence[object]]:
    for part, one in sorted(findings.record.tallies.items()):
        label = "" if part.object == NO_OBJECT else part.object
        yield (
            findings.record.case_name(part.case), label, part.user, int(part.baseline), part.round,
            f"{one.active_s:.3f}", one.num_interactions, one.hand_voxels,
        )  # fmt: skip


def _agreement_row(one: Agreement) -> Sequence[object]:
    return one.case, one.object, one.first, one.second, one.round, f"{one.dice:.6f}"


def _write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with replacing(path, ".csv") as temporary, temporary.open("x", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows([_safe(value) for value in row] for row in rows)


def _safe(value: object) -> object:
    """A text that a spreadsheet shows and does not run: names of files and people come from anywhere."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
