"""The training loop: phases of clips, resumable to the step."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from medsam2.checkpoints import load_network, resolve, save_weights
from medsam2.model.attention import RotaryAttention
from medsam2.model.config import PRESETS
from medsam2.model.network import Network
from medsam2.training.config import PhaseConfig, TrainConfig
from medsam2.training.data import draw_batch
from medsam2.training.learner import ClipLearner
from medsam2.training.losses import TERMS, term_weights
from medsam2.training.optimisation import (
    AveragedWeights,
    build_optimizer,
    learning_rate_at,
    set_learning_rate,
)
from medsam2.training.runs import RunFolder, RunState
from medsam2.training.validation import validate


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a run stands, after `log_every` steps and whenever something was measured."""

    step: int
    num_steps: int
    phase: str
    losses: dict[str, float]
    """Means since the last report: total, focal, dice, iou, presence."""
    learning_rate: float
    seconds_per_step: float
    validation_dice: float | None = None


class Trainer:
    """One run: its network, optimiser, averages and folder."""

    def __init__(
        self, config: TrainConfig, folder: Path, bank: Path, *, device: str = "auto", processes: int = 1
    ) -> None:
        """Set a run up, or take it up again where its folder says it stopped.

        Args:
            config: The run's values.
            folder: Where it keeps its files.
            bank: Folder of generated stacks, see `training.bank`.
            device: Lightning Fabric's accelerator name.
            processes: Processes, each with a device or an equal share of the processor's cores, that
                share every step's batch; more than one start the command again for each other.
        """
        self.config = config
        self.folder = RunFolder(folder)
        self.bank = bank
        self.fabric = _launch(device, processes, config.precision)
        if self.fabric.is_global_zero:
            self.folder.start(config)
        resumed = self.folder.load()
        self.step = resumed.step if resumed else 0
        self.state = dict(resumed.network) if resumed else self._initial_state()
        self.average = AveragedWeights(dict(resumed.average) if resumed else self.state, config.ema_decay)
        self._optimizer_state = resumed.optimizer if resumed else None

    def run(self) -> Iterator[Progress]:
        """Train to the end, reporting as it goes."""
        while self.step < self.config.num_steps:
            phase, step_in_phase = self.config.phase_at(self.step)
            yield from self._run_phase(phase, step_in_phase)
        if self.is_first:
            self.export()

    @property
    def is_first(self) -> bool:
        """Whether this process reports, validates and writes."""
        return self.fabric.is_global_zero

    def export(self) -> Path:
        """Write the averaged weights as other commands take them."""
        save_weights(self.average.state, PRESETS[self.config.preset], self.folder.weights_path)
        return self.folder.weights_path

    def _initial_state(self) -> dict[str, Tensor]:
        torch.manual_seed(self.config.seed)
        if self.config.initial_weights is None:
            return Network(PRESETS[self.config.preset]).state_dict()
        return load_network(resolve(self.config.initial_weights)).state_dict()

    def _network_for(self, phase: PhaseConfig) -> Network:
        """A network of the phase's input size; no entry of its state depends on that size."""
        shape = dataclasses.replace(PRESETS[self.config.preset], image_size=phase.image_size)
        return Network(shape)

    def _build(self, phase: PhaseConfig) -> tuple[Network, nn.Module, torch.optim.Optimizer]:
        network = self._network_for(phase)
        network.load_state_dict(self.state)
        for module in network.memory_attention.modules():
            if isinstance(module, RotaryAttention):
                module.dropout = self.config.memory_dropout
            elif isinstance(module, nn.Dropout):
                module.p = self.config.memory_dropout
        optimizer = build_optimizer(
            network, learning_rate=phase.learning_rate, weight_decay=self.config.weight_decay
        )
        if self._optimizer_state is not None:
            optimizer.load_state_dict(self._optimizer_state)
            self._optimizer_state = None
        learner, wrapped = self.fabric.setup(
            ClipLearner(network, self.config.prompts, self.config.losses), optimizer
        )
        self.average.state = {k: v.to(self.fabric.device) for k, v in self.average.state.items()}
        return network, learner.train(), wrapped

    def _run_phase(self, phase: PhaseConfig, step_in_phase: int) -> Iterator[Progress]:
        network, learner, optimizer = self._build(phase)
        meter = _Meter(term_weights(self.config.losses))
        for index in range(step_in_phase, phase.steps):
            rate = learning_rate_at(phase, index)
            set_learning_rate(optimizer, rate)
            meter.add(self._train_step(learner, optimizer, phase))
            self.average.update(network.state_dict(), self.step)
            self.step += 1
            is_last = index + 1 == phase.steps
            score = None
            if self.is_first and (self.step % self.config.validate_every == 0 or is_last):
                score = self._validate(phase)
            if self.is_first and (self.step % self.config.checkpoint_every == 0 or is_last):
                self._checkpoint(network, None if is_last else optimizer)
            if self.is_first and (score is not None or self.step % self.config.log_every == 0):
                yield meter.report(self.step, self.config.num_steps, phase.name, rate, score)
        self.state = network.state_dict()

    def _train_step(self, learner: nn.Module, optimizer: torch.optim.Optimizer, phase: PhaseConfig) -> Tensor:
        """Take one step and return the loss terms of its results, `(results, 4)`."""
        # A step's clips and prompts follow from its number alone: a resumed run repeats nothing.
        rank = self.fabric.global_rank
        rng = np.random.default_rng((self.config.seed, self.step, rank))
        torch.manual_seed(self.config.seed + self.step)
        data = self.config.data
        clips = draw_batch(
            self.bank, range(data.first_seed, data.first_seed + data.stacks), data, rng,
            batch=max(1, phase.batch // self.fabric.world_size), clip_length=phase.clip_length,
            image_size=phase.image_size, augment=True,
        )  # fmt: skip
        images, targets = clips.images.to(self.fabric.device), clips.targets.to(self.fabric.device)
        with _attention_kernel(self.fabric.device):
            terms: Tensor = learner(images, targets, rng)
            self.fabric.backward(
                (terms.mean(dim=0) * terms.new_tensor(term_weights(self.config.losses))).sum()
            )
        self.fabric.clip_gradients(
            learner, optimizer, max_norm=self.config.clip_norm, error_if_nonfinite=False
        )
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return terms.detach()

    def _validate(self, phase: PhaseConfig) -> float:
        network = self._network_for(phase).to(self.fabric.device)
        network.load_state_dict(self.average.state)
        data = self.config.data
        first = data.first_seed + data.stacks
        with self.fabric.autocast():
            return validate(
                network, self.bank, range(first, first + data.validation_stacks), self.config,
                clip_length=phase.clip_length,
            )  # fmt: skip

    def _checkpoint(self, network: Network, optimizer: torch.optim.Optimizer | None) -> None:
        """Keep the state; a phase that is over leaves no optimiser state to the next."""
        self.folder.save(
            RunState(
                step=self.step,
                network=network.state_dict(),
                average=self.average.state,
                optimizer=None if optimizer is None else optimizer.state_dict(),
            )
        )
        self.export()


def _launch(device: str, processes: int, precision: str) -> Fabric:
    """Start the processes of a run and join them."""
    # Which parts of the network a step uses depends on its prompts.
    strategy = DDPStrategy(find_unused_parameters=True) if processes > 1 else "auto"
    fabric = Fabric(accelerator=device, devices=processes, strategy=strategy, precision=precision)  # type: ignore[arg-type]
    fabric.launch()
    if processes > 1 and fabric.device.type == "cpu":
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // processes))
    return fabric


def _attention_kernel(device: torch.device) -> AbstractContextManager[None]:
    """On a CPU the plain kernel trains small windows a fifth faster than the fused one."""
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()


class _Meter:
    """Means of losses and time since the last report."""

    def __init__(self, weights: tuple[float, ...]) -> None:
        self.weights = weights
        self.reset()

    def reset(self) -> None:
        self.terms: list[Tensor] = []
        self.started = time.perf_counter()

    def add(self, terms: Tensor) -> None:
        self.terms.append(terms.cpu())

    def report(
        self, step: int, num_steps: int, phase: str, learning_rate: float, validation_dice: float | None
    ) -> Progress:
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
            validation_dice=validation_dice,
        )
        self.reset()
        return progress
