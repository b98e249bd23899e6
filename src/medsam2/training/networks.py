"""What differs between the training of the official network and that of the compact one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from medsam2.inference.features import upload
from medsam2.model.compact.config import CompactConfig
from medsam2.model.compact.network import CompactNetwork
from medsam2.model.config import PRESETS, ModelConfig
from medsam2.model.layers import RotaryAttention
from medsam2.model.network import Network
from medsam2.training.clip_workers import Chance, Drawn
from medsam2.training.compact_clips import CompactClips, Mixture, draw_compact_clips
from medsam2.training.compact_learner import CompactLearner, Unroll
from medsam2.training.config import PhaseConfig, TrainConfig
from medsam2.training.official_clips import OfficialClips, draw_official_clips
from medsam2.training.official_learner import OfficialLearner
from medsam2.training.optimisation import term_weights
from medsam2.training.validation import Validation, validate_compact, validate_official

Backward = Callable[[Tensor], None]


class NetworkTraining(Protocol):
    """How one kind of network is trained."""

    def build(self, phase: PhaseConfig) -> nn.Module:
        """Build a network of the phase's input size; no entry of its state depends on that size."""
        ...

    def learner(self, network: nn.Module) -> nn.Module:
        """Wrap a network as training calls it."""
        ...

    def draw(self, phase: PhaseConfig, chance: Chance) -> Drawn:
        """Draw the clips of a step, or of a part of one."""
        ...

    def learn(self, learner: nn.Module, drawn: Drawn, backward: Backward) -> Tensor:
        """Call `backward` on the losses of clips, and return their loss terms, `(results, 4)`."""
        ...

    def validate(self, network: nn.Module, phase: PhaseConfig) -> Validation:
        """Measure a network on the validation stacks."""
        ...


def training_of(config: TrainConfig, stacks: Path, device: torch.device) -> NetworkTraining:
    """Return the training of a run's network."""
    kind = CompactTraining if config.is_compact else OfficialTraining
    return kind(config, stacks, device)


class _Settings:
    """What both kinds of training know: the run's values, the folder of its stacks and its device."""

    def __init__(self, config: TrainConfig, stacks: Path, device: torch.device) -> None:
        data = config.data
        self.config = config
        self.stacks = stacks
        self.device = device
        self.train_seeds = range(data.first_seed, data.first_seed + data.stacks)
        self.validation_seeds = range(self.train_seeds.stop, self.train_seeds.stop + data.validation_stacks)


class OfficialTraining(_Settings):
    """The official network: whole clips through the recurrence of SAM 2, then back through all of it."""

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
        return OfficialLearner(network, config.prompts, config.losses, recompute=config.recompute)

    def draw(self, phase: PhaseConfig, chance: Chance) -> Drawn:
        clips = draw_official_clips(
            self.stacks, self.train_seeds, self.config.data, chance.clips,
            clip_length=phase.clip_length, image_size=phase.image_size, augment=True,
        )  # fmt: skip
        return Drawn(clips=clips, chance=chance)

    def learn(self, learner: nn.Module, drawn: Drawn, backward: Backward) -> Tensor:
        assert isinstance(drawn.clips, OfficialClips)
        images, targets = (upload(part, self.device) for part in (drawn.clips.images, drawn.clips.targets))
        weights = torch.tensor(term_weights(self.config.losses), device=self.device)
        terms: Tensor = learner(images, targets, drawn.chance)
        backward((terms.mean(dim=0) * weights).sum())
        return terms.detach()

    def validate(self, network: nn.Module, phase: PhaseConfig) -> Validation:
        assert isinstance(network, Network)
        return validate_official(
            network, self.stacks, self.validation_seeds, self.config, clip_length=phase.clip_length
        )


class CompactTraining(_Settings):
    """The compact network: clips slice by slice, each slice learnt from by itself."""

    _mixture: Mixture | None = None

    @property
    def mixture(self) -> Mixture:
        """The objects to learn from; listed at the first draw, when all stacks are there."""
        if self._mixture is None:
            self._mixture = Mixture(self.stacks, self.train_seeds, self.config.data)
        return self._mixture

    def build(self, phase: PhaseConfig) -> CompactNetwork:
        shape = PRESETS[self.config.preset]
        assert isinstance(shape, CompactConfig)
        network = CompactNetwork(dataclasses.replace(shape, image_size=phase.image_size))
        return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def learner(self, network: nn.Module) -> nn.Module:
        assert isinstance(network, CompactNetwork)
        return CompactLearner(network, self.config.losses)

    def draw(self, phase: PhaseConfig, chance: Chance) -> Drawn:
        data, length = self.config.data, phase.clip_length
        if length > 1 and data.single_share > 0 and chance.shared.random() < data.single_share:
            each = [source for clip in chance.clips for source in clip.spawn(length)]
            chance, length = Chance(shared=chance.shared, clips=each), 1
        clips = draw_compact_clips(
            self.stacks, self.mixture, data, chance.clips,
            clip_length=length, image_size=phase.image_size, augment=True,
        )  # fmt: skip
        return Drawn(clips=clips, chance=chance)

    def learn(self, learner: nn.Module, drawn: Drawn, backward: Backward) -> Tensor:
        assert isinstance(drawn.clips, CompactClips)
        clips = drawn.clips.to(self.device)
        weights = torch.tensor(term_weights(self.config.losses), device=self.device) / clips.length
        unroll = Unroll(
            learner, clips, self.config.prompts, drawn.chance,
            lambda terms: backward((terms * weights).sum()),
        )  # fmt: skip
        return unroll.run().terms

    def validate(self, network: nn.Module, phase: PhaseConfig) -> Validation:
        assert isinstance(network, CompactNetwork)
        return validate_compact(
            network, self.stacks, self.validation_seeds, self.config, clip_length=phase.clip_length
        )
