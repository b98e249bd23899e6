"""A round: fine-tune on corrected masks, propose masks, choose what a person corrects first."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medsam2.errors import InputError
from medsam2.imaging import io
from medsam2.inference.predictor import Predictor
from medsam2.reports.page import write_text
from medsam2.training.config import TrainConfig
from medsam2.training.datasets.prepare import PrepareOptions, prepare
from medsam2.training.datasets.scan import LabelledScan
from medsam2.training.datasets.splits import split_by_patient
from medsam2.training.devices import Devices
from medsam2.training.loop import Trainer
from medsam2.training.rounds.proposals import (
    PROPOSED,
    RECORD,
    ROUNDS,
    Proposal,
    ScanFolder,
    WaitingScan,
    propose,
    usual_places,
)
from medsam2.training.stack_files import FORMER_NAME, use_stacks

ORDERS = ("uncertain", "diverse")
"""uncertain: first what the network is least sure of. diverse: each differs most from those before."""


def in_order(proposals: Sequence[Proposal], order: str) -> list[Proposal]:
    """Order proposals, the first to be corrected first.

    Args:
        proposals: In any order.
        order: One of `ORDERS`.

    Raises:
        InputError: There is no such order.
    """
    if order not in ORDERS:
        raise InputError(f"an order is one of {', '.join(ORDERS)}, not {order!r}")
    least_sure_first = sorted(proposals, key=lambda one: (one.confidence, one.name))
    return least_sure_first if order == "uncertain" else _far_apart(least_sure_first)


def _far_apart(proposals: Sequence[Proposal]) -> list[Proposal]:
    """Take the first, then always the one that is least like the most similar of those taken."""
    left = list(proposals)
    taken = left[:1]
    del left[:1]
    while left:
        likeness = np.stack([one.looks for one in left]) @ np.stack([one.looks for one in taken]).T
        taken.append(left.pop(int(likeness.max(axis=1).argmin())))
    return taken


LEAST_PATIENTS = 2
"""One to train on and one to validate on."""
_SHARES = (0.8, 0.2, 0.0)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RoundOptions:
    """How a round is done.

    Raises:
        InputError: A number is below 1.
    """

    number: int
    folder: Path
    """Folder of this round."""
    num_next: int = 5
    """How many scans are proposed next."""
    order: str = "uncertain"
    """One of `ORDERS`."""
    pool: int | None = None
    """How many waiting scans to choose from, drawn at random; None for all."""
    window: str | tuple[float, float] | None = None
    plane: str | None = None
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.num_next < 1 or (self.pool is not None and self.pool < self.num_next):
            raise InputError(
                f"a round proposes at least 1 scan, out of a pool of at least as many, not "
                f"{self.num_next} of {self.pool}"
            )


def start_training(scans: ScanFolder, config: TrainConfig, options: RoundOptions) -> Trainer | None:
    """Prepare the fine-tuning of a round, from the recipe's weights and not from the last round's.

    So a round depends on the corrected masks alone: a wrong mask that is corrected later leaves no trace. A
    round that was stopped continues.

    Returns:
        None where fewer than two patients have a corrected mask.

    Raises:
        InputError: A corrected mask cannot be used, or the recipe does not fit.
    """
    if len({scan.patient for scan in scans.corrected}) < LEAST_PATIENTS:
        return None
    stacks = scans.root / ROUNDS / FORMER_NAME
    prepared = PrepareOptions(window=options.window, plane=options.plane)
    return begin_training(
        scans.corrected, config, stacks, options.folder / "run", prepared, device=options.device
    )


def begin_training(
    scans: Sequence[LabelledScan],
    config: TrainConfig,
    stacks: Path,
    run: Path,
    options: PrepareOptions,
    *,
    device: str,
) -> Trainer:
    """Cut corrected scans into stacks, some of the patients to validate on, and prepare a run on these.

    Args:
        scans: Of two patients at least.
        config: The run's values.
        stacks: Folder of the stacks; what is in it already is not prepared again.
        run: Folder of the run; a run that is in it continues.
        options: How scans become stacks.
        device: auto, cpu or cuda.

    Raises:
        InputError: A corrected mask cannot be used, or the recipe does not fit.
    """
    for case in prepare(split_by_patient(scans, _SHARES), stacks, options):
        if case.error is not None:
            raise InputError(f"the corrected mask of {case.name} cannot be used: {case.error}")
    return Trainer(use_stacks(config, stacks), run, stacks, devices=Devices(device=device))


def look_at(scans: ScanFolder, predictor: Predictor, options: RoundOptions) -> Iterator[Proposal]:
    """Propose a mask for each waiting scan, or for those of the pool; one that fails is named and left out.

    Raises:
        InputError: A corrected scan cannot be read, or no scan that waits can be prompted.
    """
    waiting = _drawn(scans.waiting, options)
    needs_places = any(scan.prompts is None and scan.rough is None for scan in waiting)
    places = usual_places(scans.corrected, options.plane) if needs_places else {}
    num_failed = 0
    for scan in waiting:
        try:
            yield propose(predictor, scan, places, window=options.window, plane=options.plane)
        except InputError as error:
            num_failed += 1
            logger.warning("%s is left out: %s", scan.name, error)
            if num_failed == len(waiting):
                raise


def put_forward(
    scans: ScanFolder, proposals: Sequence[Proposal], options: RoundOptions, trained: Trainer | None
) -> list[Proposal]:
    """Write the masks of the next scans into labels/proposed, and the record of the round.

    Returns:
        The proposals that a person is to correct next, in order.

    Raises:
        InputError: A file cannot be written.
    """
    ranked = in_order(proposals, options.order)
    chosen = ranked[: options.num_next]
    (scans.root / PROPOSED).mkdir(parents=True, exist_ok=True)
    options.folder.mkdir(parents=True, exist_ok=True)
    for proposal in chosen:
        io.write(proposal.labels, scans.root / PROPOSED / f"{proposal.name}.nii.gz")
    record = {
        "round": options.number,
        "corrected": [scan.name for scan in scans.corrected],
        "order": options.order,
        "validation_dice": None if trained is None else trained.best.dice,
        "weights": None if trained is None else "run/weights.safetensors",
        "next": [_facts(proposal) for proposal in chosen],
        "later": [_facts(proposal) for proposal in ranked[options.num_next :]],
    }
    # Written last: a round with a record is finished.
    write_text(options.folder / RECORD, json.dumps(record, indent=1) + "\n")
    return chosen


def begin_from(config: TrainConfig, weights: str | None) -> TrainConfig:
    """Return a recipe that begins from some weights.

    Raises:
        InputError: Neither the caller nor the recipe names any.
    """
    chosen = weights or config.initial_weights
    if chosen is None:
        raise InputError("rounds begin from weights: give --weights, or initial_weights in the recipe")
    return dataclasses.replace(config, initial_weights=chosen)


def _drawn(waiting: Sequence[WaitingScan], options: RoundOptions) -> list[WaitingScan]:
    if options.pool is None or options.pool >= len(waiting):
        return list(waiting)
    places = np.random.default_rng(options.number).permutation(len(waiting))[: options.pool]
    return [waiting[place] for place in sorted(places.tolist())]


def _facts(proposal: Proposal) -> dict[str, object]:
    return {
        "name": proposal.name,
        "confidence": round(proposal.confidence, 4),
        "objects": {str(number): round(value, 4) for number, value in proposal.confidences.items()},
        "prompted_by": proposal.source,
    }
