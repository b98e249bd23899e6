"""A run's folder and what it reports: settings, state between steps, curves, weights."""

from __future__ import annotations

import dataclasses
import json
import pickle
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from medsam2.errors import CheckpointError
from medsam2.imaging.replacing import replacing
from medsam2.reports.page import write_text
from medsam2.training.config import TrainConfig, as_table
from medsam2.training.optimisation import TERMS
from medsam2.training.validation import Validation
from medsam2.weights import ADDRESS, SPECS


@dataclass(frozen=True, kw_only=True, eq=False)
class Progress:
    """Where a run stands, after `log_every` steps and whenever something was measured."""

    step: int
    num_steps: int
    phase: str
    losses: dict[str, float]
    """Means since the last report: total, focal, dice, iou, presence; empty before the first step."""
    learning_rate: float
    seconds_per_step: float
    validation: Validation | None = None

    @property
    def validation_dice(self) -> float | None:
        """Mean Dice of the validation, if there was one."""
        return None if self.validation is None else self.validation.dice


class Meter:
    """Means of losses and time since the last report."""

    def __init__(self, weights: tuple[float, ...]) -> None:
        self.weights = weights
        self._reset()

    def add(self, terms: Tensor) -> None:
        """Add the loss terms of a step's results, `(results, 4)`."""
        self.terms.append(terms.cpu())

    def report(
        self, step: int, num_steps: int, phase: str, learning_rate: float, validation: Validation | None
    ) -> Progress:
        """Average what was added, and begin again."""
        terms = torch.cat(self.terms)
        means = dict(zip(TERMS, terms.mean(dim=0).tolist(), strict=True))
        means["total"] = sum(w * m for w, m in zip(self.weights, means.values(), strict=True))
        progress = Progress(
            step=step,
            num_steps=num_steps,
            phase=phase,
            losses=means,
            learning_rate=learning_rate,
            seconds_per_step=(time.perf_counter() - self.started) / len(self.terms),
            validation=validation,
        )
        self._reset()
        return progress

    def _reset(self) -> None:
        self.terms: list[Tensor] = []
        self.started = time.perf_counter()


@dataclass(frozen=True, kw_only=True)
class Best:
    """The best validation so far."""

    dice: float = -1.0
    """Below 0 before the first one."""
    step: int = 0
    num_since: int = 0
    """Validations since then that were no better."""

    def after(self, dice: float, step: int) -> Best:
        """Return the best after another validation."""
        if dice > self.dice:
            return Best(dice=dice, step=step)
        return Best(dice=self.dice, step=self.step, num_since=self.num_since + 1)


@dataclass(frozen=True, kw_only=True)
class RunState:
    """All that a run needs to continue as if it had never stopped."""

    step: int
    """Steps done."""
    network: Mapping[str, Tensor]
    average: Mapping[str, Tensor]
    optimizer: dict[str, object] | None
    """None between phases, each of which begins with a fresh optimiser."""
    best: Best = Best()


def card_of_run(config: TrainConfig, step: int, best: Best) -> str:
    """Write the model card of a run's weights, as Markdown: what they were made of, and whose licence holds.

    Args:
        config: The recipe.
        step: Steps done.
        best: The best validation so far.
    """
    begun = config.initial_weights
    lines = [
        f"# Weights trained with medsam2 for {step} of {config.num_steps} steps",
        f"Network: {config.preset}. Seed: {config.seed}.",
    ]
    if begun is None:
        lines.append("Begun from weights drawn by chance.")
    else:
        spec = SPECS.get(begun)
        name = begun if spec is not None or begun.startswith(ADDRESS) else Path(begun).name
        licence = "see their card" if spec is None else spec.licence
        lines.append(f"Fine-tuned from {name}, whose licence holds for these weights too: {licence}.")
    if best.dice >= 0:
        lines.append(f"Best Dice in validation: {best.dice:.3f}, after {best.step} steps.")
    lines.append("Say here on which scans they learnt, and under which licence these may be used.")
    return "\n\n".join(lines) + "\n"


@dataclass(frozen=True)
class RunFolder:
    """Where a run keeps its files."""

    path: Path

    @property
    def state_path(self) -> Path:
        """The last checkpoint."""
        return self.path / "state.pt"

    @property
    def weights_path(self) -> Path:
        """The averaged weights, as other commands take them."""
        return self.path / "weights.safetensors"

    @property
    def card_path(self) -> Path:
        """The model card of these weights, which goes with them."""
        return self.weights_path.with_suffix(".md")

    def start(self, config: TrainConfig) -> None:
        """Make the folder and keep the resolved settings in it."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_text(self.path / "config.json", json.dumps(as_table(config), indent=2) + "\n")

    def save(self, state: RunState) -> None:
        """Write the checkpoint; an earlier one is replaced once the new one is whole."""
        content = {
            "step": state.step,
            "network": dict(state.network),
            "average": dict(state.average),
            "optimizer": state.optimizer,
            "best": dataclasses.asdict(state.best),
        }
        with replacing(self.state_path, ".part") as temporary:
            torch.save(content, temporary)

    def load(self) -> RunState | None:
        """Read the checkpoint, or None if the run has not got that far.

        Raises:
            CheckpointError: The file is not one of ours.
        """
        if not self.state_path.exists():
            return None
        try:
            content = torch.load(self.state_path, map_location="cpu", weights_only=True)
            best = Best(**content.pop("best", {}))  # runs of earlier versions have none
            return RunState(**content, best=best)
        except (AttributeError, TypeError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
            raise CheckpointError(f"{self.state_path} is not a training checkpoint") from error
