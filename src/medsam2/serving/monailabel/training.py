"""The place where an application that can train is plugged in; the server itself knows no training."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from medsam2.serving.faults import Fault
from medsam2.serving.monailabel.formats import FINAL
from medsam2.serving.monailabel.studies import Studies
from medsam2.serving.monailabel.tasks import Task, Work

TRAINER = "medsam2"
"""What clients know the trainer by."""


@dataclass(frozen=True, kw_only=True)
class TrainingOrder:
    """What a trainer is told."""

    pairs: tuple[tuple[Path, Path], ...]
    """Images, and the labels that a person has approved."""
    params: Mapping[str, object]
    """As the client sent them; to be checked by the trainer."""
    say: Callable[[str], None]
    """Tells clients how it stands."""
    is_stopped: Callable[[], bool]
    """Whether to end early; to be asked now and then."""


@dataclass(frozen=True, kw_only=True)
class Trainer:
    """A fine-tuning that clients may start."""

    run: Callable[[TrainingOrder], Mapping[str, object]]
    """Does it, in a thread of its own, and returns what is to be said in the end: `best_metric`, `epoch`,
    `total_epochs` and `total_time` are shown by viewers. An error of ours is told in its own words."""
    description: str = "Fine-tuning on the labels that were approved"
    config: Mapping[str, object] = field(default_factory=dict)
    """Options and their defaults, for viewers to show."""


def work_of(trainer: Trainer, pairs: tuple[tuple[Path, Path], ...], params: Mapping[str, object]) -> Work:
    """A training as work in the background."""

    async def work(task: Task) -> Mapping[str, object]:
        order = TrainingOrder(pairs=pairs, params=params, say=task.say, is_stopped=task.stop.is_set)
        return await asyncio.to_thread(trainer.run, order)

    return work


def configured(trainer: Trainer | None) -> Trainer:
    """The trainer, if there is one.

    Raises:
        Fault: 501, there is none.
    """
    if trainer is None:
        raise Fault(
            501, "this server does not train; what it has saved can be trained on with medsam2 data and train"
        )
    return trainer


def pairs_of(studies: Studies) -> tuple[tuple[Path, Path], ...]:
    """Images with an approved label, and that label."""
    return tuple(
        (studies.image_path(entry), studies.label_path(entry, FINAL))
        for entry in studies.entries().values()
        if FINAL in entry.labels
    )
