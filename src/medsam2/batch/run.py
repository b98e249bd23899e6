"""A batch from its cases to its results: what is done already is left, the rest is given to an engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from medsam2.batch.cases import Case
from medsam2.batch.records import (
    BatchSettings,
    CaseRecord,
    Fault,
    Tally,
    Task,
    fingerprint,
    masks_folder,
    read_record,
)
from medsam2.batch.storage import is_url
from medsam2.errors import InputError

CHANGED = "the row, the image or an option changed since its mask was made; the mask was left"
_ASKERS = 16  # threads that ask disks and storage at once for the state of files
_AT_ONCE = 4096  # cases that are asked for before the next

Engine = Callable[[Sequence[Task]], Iterator[CaseRecord | Fault]]
"""Segments and records cases, and says what became of each."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run has before it."""

    tasks: tuple[Task, ...]
    """Cases to segment."""
    num_changed: int
    """Those of them that have a mask, which was made from something else."""
    tally: Tally
    """How it stands before the first of them."""


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
        cases: All of the table.
        settings: For all of them.
        folder: The batch's.
        weights_sha256: Of the weights' file.
        redo_changed: Whether a case whose row, image or options changed since is done again; otherwise it is
            a fault, and its mask stays.
    """
    tally = Tally()
    tasks: list[Task] = []
    num_changed = 0
    with ThreadPoolExecutor(_ASKERS) as askers:
        for start in range(0, len(cases), _AT_ONCE):
            part = cases[start : start + _AT_ONCE]
            found = askers.map(lambda case: _look(case, settings, folder, weights_sha256), part)
            for case, (todo, has_mask) in zip(part, found, strict=True):
                if todo is None:
                    tally.kept.add(case.name)
                elif isinstance(todo, Task) and has_mask and not redo_changed:
                    tally.faults[case.name] = Fault(case=case.name, error=CHANGED, is_changed=True)
                elif isinstance(todo, Task):
                    num_changed += has_mask
                    tasks.append(todo)
                else:
                    tally.faults[case.name] = todo
    return Plan(tasks=tuple(tasks), num_changed=num_changed, tally=tally)


def _look(
    case: Case, settings: BatchSettings, folder: Path, weights_sha256: str
) -> tuple[Task | Fault | None, bool]:
    """What is to be done about a case, None if it is done, and whether it has a mask."""
    record = read_record(case.name, folder)
    if not case.place:
        error = f"no image of --glob is called {case.name!r}"
        return Fault(case=case.name, error=error), record is not None
    try:
        now = fingerprint(case, settings, weights_sha256)
    except InputError as error:
        return Fault(case=case.name, error=str(error)), record is not None
    if record is not None and record.fingerprint == now:
        return None, True
    return Task(case=case, fingerprint=now), record is not None


def run_plan(plan: Plan, engine: Engine) -> Iterator[CaseRecord | Fault]:
    """Do what a plan has left, and count it in its tally.

    Yields:
        What became of each case, as it ends.
    """
    for outcome in engine(plan.tasks) if plan.tasks else ():
        if isinstance(outcome, Fault):
            plan.tally.faults[outcome.case] = outcome
        yield outcome


def check_apart(cases: Sequence[Case], folder: Path) -> None:
    """Refuse inputs that lie where masks are written.

    Raises:
        InputError: See above.
    """
    masks = masks_folder(folder).resolve()
    for case in cases:
        for place in (case.place, *case.mask_places):
            if place and not is_url(place) and Path(place).resolve().is_relative_to(masks):
                raise InputError(
                    f"{case.rows[0].where}: {place} lies where masks are written; name another folder with -o"
                )
