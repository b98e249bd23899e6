"""The clips of each training step: drawn from seeds, ahead of time by worker processes if wanted."""

from __future__ import annotations

import multiprocessing
import pickle
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from medsam2.training.compact_clips import CompactClips
from medsam2.training.config import PhaseConfig
from medsam2.training.official_clips import OfficialClips
from medsam2.training.stack_files import CACHED_BYTES, STACKS


class Chance:
    """The random generators of a batch, or of a part of one.

    No dataclass: Lightning Fabric looks through those for tensors to convert, and refuses frozen ones.
    """

    def __init__(self, *, shared: np.random.Generator, clips: Sequence[np.random.Generator]) -> None:
        self.shared = shared
        """For what the clips of a step have in common: the kind of first prompt, the number of clicks."""
        self.clips = tuple(clips)
        """One for each clip, whichever process it is on and whatever other clips are beside it."""


def chance_of_step(seed: int, step: int, clips: range) -> Chance:
    """Make the random generators of some clips of a step.

    They follow from the numbers alone: a resumed run repeats nothing, and a batch that several processes
    share, or that is worked through in parts, is the same batch.

    Args:
        seed: Of the run.
        step: Number of the step.
        clips: Numbers of the clips in the step's whole batch.
    """
    # Counted from 1: to numpy, a seed that ends in 0 is the seed without it.
    return Chance(
        shared=np.random.default_rng((seed, step)),
        clips=[np.random.default_rng((seed, step, clip + 1)) for clip in clips],
    )


@dataclass(frozen=True, kw_only=True)
class Request:
    """Clips that are wanted: a part of a step's batch."""

    phase: PhaseConfig
    step: int
    clips: range


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """Clips, and the random generators as drawing has left them; the simulated user goes on with those."""

    clips: OfficialClips | CompactClips
    chance: Chance


class Draws(Protocol):
    """What can draw clips; it is copied to worker processes."""

    def draw(self, phase: PhaseConfig, chance: Chance) -> Drawn:
        """Draw a clip for each generator of `chance.clips`."""
        ...


class ClipSource:
    """Draws the clips of a run in this process, or ahead of time in worker processes.

    A clip depends on its seed alone, so the clips are the same with any number of workers.
    """

    def __init__(self, draws: Draws, seed: int, workers: int) -> None:
        self._draws = draws
        self._seed = seed
        self._workers = workers
        self._pool: ProcessPoolExecutor | None = None

    def draw(self, requests: Iterable[Request]) -> Iterator[Drawn]:
        """Yield the clips of each request, in order.

        Raises:
            InputError: No object large enough was found.
        """
        if not self._workers:
            yield from (_draw(self._draws, self._seed, request) for request in requests)
            return
        if self._pool is None:
            # Not forked: a process with threads and a GPU context cannot be copied safely.
            self._pool = ProcessPoolExecutor(
                self._workers, multiprocessing.get_context("spawn"), _start_worker,
                (self._draws, self._seed, self._workers),
            )  # fmt: skip
        waiting: deque[Future[bytes]] = deque()
        try:
            for request in requests:
                waiting.append(self._pool.submit(_draw_in_worker, request))
                if len(waiting) > 2 * self._workers:
                    yield pickle.loads(waiting.popleft().result())
            while waiting:
                yield pickle.loads(waiting.popleft().result())
        finally:
            for future in waiting:
                future.cancel()

    def close(self) -> None:
        """End the worker processes."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None


def _draw(draws: Draws, seed: int, request: Request) -> Drawn:
    return draws.draw(request.phase, chance_of_step(seed, request.step, request.clips))


_in_worker: dict[str, tuple[Draws, int]] = {}
"""What this worker process draws with; empty in other processes."""


def _start_worker(draws: Draws, seed: int, workers: int) -> None:
    torch.set_num_threads(1)
    STACKS.most_bytes = CACHED_BYTES // workers
    _in_worker["draws"] = draws, seed


def _draw_in_worker(request: Request) -> bytes:
    # As bytes: tensors would go through shared memory, of which a container may have 64 MiB.
    return pickle.dumps(_draw(*_in_worker["draws"], request))
