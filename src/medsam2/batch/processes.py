"""Run cases in processes of this machine; if a process dies, only its case fails.

Each process loads the weights once and has a pipe of its own, so that the end of the pipe tells at once which
process has died and with which case, whether it was at work, idle or still loading. Pebble 5.2.3 fails all
remaining cases if a process dies idle or loading, and loky 3.7.0 if any process dies.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from medsam2.batch.records import BatchSettings, CaseRecord, Failure, Task, keep_record, masks_folder
from medsam2.errors import MedSAM2Error

MAX_FALSE_STARTS = 3
"""Number of processes in a row that may die before they have loaded the weights."""
_STOP_S = 5.0
_OOM_SCORE = Path("/proc/self/oom_score_adj")
_OOM_FIRST = "500"  # proc(5): from -1000, never killed, to 1000, killed first


@dataclass
class _Worker:
    process: BaseProcess
    connection: Connection
    task: Task | None = None
    is_ready: bool = False


def run_in_processes(
    tasks: Sequence[Task], settings: BatchSettings, folder: Path, num_workers: int
) -> Iterator[CaseRecord | Failure]:
    """Segment cases; each is recorded in the folder as soon as its mask is written.

    Args:
        tasks: The cases.
        settings: Settings for all cases.
        folder: Folder of the batch; see `records.working_in`.
        num_workers: Number of processes; they share the processor's cores.

    Yields:
        The record or the failure of each case, in the order in which they end.

    Raises:
        CheckpointError: The weights cannot be loaded.
        InputError: This machine does not have that device or precision.
        MedSAM2Error: Processes die before they have loaded the weights.
    """
    left = list(reversed(tasks))
    workers: list[_Worker] = []
    false_starts = 0
    try:
        while left or any(worker.task is not None for worker in workers):
            while len(workers) < min(num_workers, len(left) + _num_busy(workers)):
                workers.append(_start(settings, folder, num_workers))
            by_connection = {worker.connection: worker for worker in workers}
            for connection in wait(list(by_connection)):
                assert isinstance(connection, Connection)
                worker = by_connection[connection]
                try:
                    message = connection.recv()
                except (EOFError, OSError):
                    workers.remove(worker)
                    false_starts += not worker.is_ready
                    yield from _lost(worker, false_starts)
                    continue
                if isinstance(message, MedSAM2Error):
                    raise message
                if message is not None:
                    worker.task = None
                    yield message
                worker.is_ready, false_starts = True, 0
                if left:
                    _give(worker, left)
    finally:
        _stop(workers)


def _num_busy(workers: Sequence[_Worker]) -> int:
    return sum(worker.task is not None for worker in workers)


def _start(settings: BatchSettings, folder: Path, num_workers: int) -> _Worker:
    # Not fork: PyTorch's threads do not survive it.
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs, settings, folder, num_workers), daemon=True)
    process.start()
    theirs.close()  # otherwise the pipe would not end with the process
    return _Worker(process=process, connection=ours)


def _give(worker: _Worker, left: list[Task]) -> None:
    worker.task = left.pop()
    # If the process has died meanwhile, the next read from its pipe shows it.
    with suppress(BrokenPipeError, ConnectionResetError):
        worker.connection.send(worker.task)


def _lost(worker: _Worker, false_starts: int) -> Iterator[Failure]:
    """Report the case of a process that has died."""
    worker.process.join(_STOP_S)
    worker.connection.close()
    code = worker.process.exitcode
    how = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
    if code == -signal.SIGKILL:
        how += ", as when memory runs out"
    if worker.task is not None:
        yield Failure(
            case=worker.task.case.name, error=f"its process died ({how}); the next run tries it again"
        )
    elif false_starts >= MAX_FALSE_STARTS:
        raise MedSAM2Error(f"processes die before they have loaded the weights ({how}); try fewer --workers")


def _stop(workers: Sequence[_Worker]) -> None:
    """End the processes: idle ones end with their pipe, busy ones are killed."""
    for worker in workers:
        worker.connection.close()
        if worker.task is not None or not worker.is_ready:
            worker.process.kill()
    for worker in workers:
        worker.process.join(_STOP_S)
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()
        worker.process.close()


def _work(connection: Connection, settings: BatchSettings, folder: Path, num_workers: int) -> None:
    """Load the weights, then segment cases until the pipe ends."""
    import torch

    from medsam2.batch.segmenting import attempt, open_predictor

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the parent, which then ends this process
    with suppress(OSError):
        _OOM_SCORE.write_text(_OOM_FIRST)  # if memory runs out, the system kills this process, not the run
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    torch.set_num_threads(max(1, torch.get_num_threads() // num_workers))
    try:
        predictor = open_predictor(settings)
    except MedSAM2Error as error:
        connection.send(error)
        return
    connection.send(None)
    while True:
        try:
            task = connection.recv()
        except EOFError:
            return
        found = attempt(task, predictor, settings, masks_folder(folder))
        if isinstance(found, CaseRecord):
            try:
                keep_record(found, folder)
            except MedSAM2Error as error:
                found = Failure(case=found.case, error=str(error))
        with suppress(BrokenPipeError):
            connection.send(found)


def _leave_with_parent() -> None:
    """End this process when the parent is killed; it must not write beside the next run."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
