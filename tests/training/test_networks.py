"""What a step of each network's training draws, learns from and gives."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from medsam2.model.compact.network import CompactNetwork
from medsam2.model.config import PRESETS
from medsam2.model.layers import RotaryAttention
from medsam2.model.network import Network
from medsam2.training.clip_workers import chance_of_step
from medsam2.training.config import DataConfig, LossConfig, PhaseConfig, PromptConfig, TrainConfig
from medsam2.training.networks import CompactTraining, OfficialTraining, training_of
from medsam2.training.optimisation import term_weights

CPU = torch.device("cpu")
PHASE = PhaseConfig(name="clips", steps=9, image_size=64, batch=2, clip_length=3, learning_rate=1e-3)
QUIET = PromptConfig(point_share=0, mask_share=0, correction_share=0, late_correction_share=0)

WriteStacks = Callable[..., Path]


@pytest.fixture
def small_preset(compact_network: CompactNetwork, monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of the compact network in a size for tests."""
    monkeypatch.setitem(PRESETS, "compact-small", compact_network.config)
    return "compact-small"


@pytest.fixture
def block_stack(write_stacks: WriteStacks) -> Path:
    """One stack, a bright block in noise."""
    labels = np.zeros((9, 60, 64), np.uint8)
    labels[2:7, 16:40, 20:48] = 1
    noise = np.random.default_rng(0).integers(0, 60, labels.shape)
    stack = {"image": (noise + 150 * labels).astype(np.uint8), "labels": labels}
    return write_stacks([stack], [stack])


def _config(preset: str, **changes: object) -> TrainConfig:
    data = DataConfig(stacks=1, validation_stacks=1)
    config = TrainConfig(preset=preset, phases=(PHASE,), data=data, prompts=QUIET)
    return dataclasses.replace(config, **changes)  # type: ignore[arg-type]


def _learn(
    training: CompactTraining | OfficialTraining, learner: nn.Module, step: int, phase: PhaseConfig = PHASE
) -> tuple[Tensor, list[float]]:
    """Loss terms of a step, and the losses that went back."""
    losses: list[float] = []

    def backward(loss: Tensor) -> None:
        losses.append(loss.item())
        loss.backward()

    drawn = training.draw(phase, chance_of_step(3, step, range(2)))
    return training.learn(learner, drawn, backward), losses


def test_each_network_has_its_training(tmp_path: Path, tiny_preset: str, small_preset: str) -> None:
    assert isinstance(training_of(_config("compact"), tmp_path, CPU), CompactTraining)
    assert isinstance(training_of(_config("tiny-512"), tmp_path, CPU), OfficialTraining)
    for preset, kind in ((tiny_preset, Network), (small_preset, CompactNetwork)):
        training = training_of(_config(preset), tmp_path, CPU)
        networks = [
            training.build(dataclasses.replace(PHASE, image_size=image_size)) for image_size in (64, 96)
        ]
        for network, image_size in zip(networks, (64, 96), strict=True):
            assert isinstance(network, kind)
            assert network.config == dataclasses.replace(PRESETS[preset], image_size=image_size)
        shapes = [{n: value.shape for n, value in network.state_dict().items()} for network in networks]
        assert shapes[0] == shapes[1], "phases hand their weights on"


def test_dropout_is_in_the_memory_attention_alone(tmp_path: Path, tiny_preset: str) -> None:
    network = training_of(_config(tiny_preset, memory_dropout=0.1), tmp_path, CPU).build(PHASE)
    found = {
        name: module.dropout if isinstance(module, RotaryAttention) else module.p
        for name, module in network.named_modules()
        if isinstance(module, (RotaryAttention, nn.Dropout))
    }
    assert {part for name, part in found.items() if name.startswith("memory_attention.")} == {0.1}
    assert {part for name, part in found.items() if not name.startswith("memory_attention.")} <= {0.0}


def test_a_step_gives_the_mean_over_its_slices(block_stack: Path, small_preset: str) -> None:
    losses = LossConfig(focal_weight=3, dice_weight=2, iou_weight=0.5, presence_weight=0.25)
    training = CompactTraining(_config(small_preset, losses=losses), block_stack, CPU)
    terms, given = _learn(training, training.learner(training.build(PHASE)), 0)
    assert terms.shape == (3, 4)
    assert not terms.requires_grad
    expected = (terms * torch.tensor(term_weights(losses))).sum(dim=1) / 3
    assert given == pytest.approx(expected.tolist())


def test_the_official_network_learns_from_whole_clips(block_stack: Path, tiny_preset: str) -> None:
    training = OfficialTraining(_config(tiny_preset), block_stack, CPU)
    terms, given = _learn(training, training.learner(training.build(PHASE)), 0)
    assert terms.shape == (3, 4)
    assert given == pytest.approx([float((terms.mean(dim=0) * torch.tensor([20.0, 1, 1, 1])).sum())])


def test_loss_falls_in_30_steps_on_one_stack(block_stack: Path, small_preset: str) -> None:
    prompts = PromptConfig(disturbed_share=0.2, lost_share=0.05)
    training = CompactTraining(_config(small_preset, prompts=prompts), block_stack, CPU)
    torch.manual_seed(0)
    learner, phase = (
        training.learner(training.build(PHASE)).train(),
        dataclasses.replace(PHASE, clip_length=2),
    )
    optimizer = torch.optim.Adam(learner.parameters(), lr=5e-3)
    totals = []
    for step in range(30):
        totals.append(sum(_learn(training, learner, step, phase)[1]))
        optimizer.step()
        optimizer.zero_grad()
    assert sum(totals[-8:]) < 0.7 * sum(totals[:8])


def test_steps_may_see_single_slices_of_more_objects(block_stack: Path, small_preset: str) -> None:
    data = DataConfig(stacks=1, validation_stacks=1, single_share=1.0)
    training = CompactTraining(_config(small_preset, data=data), block_stack, CPU)
    learner = training.learner(training.build(PHASE))
    shown: list[Tensor] = []
    learner.register_forward_pre_hook(lambda _module, given: shown.append(given[0]))
    terms, given = _learn(training, learner, 0)
    assert terms.shape == (1, 4)
    assert given == pytest.approx([float((terms[0] * torch.tensor([20.0, 1, 1, 1])).sum())])
    (planes,) = shown
    assert len(planes) == 2 * 3, "as many slices as two clips of three"
    assert len({view.numpy().tobytes() for view in planes[:, 0]}) == 6
