"""Validation of the compact network: the same clips each time, and nothing of what is left out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from medsam2.model.compact.network import CompactNetwork
from medsam2.training.config import DataConfig, PhaseConfig, TrainConfig
from medsam2.training.validation import Validation, validate_compact

LENGTH = 3
CONFIG = TrainConfig(
    preset="compact",
    phases=(PhaseConfig(name="p", steps=1, image_size=64, batch=1, clip_length=LENGTH, learning_rate=1e-3),),
    validation_clips=8,
    data=DataConfig(stacks=1, validation_stacks=2),
)

WriteStacks = Callable[..., Path]


@pytest.fixture
def stacks(write_stacks: WriteStacks) -> Path:
    """In "bright", what is bright is the object; "wrong" says that something else is."""
    labels = np.zeros((9, 60, 64), np.uint8)
    labels[1:8, 16:40, 20:48] = 1
    bright = {"image": 30 + 200 * labels, "labels": labels, "dataset": "bright"}
    wrong = bright | {"labels": np.roll(labels, 22, axis=1), "dataset": "wrong"}
    return write_stacks([bright], [bright, wrong])


def _validate(network: CompactNetwork, stacks: Path, config: TrainConfig = CONFIG) -> Validation:
    return validate_compact(network, stacks, range(1, 3), config, clip_length=LENGTH)


def test_the_same_clips_are_measured_each_time(bright_network: CompactNetwork, stacks: Path) -> None:
    first, again = _validate(bright_network, stacks), _validate(bright_network, stacks)
    assert first.dice == again.dice
    np.testing.assert_array_equal(first.picture, again.picture)
    assert first.picture.dtype == np.uint8
    assert first.picture.std() > 0


def test_what_is_left_out_of_training_chooses_no_step(bright_network: CompactNetwork, stacks: Path) -> None:
    without = dataclasses.replace(CONFIG, data=dataclasses.replace(CONFIG.data, leave_out=("wrong",)))
    assert _validate(bright_network, stacks).dice < 0.9
    assert _validate(bright_network, stacks, without).dice > 0.98
    # Of the data sets that training leaves out, there may be none to validate on.
    others = dataclasses.replace(CONFIG, data=dataclasses.replace(CONFIG.data, leave_out=("other",)))
    assert _validate(bright_network, stacks, others).dice == _validate(bright_network, stacks).dice


@pytest.mark.parametrize("is_training", [True, False])
def test_the_network_is_left_as_it_was(
    bright_network: CompactNetwork, stacks: Path, is_training: bool
) -> None:
    bright_network.train(is_training)
    _validate(bright_network, stacks)
    assert bright_network.training == is_training
    assert all(parameter.grad is None for parameter in bright_network.parameters())
