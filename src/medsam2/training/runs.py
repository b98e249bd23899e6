"""A run's folder: its settings, its state between steps, its curves, its weights."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from medsam2.errors import CheckpointError
from medsam2.training.config import TrainConfig, as_table


@dataclass(frozen=True, kw_only=True)
class RunState:
    """All that a run needs to go on as if it had never stopped."""

    step: int
    """Steps done."""
    network: Mapping[str, Tensor]
    average: Mapping[str, Tensor]
    optimizer: dict[str, object] | None
    """None between phases, each of which begins with a fresh optimiser."""


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

    def start(self, config: TrainConfig) -> None:
        """Make the folder and keep the resolved settings in it."""
        self.path.mkdir(parents=True, exist_ok=True)
        text = json.dumps(as_table(config), indent=2)
        (self.path / "config.json").write_text(text + "\n", encoding="utf-8")

    def save(self, state: RunState) -> None:
        """Write the checkpoint under a temporary name and rename it."""
        temporary = self.state_path.with_name(f".state.{os.getpid()}")
        try:
            torch.save(
                {
                    "step": state.step,
                    "network": dict(state.network),
                    "average": dict(state.average),
                    "optimizer": state.optimizer,
                },
                temporary,
            )
            temporary.replace(self.state_path)
        finally:
            temporary.unlink(missing_ok=True)

    def load(self) -> RunState | None:
        """Read the checkpoint, or None if the run has not got that far.

        Raises:
            CheckpointError: The file is not one of ours.
        """
        if not self.state_path.exists():
            return None
        try:
            content = torch.load(self.state_path, map_location="cpu", weights_only=True)
            return RunState(**content)
        except (TypeError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
            raise CheckpointError(f"{self.state_path} is not a training checkpoint") from error
