"""The Ray engine where there is no cluster; with one it is in test_batch_crashes.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from medsam2.batch.cases import Case
from medsam2.batch.records import BatchSettings, Task
from medsam2.errors import InputError


def test_where_nobody_listens_nobody_waits(case_of: Callable[..., Case], tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="needs the extra ray")
    from medsam2.batch.cluster import run_on_ray

    tasks = [Task(case=case_of(), fingerprint="f")]
    with pytest.raises(
        InputError, match=r"no Ray cluster answers at '127.0.0.1:1': .*; start one with ray start"
    ):
        list(run_on_ray(tasks, BatchSettings(), tmp_path, None, "127.0.0.1:1"))
