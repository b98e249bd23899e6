"""A run that is killed, a run that stops by itself, and what is kept of the best validation."""

from __future__ import annotations

import dataclasses
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from medsam2.checkpoints import load_network
from medsam2.hub import shipped_path
from medsam2.training.config import DataConfig, PhaseConfig, TrainConfig
from medsam2.training.devices import Devices
from medsam2.training.loop import Trainer
from medsam2.training.runs import Best, RunFolder, RunState

CONFIG = TrainConfig(
    preset="compact",
    initial_weights="compact",
    phases=(
        PhaseConfig(
            name="slices", steps=5, image_size=64, batch=1, clip_length=1, learning_rate=1e-4, warmup_steps=1
        ),
    ),
    precision="32-true",
    validate_every=1,
    validation_clips=1,
    keep_best=True,
    checkpoint_every=100,
    log_every=1,
    data=DataConfig(stacks=2, validation_stacks=1),
)


def test_the_best_validation_is_counted_from() -> None:
    best = Best()
    for step, dice in enumerate((0.5, 0.7, 0.7, 0.6)):
        best = best.after(dice, step)
    assert best == Best(dice=0.7, step=1, num_since=2)


def test_a_state_of_an_earlier_version_has_no_best_yet(tmp_path: Path) -> None:
    folder, weights = RunFolder(tmp_path), {"w": torch.zeros(2)}
    folder.save(RunState(step=3, network=weights, average=weights, optimizer=None, best=Best(dice=0.4)))
    content = torch.load(folder.state_path, weights_only=True)
    assert content.pop("best") == {"dice": 0.4, "step": 0, "num_since": 0}
    torch.save(content, folder.state_path)
    loaded = folder.load()
    assert loaded is not None
    assert loaded.best == Best()


def test_the_weights_of_the_best_validation_are_kept(stacks: Path, tmp_path: Path) -> None:
    phase = dataclasses.replace(CONFIG.phases[0], steps=4, learning_rate=1e-2, final_fraction=1.0)
    config = dataclasses.replace(CONFIG, initial_weights=None, phases=(phase,), ema_decay=0.0)
    trainer = Trainer(config, tmp_path, stacks, devices=Devices(device="cpu"))
    best, kept = Best(), b""
    steps = set()
    for progress in trainer.run():
        assert progress.validation_dice is not None
        found = trainer.folder.weights_path.read_bytes()
        before, best = best, best.after(progress.validation_dice, progress.step)
        assert trainer.best == best
        assert (found != kept) == (best.step != before.step or before.dice < 0), (
            "only a better one is written"
        )
        kept = found
        steps.add(best.step)
    assert len(steps) > 1, "weights of chance get better"


def test_a_stale_run_stops(stacks: Path, tmp_path: Path) -> None:
    harmful = dataclasses.replace(CONFIG.phases[0], learning_rate=1.0)
    config = dataclasses.replace(CONFIG, phases=(harmful,), ema_decay=0.0, patience=2)
    trainer = Trainer(config, tmp_path, stacks, devices=Devices(device="cpu"))
    assert [progress.step for progress in trainer.run()] == [0, 1, 2], "two validations are no better"
    assert (trainer.best.step, trainer.best.num_since) == (0, 2)
    again = Trainer(config, tmp_path, stacks, devices=Devices(device="cpu"))
    assert list(again.run()) == [], "a run that has stopped stays stopped"
    assert again.best == trainer.best


def test_weights_that_never_get_better_are_those_of_the_beginning(stacks: Path, tmp_path: Path) -> None:
    harmful = dataclasses.replace(CONFIG.phases[0], steps=1, learning_rate=1.0)
    config = dataclasses.replace(CONFIG, phases=(harmful,), ema_decay=0.0)
    trainer = Trainer(config, tmp_path, stacks, devices=Devices(device="cpu"))
    first, last = (progress.validation for progress in trainer.run())
    assert first is not None
    assert last is not None
    assert last.dice < first.dice
    assert first.picture.shape == (8 * 112, 112, 3)
    kept, shipped = (
        load_network(path).state_dict() for path in (trainer.folder.weights_path, shipped_path())
    )
    assert all(torch.equal(kept[name], shipped[name]) for name in shipped)


RECIPE = """
preset = "compact"
seed = 4
precision = "32-true"
validate_every = 100
validation_clips = 1
checkpoint_every = 2
log_every = 1

[data]
stacks = 2
validation_stacks = 1

[[phases]]
name = "clips"
steps = 6
image_size = 64
batch = 2
clip_length = 2
learning_rate = 1e-3
warmup_steps = 1
"""


def _command(folder: Path, stacks: Path, name: str) -> list[str]:
    (folder / "recipe.toml").write_text(RECIPE)
    command = [
        sys.executable,
        "-m",
        "medsam2",
        "train",
        str(folder / "recipe.toml"),
        "-o",
        str(folder / name),
    ]
    return [*command, "--stacks", str(stacks), "--device", "cpu", "--workers", "1"]


def _losses(said: str) -> dict[int, str]:
    """The loss terms of each step, as they were said."""
    found = re.findall(r"step (\d+)/6 \(clips\) (focal .*?) [\d.]+ s/step", said)
    return {int(step): terms for step, terms in found}


@pytest.mark.slow
def test_the_curve_of_a_killed_run_joins(stacks: Path, tmp_path: Path) -> None:
    through = subprocess.run(
        _command(tmp_path, stacks, "through"), capture_output=True, text=True, check=True
    )
    expected = _losses(through.stderr)
    assert sorted(expected) == [1, 2, 3, 4, 5, 6]

    with subprocess.Popen(
        _command(tmp_path, stacks, "killed"), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stderr is not None
        said = ""
        for line in process.stderr:
            said += line
            if "step 3/6" in line:  # a step after the last checkpoint
                process.send_signal(signal.SIGKILL)
                break
    assert process.returncode == -signal.SIGKILL
    before = _losses(said)
    state = RunFolder(tmp_path / "killed").load()
    assert state is not None
    assert state.step == 2
    assert not list((tmp_path / "killed").glob(".*")), "nothing half written is left"

    resumed = subprocess.run(_command(tmp_path, stacks, "killed"), capture_output=True, text=True, check=True)
    assert "at step 2 of 6" in resumed.stderr
    after = _losses(resumed.stderr)
    assert sorted(after) == [3, 4, 5, 6]
    assert before[3] == after[3], "the step that was lost is done again, to the digit"
    assert before | after == expected
    weights = [(tmp_path / name / "weights.safetensors").read_bytes() for name in ("through", "killed")]
    assert weights[0] == weights[1]
    curves = EventAccumulator(str(tmp_path / "killed")).Reload()
    assert [event.step for event in curves.Scalars("loss/total")] == [1, 2, 3, 4, 5, 6]
    assert [event.step for event in curves.Images("validation")] == [6]
