"""What a run teaches: the part of training that differs between the official network and the compact one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from medsam2.model.compact.config import CompactConfig
from medsam2.model.compact.network import CompactNetwork
from medsam2.model.config import PRESETS, ModelConfig
from medsam2.model.layers import RotaryAttention
from medsam2.model.network import Network
from medsam2.training.clips import Mixture, draw_clips
from medsam2.training.config import PhaseConfig, TrainConfig
from medsam2.training.data import Chance, draw_batch
from medsam2.training.follow import FollowLearner, Walk
from medsam2.training.learner import ClipLearner
from medsam2.training.optimisation import term_weights
from medsam2.training.validation import Validation, validate, validate_follow

Backward = Callable[[Tensor], None]


class Course(Protocol):
    """How one kind of network is taught."""

    def build(self, phase: PhaseConfig) -> nn.Module:
        """A network of the phase's input size; no entry of its state depends on that size."""
        ...

    def learner(self, network: nn.Module) -> nn.Module:
        """The network as training calls it."""
        ...

    def learn(self, learner: nn.Module, phase: PhaseConfig, chance: Chance, backward: Backward) -> Tensor:
        """Draw clips, call `backward` on what was learnt from them, and return loss terms `(results, 4)`."""
        ...

    def validate(self, network: nn.Module, phase: PhaseConfig) -> Validation:
        """Measure a network on stacks that are not learnt from."""
        ...


def course_of(config: TrainConfig, bank: Path, device: torch.device) -> Course:
    """Choose the course for a run's network."""
    return FollowCourse(config, bank, device) if config.is_compact else ClipCourse(config, bank, device)


class _Stacks:
    """The numbers of a bank's stacks: first those to learn from, then those to validate on."""

    def __init__(self, config: TrainConfig) -> None:
        data = config.data
        self.learnt = range(data.first_seed, data.first_seed + data.stacks)
        self.held_out = range(self.learnt.stop, self.learnt.stop + data.validation_stacks)


class ClipCourse:
    """The official network: whole clips through the recurrence of SAM 2, then back through all of it."""

    def __init__(self, config: TrainConfig, bank: Path, device: torch.device) -> None:
        self.config = config
        self.bank = bank
        self.device = device
        self.stacks = _Stacks(config)

    def build(self, phase: PhaseConfig) -> Network:
        shape = PRESETS[self.config.preset]
        assert isinstance(shape, ModelConfig)
        network = Network(dataclasses.replace(shape, image_size=phase.image_size))
        for module in network.memory_attention.modules():
            if isinstance(module, RotaryAttention):
                module.dropout = self.config.memory_dropout
            elif isinstance(module, nn.Dropout):
                module.p = self.config.memory_dropout
        return network

    def learner(self, network: nn.Module) -> nn.Module:
        assert isinstance(network, Network)
        config = self.config
        return ClipLearner(network, config.prompts, config.losses, recompute=config.recompute)

    def learn(self, learner: nn.Module, phase: PhaseConfig, chance: Chance, backward: Backward) -> Tensor:
        clips = draw_batch(
            self.bank, self.stacks.learnt, self.config.data, chance.clips,
            clip_length=phase.clip_length, image_size=phase.image_size, augment=True,
        )  # fmt: skip
        images, targets = clips.images.to(self.device), clips.targets.to(self.device)
        weights = torch.tensor(term_weights(self.config.losses), device=self.device)
        terms: Tensor = learner(images, targets, chance)
        backward((terms.mean(dim=0) * weights).sum())
        return terms.detach()

    def validate(self, network: nn.Module, phase: PhaseConfig) -> Validation:
        assert isinstance(network, Network)
        return validate(network, self.bank, self.stacks.held_out, self.config, clip_length=phase.clip_length)


class FollowCourse:
    """The compact network: clips walked slice by slice, each slice learnt from by itself."""

    def __init__(self, config: TrainConfig, bank: Path, device: torch.device) -> None:
        self.config = config
        self.bank = bank
        self.device = device
        self.stacks = _Stacks(config)
        self._mixture: Mixture | None = None

    @property
    def mixture(self) -> Mixture:
        """The objects to learn from; sorted at the first draw, when the bank is filled."""
        if self._mixture is None:
            self._mixture = Mixture(self.bank, self.stacks.learnt, self.config.data)
        return self._mixture

    def build(self, phase: PhaseConfig) -> CompactNetwork:
        shape = PRESETS[self.config.preset]
        assert isinstance(shape, CompactConfig)
        network = CompactNetwork(dataclasses.replace(shape, image_size=phase.image_size))
        return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def learner(self, network: nn.Module) -> nn.Module:
        assert isinstance(network, CompactNetwork)
        return FollowLearner(network, self.config.losses)

    def learn(self, learner: nn.Module, phase: PhaseConfig, chance: Chance, backward: Backward) -> Tensor:
        data, length = self.config.data, phase.clip_length
        if length > 1 and data.single_share > 0 and chance.shared.random() < data.single_share:
            each = [source for clip in chance.clips for source in clip.spawn(length)]
            chance, length = Chance(shared=chance.shared, clips=each), 1
        clips = draw_clips(
            self.bank, self.mixture, data, chance.clips,
            clip_length=length, image_size=phase.image_size, augment=True,
        ).to(self.device)  # fmt: skip
        weights = torch.tensor(term_weights(self.config.losses), device=self.device) / length
        walk = Walk(
            learner, clips, self.config.prompts, chance, lambda terms: backward((terms * weights).sum())
        )
        return walk.run().terms

    def validate(self, network: nn.Module, phase: PhaseConfig) -> Validation:
        assert isinstance(network, CompactNetwork)
        return validate_follow(
            network, self.bank, self.stacks.held_out, self.config, clip_length=phase.clip_length
        )
