"""A step's batch in parts and on several processes: the same losses and the same weights, up to rounding."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from medsam2.errors import InputError
from medsam2.training.bank import build_bank
from medsam2.training.chance import chance_of_step
from medsam2.training.config import DataConfig, PhaseConfig, PromptConfig, TrainConfig
from medsam2.training.devices import Devices, share_of_batch
from medsam2.training.loop import Trainer
from medsam2.training.runs import RunFolder

LOSS_TOLERANCE = 2e-4  # losses are near 1; sums run in another order
CONFIG = TrainConfig(
    preset="compact-256",
    initial_weights="compact",
    phases=(
        PhaseConfig(
            name="clips", steps=2, image_size=64, batch=4, clip_length=3, learning_rate=1e-4, warmup_steps=1
        ),
    ),
    precision="32-true",
    validate_every=100,
    validation_clips=1,
    checkpoint_every=1,
    log_every=1,
    data=DataConfig(stacks=2, validation_stacks=1),
    prompts=PromptConfig(correction_share=1.0, disturbed_share=0.5, lost_share=0.2, second_mask_share=0.5),
)


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bank")
    list(build_bank(folder, range(3), workers=1))
    return folder


def test_a_clip_is_drawn_alike_wherever_it_is() -> None:
    whole, part = chance_of_step(7, 3, range(4)), chance_of_step(7, 3, range(2, 4))
    assert whole.shared.random() == part.shared.random()
    drawn = [source.random() for source in whole.clips]
    assert drawn[2:] == [source.random() for source in part.clips]
    assert len({*drawn, chance_of_step(7, 3, range(0)).shared.random()}) == 5, "no two sources are alike"
    assert chance_of_step(7, 4, range(1)).clips[0].random() != drawn[0]


@pytest.mark.parametrize(
    ("numbers", "share"), [((8, 1, 1), 8), ((8, 2, 1), 4), ((8, 2, 4), 1), ((1, 1, 1), 1)], ids=str
)
def test_shares_of_a_batch(numbers: tuple[int, int, int], share: int) -> None:
    assert share_of_batch(*numbers) == share


def test_a_batch_that_cannot_be_shared_is_refused() -> None:
    with pytest.raises(InputError, match=r"a batch of 6 clips .* by 4 processes .* a multiple of 4"):
        share_of_batch(6, 4, 1)


@pytest.mark.parametrize(("processes", "machines"), [(0, 1), (1, 0)])
def test_devices_are_counted_from_one(processes: int, machines: int) -> None:
    with pytest.raises(InputError, match="at least 1, not"):
        Devices(processes=processes, machines=machines)


def _losses(config: TrainConfig, folder: Path, bank: Path) -> tuple[list[float], dict[str, Tensor]]:
    trainer = Trainer(config, folder, bank, devices=Devices(device="cpu"))
    losses = [progress.losses["total"] for progress in trainer.run()]
    state = RunFolder(folder).load()
    assert state is not None
    return losses, dict(state.network)


@pytest.mark.parametrize(
    "changes", [{"accumulate": 4}, {"recompute": True}], ids=lambda changes: next(iter(changes))
)
def test_less_memory_gives_the_same_run(tmp_path: Path, bank: Path, changes: dict) -> None:
    config = dataclasses.replace(CONFIG, phases=(dataclasses.replace(CONFIG.phases[0], steps=1),))
    losses, state = _losses(config, tmp_path / "plain", bank)
    others, changed = _losses(dataclasses.replace(config, **changes), tmp_path / "spare", bank)
    assert others == pytest.approx(losses, abs=LOSS_TOLERANCE)
    moved = torch.cat([(state[name] - changed[name]).abs().flatten() for name in state])
    # AdamW's first step is the rate times the gradient's sign: only signs of next to nothing may differ.
    assert float((moved > 1e-5).float().mean()) < 0.01


def test_what_is_frozen_stays(tmp_path: Path, bank: Path) -> None:
    config = dataclasses.replace(
        CONFIG,
        freeze=("image_encoder",),
        precision="bf16-mixed",  # as the recipes have it
        phases=(dataclasses.replace(CONFIG.phases[0], steps=1, batch=1),),
    )
    trainer = Trainer(config, tmp_path, bank, devices=Devices(device="cpu"))
    started = {name: value.clone() for name, value in trainer.state.items()}
    list(trainer.run())
    moved = {name for name, value in trainer.state.items() if not torch.equal(value, started[name])}
    assert moved
    assert not any(name.startswith("image_encoder.") for name in moved)


RECIPE = """
preset = "compact-256"
initial_weights = "compact"
precision = "32-true"
validate_every = 100
validation_clips = 1
checkpoint_every = 1
log_every = 1

[data]
stacks = 2
validation_stacks = 1

[prompts]
correction_share = 1.0
disturbed_share = 0.5

[[phases]]
name = "clips"
steps = 4
image_size = 64
batch = 4
clip_length = 3
learning_rate = 1e-4
warmup_steps = 1
"""


def _trained(folder: Path, bank: Path, processes: int) -> tuple[list[list[float]], dict[str, Tensor]]:
    """Loss terms of every step as the command says them, and the weights."""
    recipe = folder / "recipe.toml"
    recipe.write_text(RECIPE)
    command = [sys.executable, "-m", "medsam2", "train", str(recipe), "-o", str(folder / str(processes))]
    command += ["--bank", str(bank), "--device", "cpu", "--processes", str(processes), "--workers", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stderr.splitlines() if " total " in line]
    losses = [[float(text) for text in re.findall(r"[a-z] (\d+\.\d{4})", line)[:5]] for line in lines]
    return losses, load_file(folder / str(processes) / "weights.safetensors")


@pytest.mark.slow
def test_two_processes_train_as_one_with_the_whole_batch(tmp_path: Path, bank: Path) -> None:
    alone, weights = _trained(tmp_path, bank, 1)
    shared, others = _trained(tmp_path, bank, 2)
    assert len(alone) == len(shared) == 4
    assert len(alone[0]) == 5
    for ours, theirs in zip(alone, shared, strict=True):
        assert theirs == pytest.approx(ours, abs=1e-3)
    difference = torch.cat([(weights[name].float() - others[name].float()).flatten() for name in weights])
    norm = torch.cat([value.float().flatten() for value in weights.values()]).norm()
    assert float(difference.norm() / norm) < 1e-3
