"""A batch from its cases to its results: finished cases are skipped, an engine segments the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from medsam2.batch.cases import Case
from medsam2.batch.records import (
    BatchSettings,
    CaseRecord,
    Failure,
    Tally,
    Task,
    fingerprint,
    masks_folder,
    read_record,
)
from medsam2.batch.storage import is_url
from medsam2.errors import InputError

CHANGED = "the row, the image or an option changed after its mask was made; the mask was not replaced"
_THREADS = 16  # that look up the state of files on disks and in storage
_AT_ONCE = 4096  # cases that are looked up at a time

Engine = Callable[[Sequence[Task]], Iterator[CaseRecord | Failure]]
"""Segments and records cases, and yields the record or the failure of each."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The work of a run."""

    tasks: tuple[Task, ...]
    """Cases to segment."""
    num_changed: int
    """Number of them that have a mask from another row, image or options."""
    tally: Tally
    """Cases that are done or have failed before the first task."""


def plan_run(
    cases: Sequence[Case],
    settings: BatchSettings,
    folder: Path,
    weights_sha256: str,
    *,
    redo_changed: bool = True,
) -> Plan:
    """Find out which cases are done.

    Args:
        cases: All cases of the table.
        settings: Settings for all cases.
        folder: Folder of the batch.
        weights_sha256: SHA-256 of the file with the weights.
        redo_changed: Whether to segment a case again if its row, image or options have changed; otherwise it
            is a failure, and its mask stays.
    """
    tally = Tally()
    tasks: list[Task] = []
    num_changed = 0
    with ThreadPoolExecutor(_THREADS) as threads:
        for start in range(0, len(cases), _AT_ONCE):
            part = cases[start : start + _AT_ONCE]
            found = threads.map(lambda case: _look(case, settings, folder, weights_sha256), part)
            for case, (todo, has_mask) in zip(part, found, strict=True):
                if todo is None:
                    tally.kept.add(case.name)
                elif isinstance(todo, Task) and has_mask and not redo_changed:
                    tally.failures[case.name] = Failure(case=case.name, error=CHANGED, is_changed=True)
                elif isinstance(todo, Task):
                    num_changed += has_mask
                    tasks.append(todo)
                else:
                    tally.failures[case.name] = todo
    return Plan(tasks=tuple(tasks), num_changed=num_changed, tally=tally)


def _look(
    case: Case, settings: BatchSettings, folder: Path, weights_sha256: str
) -> tuple[Task | Failure | None, bool]:
    """Return the task or the failure of a case, None if it is done, and whether it has a mask."""
    record = read_record(case.name, folder)
    if not case.place:
        error = f"no image of --glob is called {case.name!r}"
        return Failure(case=case.name, error=error), record is not None
    try:
        now = fingerprint(case, settings, weights_sha256)
    except InputError as error:
        return Failure(case=case.name, error=str(error)), record is not None
    if record is not None and record.fingerprint == now:
        return None, True
    return Task(case=case, fingerprint=now), record is not None


def run_plan(plan: Plan, engine: Engine) -> Iterator[CaseRecord | Failure]:
    """Segment the cases of a plan, and add the failures to its tally.

    Yields:
        The record or the failure of each case, as it ends.
    """
    for outcome in engine(plan.tasks) if plan.tasks else ():
        if isinstance(outcome, Failure):
            plan.tally.failures[outcome.case] = outcome
        yield outcome


def check_apart(cases: Sequence[Case], folder: Path) -> None:
    """Refuse input files that lie in the folder for masks.

    Raises:
        InputError: A file of a case lies there.
    """
    masks = masks_folder(folder).resolve()
    for case in cases:
        for place in (case.place, *case.mask_places):
            if place and not is_url(place) and Path(place).resolve().is_relative_to(masks):
                raise InputError(
                    f"{case.rows[0].where}: {place} lies where masks are written; name another folder with -o"
                )
