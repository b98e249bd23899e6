"""What a run reports as it goes: means of losses and time since the last report, and validations."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from medsam2.training.losses import TERMS
from medsam2.training.validation import Validation


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
        """Take in the loss terms of a step's results, `(results, 4)`."""
        self.terms.append(terms.cpu())

    def report(
        self, step: int, num_steps: int, phase: str, learning_rate: float, validation: Validation | None
    ) -> Progress:
        """Average what was taken in, and begin anew."""
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
