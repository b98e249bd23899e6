"""Run cases on a Ray cluster: actors load the weights, and lost actors are replaced."""

from __future__ import annotations

import logging
import socket
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from io import TextIOBase
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from medsam2.batch.records import BatchSettings, CaseRecord, Failure, Task, keep_record, masks_folder
from medsam2.batch.segmenting import attempt, open_predictor
from medsam2.errors import InputError, MedSAM2Error
from medsam2.imaging.replacing import replacing

if TYPE_CHECKING:
    from ray import ObjectRef
    from ray.actor import ActorClass, ActorHandle

    from medsam2.inference.predictor import Predictor

DEFAULT_ADDRESS = "auto"
MAX_LOSSES = 3
"""A case that has lost so many actors has failed: it is probably the reason."""
MAX_FALSE_STARTS = 10
"""Number of actors in a row that may be lost before they have loaded the weights."""

_CONNECT_S = 10.0

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Delivery:
    """The result of an actor: the outcome, and its files with their contents."""

    outcome: CaseRecord | Failure
    contents: Mapping[str, bytes]


class _Segmenter:
    """An actor: one process of the cluster with one processor, or one GPU."""

    def __init__(self, settings: BatchSettings) -> None:
        self._settings = settings
        self._predictor: Predictor | None = None

    def prepare(self) -> None:
        """Load the weights; not in the constructor, where Ray hides errors."""
        import torch

        torch.set_num_threads(1)
        self._predictor = open_predictor(self._settings)

    def segment(self, task: Task) -> _Delivery:
        """Segment a case; its files go to this node's own disk."""
        assert self._predictor is not None
        with TemporaryDirectory(prefix="medsam2-") as name:
            folder = Path(name)
            outcome = attempt(task, self._predictor, self._settings, folder)
            files = outcome.files if isinstance(outcome, CaseRecord) else ()
            return _Delivery(outcome, {file: (folder / file).read_bytes() for file in files})


def run_on_ray(
    tasks: Sequence[Task],
    settings: BatchSettings,
    folder: Path,
    num_workers: int | None,
    address: str = DEFAULT_ADDRESS,
) -> Iterator[CaseRecord | Failure]:
    """Segment cases; only this process writes masks and records into the folder.

    So every case is written once: if an actor is lost, another one gets its case. The nodes need no access to
    the folder, but to the images: on a shared disk, or as URLs.

    Args:
        tasks: The cases.
        settings: Settings for all cases.
        folder: Folder of the batch, on this machine; see `records.working_in`.
        num_workers: Number of actors; if None, as many as the cluster has processors or GPUs.
        address: Address of a running cluster; `auto` for the one that this machine belongs to.

    Yields:
        The record or the failure of each case, in the order in which they end.

    Raises:
        CheckpointError: The weights cannot be loaded.
        InputError: No cluster answers, or it does not have that device or precision.
        MedSAM2Error: Actors are lost before they have loaded the weights.
    """
    import ray
    from ray.exceptions import RayError, RayTaskError

    left = list(reversed(tasks))
    losses: Counter[str] = Counter()
    false_starts = 0
    # The actor behind each expected result, and its task; no task while the actor loads the weights.
    expected: dict[ObjectRef, tuple[ActorHandle, Task | None]] = {}
    with _connected(address):
        actor_class, num_actors = _sized(settings, num_workers, len(left))

        def start_actor() -> None:  # it begins when the cluster has room for it
            started = actor_class.remote(settings)
            expected[started.prepare.remote()] = started, None

        for _ in range(num_actors):
            start_actor()
        while left or any(task is not None for _, task in expected.values()):
            (ref,), _ = ray.wait(list(expected), num_returns=1)
            actor, task = expected.pop(ref)
            try:
                delivery = ray.get(ref)
            except RayTaskError as error:
                # `attempt` turns every error of a case into a failure; this one is from loading the weights.
                raise error.cause if isinstance(error.cause, MedSAM2Error) else error from None
            except RayError as error:
                _logger.info("an actor was lost: %s", error)
                ray.kill(actor)
                start_actor()
                if task is None:
                    false_starts += 1
                    if false_starts >= MAX_FALSE_STARTS:
                        raise MedSAM2Error("actors are lost before they have loaded the weights") from error
                elif (failure := _lost(task, losses)) is not None:
                    yield failure
                else:
                    left.append(task)
                continue
            false_starts = 0
            if task is not None:
                yield _stored(delivery, folder)
            if left:
                task = left.pop()
                expected[actor.segment.remote(task)] = actor, task


class _Log(TextIOBase):
    """Turns what Ray prints about its nodes into log records."""

    def write(self, text: str) -> int:
        if text.strip():
            _logger.info("ray: %s", text.strip())
        return len(text)


@contextmanager
def _connected(address: str) -> Iterator[None]:
    """Join a running cluster, unless this process has joined one already."""
    import ray

    with redirect_stdout(_Log()):
        if ray.is_initialized():
            yield
            return
        try:
            _check_address(address)
            ray.init(
                address=address, log_to_driver=False, configure_logging=False, logging_level=logging.ERROR
            )
        except (OSError, ValueError, RuntimeError) as error:
            reason = str(error).partition("\n")[0].rstrip(".")
            raise InputError(
                f"no Ray cluster answers at {address!r}: {reason}; start one with "
                "ray start --head --disable-usage-stats, or give its --address"
            ) from error
        try:
            yield
        finally:
            ray.shutdown()


def _check_address(address: str) -> None:
    """Check that a server listens at HOST:PORT; Ray itself would try for minutes and print many lines."""
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_S).close()


def _sized(
    settings: BatchSettings, num_workers: int | None, num_tasks: int
) -> tuple[ActorClass[_Segmenter], int]:
    """Define what an actor takes of the cluster, and the number of actors."""
    import ray

    has = ray.cluster_resources()
    num_gpus = int(has.get("GPU", 0))
    on_gpu = settings.device.startswith("cuda") or (settings.device == "auto" and num_gpus > 0)
    most = num_gpus if on_gpu else int(has.get("CPU", 1))
    actor = ray.remote(num_cpus=1, num_gpus=int(on_gpu), max_restarts=0, max_task_retries=0)(_Segmenter)
    return actor, min(num_workers or max(1, most), num_tasks)


def _lost(task: Task, losses: Counter[str]) -> Failure | None:
    """Count the actors that a case has lost, and return a failure if there are too many."""
    name = task.case.name
    losses[name] += 1
    if losses[name] < MAX_LOSSES:
        return None
    return Failure(
        case=name,
        error=f"{MAX_LOSSES} processes were lost while they worked on it, as when memory runs out; "
        "the next run tries it again",
    )


def _stored(delivery: _Delivery, folder: Path) -> CaseRecord | Failure:
    """Write the files and the record of a delivery."""
    outcome = delivery.outcome
    if isinstance(outcome, Failure):
        return outcome
    try:
        for name, content in delivery.contents.items():
            with replacing(masks_folder(folder) / name, ".part") as temporary:
                temporary.write_bytes(content)
        keep_record(outcome, folder)
    except InputError as error:
        return Failure(case=outcome.case, error=str(error))
    return outcome
