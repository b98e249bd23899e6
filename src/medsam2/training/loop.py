"""The training loop: phases of clips, resumable to the step."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from medsam2.checkpoints import build_network, load_network, resolve, save_weights
from medsam2.errors import InputError
from medsam2.model.config import PRESETS
from medsam2.reports.page import write_text
from medsam2.training.clip_workers import ClipSource, Drawn, Request
from medsam2.training.config import PhaseConfig, TrainConfig
from medsam2.training.devices import (
    Devices,
    attention_kernel,
    average_gradients,
    clip_workers,
    launch,
    mean_over_processes,
    share_of_batch,
)
from medsam2.training.networks import training_of
from medsam2.training.optimisation import (
    AveragedWeights,
    build_optimizer,
    freeze,
    learning_rate_at,
    set_learning_rate,
    term_weights,
)
from medsam2.training.runs import Best, Meter, Progress, RunFolder, RunState, card_of_run
from medsam2.training.validation import Validation


class Trainer:
    """One run: its network, optimiser, averaged weights and folder."""

    def __init__(
        self, config: TrainConfig, folder: Path, stacks: Path, *, devices: Devices | None = None
    ) -> None:
        """Set up a run, or continue the run in the folder from its last checkpoint.

        Args:
            config: The run's values.
            folder: Where it keeps its files.
            stacks: Folder of the stacks to train on, see `training.stack_files`.
            devices: What it computes on. Several processes share every step's batch; each further process
                starts the command again.

        Raises:
            InputError: The weights to begin from are of another network, or a batch cannot be shared.
        """
        self.config = config
        self.folder = RunFolder(folder)
        devices = devices or Devices()
        self.fabric = launch(devices, config.precision)
        self.training = training_of(config, stacks, self.fabric.device)
        self.clips = ClipSource(self.training, config.seed, clip_workers(devices, self.fabric.device))
        for phase in config.phases:
            share_of_batch(phase.batch, self.fabric.world_size, config.accumulate)
        if self.fabric.is_global_zero:
            self.folder.start(config)
        resumed = self.folder.load()
        self.step = resumed.step if resumed else 0
        self.best = resumed.best if resumed else Best()
        self.state = dict(resumed.network) if resumed else self._initial_state()
        self.average = AveragedWeights(dict(resumed.average) if resumed else self.state, config.ema_decay)
        self._optimizer_state = resumed.optimizer if resumed else None

    def run(self) -> Iterator[Progress]:
        """Train to the end, reporting as it goes."""
        if self.config.keep_best and self.step == 0:
            yield from self._measure_beginning()
        try:
            while self.step < self.config.num_steps and not self.is_stale:
                phase, step_in_phase = self.config.phase_at(self.step)
                yield from self._run_phase(phase, step_in_phase)
        finally:
            self.clips.close()
        if self.is_first and not self.config.keep_best:
            self.export()

    @property
    def is_first(self) -> bool:
        """Whether this process reports, validates and writes."""
        return self.fabric.is_global_zero

    @property
    def is_stale(self) -> bool:
        """Whether as many validations as the recipe's patience were no better than the best."""
        return 0 < self.config.patience <= self.best.num_since

    def export(self) -> Path:
        """Write the averaged weights as other commands take them."""
        save_weights(self.average.state, PRESETS[self.config.preset], self.folder.weights_path)
        write_text(self.folder.card_path, card_of_run(self.config, self.step, self.best))
        return self.folder.weights_path

    def _initial_state(self) -> dict[str, Tensor]:
        torch.manual_seed(self.config.seed)
        preset, weights = self.config.preset, self.config.initial_weights
        if weights is None:
            return build_network(PRESETS[preset]).state_dict()
        network = load_network(resolve(weights))
        if network.config != PRESETS[preset]:
            raise InputError(f"the weights {weights} are of another network than the recipe's, {preset}")
        return network.state_dict()

    def _build(self, phase: PhaseConfig) -> tuple[nn.Module, nn.Module, torch.optim.Optimizer]:
        config = self.config
        network = self.training.build(phase)
        network.load_state_dict(self.state)
        freeze(network, config.freeze)
        optimizer = build_optimizer(
            network, learning_rate=phase.learning_rate, weight_decay=config.weight_decay,
            encoder_rate=config.encoder_rate, layer_decay=config.layer_decay, beta2=config.beta2,
        )  # fmt: skip
        if self._optimizer_state is not None:
            optimizer.load_state_dict(self._optimizer_state)
            self._optimizer_state = None
        learner, wrapped = self.fabric.setup(self.training.learner(network), optimizer)
        self._place_average()
        return network, learner.train(), wrapped

    def _place_average(self) -> None:
        self.average.state = {k: v.to(self.fabric.device) for k, v in self.average.state.items()}

    def _measure_beginning(self) -> Iterator[Progress]:
        """Validate the weights that a run begins with: those that it ends with must be no worse."""
        if not self.is_first:
            return
        self._place_average()
        phase = self.config.phases[0]
        found = self._validate(phase)
        yield Progress(
            step=0, num_steps=self.config.num_steps, phase=phase.name, losses={}, learning_rate=0.0,
            seconds_per_step=0.0, validation=found,
        )  # fmt: skip

    def _run_phase(self, phase: PhaseConfig, step_in_phase: int) -> Iterator[Progress]:
        network, learner, optimizer = self._build(phase)
        meter = Meter(term_weights(self.config.losses))
        drawn = self.clips.draw(self._requests(phase, phase.steps - step_in_phase))
        for index in range(step_in_phase, phase.steps):
            rate = learning_rate_at(phase, index)
            set_learning_rate(optimizer, rate)
            meter.add(self._train_step(learner, optimizer, drawn))
            self.average.update(network.state_dict(), self.step)
            self.step += 1
            is_last = index + 1 == phase.steps
            found = None
            if self.step % self.config.validate_every == 0 or is_last:
                found = self._validate(phase) if self.is_first else None
                if self.config.patience:
                    self.best = self.fabric.broadcast(self.best)
            is_last |= self.is_stale
            if self.is_first and (self.step % self.config.checkpoint_every == 0 or is_last):
                self._checkpoint(network, None if is_last else optimizer)
            if self.is_first and (found is not None or self.step % self.config.log_every == 0):
                yield meter.report(self.step, self.config.num_steps, phase.name, rate, found)
            if self.is_stale:
                break
        self.state = network.state_dict()

    def _requests(self, phase: PhaseConfig, num_steps: int) -> Iterator[Request]:
        """Say which clips this process learns from in the next steps: a request for each part of a step."""
        parts, rank = self.config.accumulate, self.fabric.global_rank
        share = share_of_batch(phase.batch, self.fabric.world_size, parts)
        for step in range(self.step, self.step + num_steps):
            for part in range(parts):
                first = (rank * parts + part) * share
                yield Request(phase=phase, step=step, clips=range(first, first + share))

    def _train_step(
        self, learner: nn.Module, optimizer: torch.optim.Optimizer, drawn: Iterator[Drawn]
    ) -> Tensor:
        """Take one step and return the loss terms of its results, `(results, 4)`."""
        torch.manual_seed(self.config.seed + self.step)
        parts = self.config.accumulate
        terms = torch.cat([self._learn_part(learner, next(drawn)) for _ in range(parts)])
        average_gradients(self.fabric, learner)
        self.fabric.clip_gradients(
            learner, optimizer, max_norm=self.config.clip_norm, error_if_nonfinite=False
        )
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return mean_over_processes(self.fabric, terms.mean(dim=0, keepdim=True))

    def _learn_part(self, learner: nn.Module, drawn: Drawn) -> Tensor:
        """Add the gradients of a part of this process's share of a step's batch."""
        fabric, parts = self.fabric, self.config.accumulate
        with attention_kernel(fabric.device), fabric.no_backward_sync(learner, enabled=fabric.world_size > 1):  # type: ignore[arg-type]
            return self.training.learn(learner, drawn, lambda loss: fabric.backward(loss / parts))

    def _validate(self, phase: PhaseConfig) -> Validation:
        """Validate the averaged weights, and export them if they are the best and the best are exported."""
        network = self.training.build(phase).to(self.fabric.device)
        network.load_state_dict(self.average.state)
        with self.fabric.autocast():
            found = self.training.validate(network, phase)
        self.best = self.best.after(found.dice, self.step)
        if self.config.keep_best and self.best.step == self.step:
            self.export()
        return found

    def _checkpoint(self, network: nn.Module, optimizer: torch.optim.Optimizer | None) -> None:
        """Write the state; the next phase begins without optimiser state."""
        self.folder.save(
            RunState(
                step=self.step,
                network=network.state_dict(),
                average=self.average.state,
                optimizer=None if optimizer is None else optimizer.state_dict(),
                best=self.best,
            )
        )
        if not self.config.keep_best:
            self.export()
