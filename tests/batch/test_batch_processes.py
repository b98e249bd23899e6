"""Cases on real processes: each is done once, and one that dies costs its case alone."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from medsam2.batch.cases import Case
from medsam2.batch.processes import run_in_processes
from medsam2.batch.records import BatchSettings, CaseRecord, Failure, Task, read_record, working_in
from medsam2.errors import InputError


@pytest.fixture
def tasks(case_of: Callable[..., Case]) -> list[Task]:
    first = case_of()
    return [Task(case=replace(first, name=f"c{index}"), fingerprint=f"f{index}") for index in range(6)]


def kill_workers() -> None:
    for child in multiprocessing.active_children():
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
        child.join()


def test_a_worker_that_dies_costs_its_case_and_an_early_end_leaves_no_process(
    tasks: list[Task], weights: Path, tmp_path: Path
) -> None:
    found: list[CaseRecord | Failure] = []
    folder = tmp_path / "out"
    with working_in(folder):
        running = run_in_processes(tasks, BatchSettings(weights=str(weights)), folder, 1)
        for outcome in running:
            found.append(outcome)
            if len(found) == 2:
                kill_workers()
            if len(found) == 5:
                break
        running.close()  # type: ignore[attr-defined]
    assert multiprocessing.active_children() == []
    failures = [one for one in found if isinstance(one, Failure)]
    assert [one.case for one in found if isinstance(one, CaseRecord)] == ["c0", "c1", "c3", "c4"]
    assert [(one.case, one.error) for one in failures] == [
        ("c2", "its process died (signal 9, as when memory runs out); the next run tries it again")
    ]
    recorded = [read_record(task.case.name, folder) for task in tasks]
    assert [record is None for record in recorded] == [False, False, True, False, False, True]
    assert recorded[4] is not None
    assert recorded[4].fingerprint == "f4"


def test_what_no_case_could_be_done_with_stops_the_run(
    tasks: list[Task], weights: Path, tmp_path: Path
) -> None:
    settings = BatchSettings(weights=str(weights), device="cuda:99")
    with working_in(tmp_path / "out"), pytest.raises(InputError, match="cuda:99 is not there"):
        list(run_in_processes(tasks[:1], settings, tmp_path / "out", 2))
    assert multiprocessing.active_children() == []
