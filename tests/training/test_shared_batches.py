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
from medsam2.model.config import ModelConfig
from medsam2.model.network import Network
from medsam2.training.clip_workers import chance_of_step
from medsam2.training.config import DataConfig, PhaseConfig, PromptConfig, TrainConfig
from medsam2.training.devices import Devices, share_of_batch
from medsam2.training.loop import Trainer
from medsam2.training.runs import RunFolder

LOSS_TOLERANCE = 2e-4  # losses are near 1; sums run in another order
COMPACT = TrainConfig(
    preset="compact",
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
    prompts=PromptConfig(correction_share=1.0, disturbed_share=0.5, lost_share=0.2),
)


def _official(preset: str) -> TrainConfig:
    prompts = PromptConfig(correction_share=1.0, second_mask_share=0.5)
    return dataclasses.replace(COMPACT, preset=preset, initial_weights=None, prompts=prompts)


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


def _losses(config: TrainConfig, folder: Path, stacks: Path) -> tuple[list[float], dict[str, Tensor]]:
    trainer = Trainer(config, folder, stacks, devices=Devices(device="cpu"))
    losses = [progress.losses["total"] for progress in trainer.run()]
    state = RunFolder(folder).load()
    assert state is not None
    return losses, dict(state.network)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [("compact", {"accumulate": 4}), ("official", {"accumulate": 4}), ("official", {"recompute": True})],
    ids=str,
)
def test_less_memory_gives_the_same_run(
    tmp_path: Path, stacks: Path, tiny_preset: str, kind: str, changes: dict[str, object]
) -> None:
    config = COMPACT if kind == "compact" else _official(tiny_preset)
    config = dataclasses.replace(config, phases=(dataclasses.replace(config.phases[0], steps=1),))
    losses, state = _losses(config, tmp_path / "plain", stacks)
    others, changed = _losses(dataclasses.replace(config, **changes), tmp_path / "spare", stacks)
    assert others == pytest.approx(losses, abs=LOSS_TOLERANCE)
    moved = torch.cat([(state[name] - changed[name]).abs().flatten() for name in state])
    # AdamW's first step is the rate times the gradient's sign: only signs of next to nothing may differ.
    assert float((moved > 1e-5).float().mean()) < 0.01


def test_what_is_frozen_stays(tmp_path: Path, stacks: Path, tiny_preset: str) -> None:
    official = _official(tiny_preset)
    config = dataclasses.replace(
        official,
        freeze=("image_encoder",),
        precision="bf16-mixed",  # as the recipes have it
        phases=(dataclasses.replace(official.phases[0], steps=1, batch=1),),
    )
    trainer = Trainer(config, tmp_path, stacks, devices=Devices(device="cpu"))
    started = {name: value.clone() for name, value in trainer.state.items()}
    list(trainer.run())
    moved = {name for name, value in trainer.state.items() if not torch.equal(value, started[name])}
    assert moved
    assert not any(name.startswith("image_encoder.") for name in moved)


RECIPE = """
precision = "32-true"
validate_every = 100
validation_clips = 1
checkpoint_every = 1
log_every = 1

[data]
stacks = 2
validation_stacks = 1

[[phases]]
name = "clips"
steps = 4
image_size = 64
batch = 4
clip_length = 3
learning_rate = 1e-4
warmup_steps = 1

[prompts]
correction_share = 1.0
"""
OF_COMPACT = 'preset = "compact"\ninitial_weights = "compact"\n' + RECIPE + "disturbed_share = 0.5\n"
OF_OFFICIAL = 'preset = "tiny-64"\n' + RECIPE + "second_mask_share = 0.5\n"

# The command with a preset more: the processes that it starts for each other run the same file.
COMMAND = """
import sys
from medsam2.cli.main import run
from medsam2.model.config import PRESETS, ModelConfig

PRESETS["tiny-64"] = {config!r}
sys.exit(run(sys.argv[1:]))
"""


def _trained(
    folder: Path, stacks: Path, processes: int, recipe: str, config: ModelConfig
) -> tuple[list[list[float]], dict[str, Tensor]]:
    """Loss terms of every step as the command says them, and the weights."""
    (folder / "recipe.toml").write_text(recipe)
    (folder / "command.py").write_text(COMMAND.format(config=config))
    output = folder / str(processes)
    command = [sys.executable, str(folder / "command.py"), "train", str(folder / "recipe.toml")]
    command += ["-o", str(output), "--stacks", str(stacks), "--device", "cpu"]
    command += ["--processes", str(processes), "--workers", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stderr.splitlines() if " total " in line]
    losses = [[float(text) for text in re.findall(r"[a-z] (\d+\.\d{4})", line)[:5]] for line in lines]
    return losses, load_file(output / "weights.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [OF_COMPACT, OF_OFFICIAL], ids=["compact", "official"])
def test_two_processes_train_as_one_with_the_whole_batch(
    tmp_path: Path, stacks: Path, network: Network, recipe: str
) -> None:
    alone, weights = _trained(tmp_path, stacks, 1, recipe, network.config)
    shared, others = _trained(tmp_path, stacks, 2, recipe, network.config)
    assert len(alone) == len(shared) == 4
    assert len(alone[0]) == 5
    for ours, theirs in zip(alone, shared, strict=True):
        assert theirs == pytest.approx(ours, abs=1e-3)
    difference = torch.cat([(weights[name].float() - others[name].float()).flatten() for name in weights])
    norm = torch.cat([value.float().flatten() for value in weights.values()]).norm()
    assert float(difference.norm() / norm) < 1e-3


TWO = """
import sys
import torch
from torch import nn
from medsam2.training.devices import Devices, average_gradients, launch

fabric = launch(Devices(device="cpu", processes=2), "32-true")
used, by_one, by_none = layers = nn.ModuleList([nn.Linear(2, 1, bias=False) for _ in range(3)])
loss = (1 + fabric.global_rank) * used.weight.sum()
if fabric.global_rank == 1:
    loss = loss + by_one.weight.sum()
loss.backward()
average_gradients(fabric, layers)
print(used.weight.grad.tolist(), by_one.weight.grad.tolist(), by_none.weight.grad)
"""


@pytest.mark.slow
def test_gradients_are_means_and_stay_none_where_nobody_has_one(tmp_path: Path) -> None:
    (tmp_path / "two.py").write_text(TWO)
    command = [sys.executable, str(tmp_path / "two.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["[[1.5, 1.5]] [[0.5, 0.5]] None"] * 2
