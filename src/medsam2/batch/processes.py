"""Run cases on processes of this machine, each with the weights in it; one that dies costs its case alone."""

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

from medsam2.batch.records import BatchSettings, CaseRecord, Fault, Task, keep_record, masks_folder
from medsam2.errors import MedSAM2Error

MAX_FALSE_STARTS = 3
"""So many processes in a row may die before they have loaded the weights."""
_STOP_S = 5.0
_OOM_SCORE = Path("/proc/self/oom_score_adj")
_OOM_FIRST = "500"  # proc(5): -1000 never to 1000 first


@dataclass
class _Worker:
    process: BaseProcess
    connection: Connection
    task: Task | None = None
    is_ready: bool = False


def run_in_processes(
    tasks: Sequence[Task], settings: BatchSettings, folder: Path, num_workers: int
) -> Iterator[CaseRecord | Fault]:
    """Segment cases; each is recorded in the folder as soon as its mask is there.

    Args:
        tasks: What is to be done.
        settings: For all of them.
        folder: The batch's, see `records.working_in`.
        num_workers: How many processes, which share the processor's cores.

    Yields:
        What became of each case, in the order in which they end.

    Raises:
        CheckpointError: The weights cannot be loaded.
        InputError: There is no such device or precision here.
        MedSAM2Error: Processes die before they have begun.
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
                    yield from _buried(worker, false_starts)
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
    # Not a copy of this process: PyTorch's threads do not survive one.
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs, settings, folder, num_workers), daemon=True)
    process.start()
    theirs.close()  # or the end of the process would not be the end of the pipe
    return _Worker(process=process, connection=ours)


def _give(worker: _Worker, left: list[Task]) -> None:
    worker.task = left.pop()
    # One that has died meanwhile is found at the next look at its pipe.
    with suppress(BrokenPipeError, ConnectionResetError):
        worker.connection.send(worker.task)


def _buried(worker: _Worker, false_starts: int) -> Iterator[Fault]:
    """Say what a process that has died was about."""
    worker.process.join(_STOP_S)
    worker.connection.close()
    code = worker.process.exitcode
    how = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
    if code == -signal.SIGKILL:
        how += ", as when memory runs out"
    if worker.task is not None:
        yield Fault(
            case=worker.task.case.name, error=f"its process died ({how}); the next run tries it again"
        )
    elif false_starts >= MAX_FALSE_STARTS:
        raise MedSAM2Error(f"processes die before they have loaded the weights ({how}); try fewer --workers")


def _stop(workers: Sequence[_Worker]) -> None:
    """End processes: those that wait see the end of the pipe, the others are not waited for."""
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
    """Load the weights, then segment what comes until nothing does."""
    import torch

    from medsam2.batch.segmenting import attempt, open_predictor

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the keyboard's reaches the parent, which ends us
    with suppress(OSError):
        _OOM_SCORE.write_text(_OOM_FIRST)  # if memory runs out, it costs a case and not the run
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
                found = Fault(case=found.case, error=str(error))
        with suppress(BrokenPipeError):
            connection.send(found)


def _leave_with_parent() -> None:
    """End this process when the parent is killed: nobody would start a run beside one that still writes."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
