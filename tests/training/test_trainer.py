"""A short run on three generated stacks: stopped and taken up again, it ends in the same bits."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from medsam2.checkpoints import load_network
from medsam2.errors import CheckpointError
from medsam2.inference.predictor import load
from medsam2.model.config import PRESETS
from medsam2.training.config import AugmentConfig, DataConfig, PhaseConfig, TrainConfig
from medsam2.training.devices import Devices
from medsam2.training.loop import Trainer
from medsam2.training.official_clips import draw_official_clips
from medsam2.training.runs import Best, RunFolder, RunState, card_of_run
from medsam2.training.stack_files import entry_of, generate_stacks, load_stack, stack_path

SEEDS = range(3)


def _phase(name: str, steps: int, clip_length: int) -> PhaseConfig:
    return PhaseConfig(
        name=name,
        steps=steps,
        image_size=64,
        batch=1,
        clip_length=clip_length,
        learning_rate=1e-3,
        warmup_steps=1,
    )


CONFIG = TrainConfig(
    preset="compact",
    phases=(_phase("slices", 2, 1), _phase("clips", 3, 3)),
    seed=5,
    precision="32-true",
    validate_every=100,
    validation_clips=1,
    checkpoint_every=1,
    log_every=1,
    data=DataConfig(stacks=2, validation_stacks=1),
)


def test_stacks_are_made_once_and_the_same_each_time(stacks: Path, tmp_path: Path) -> None:
    assert sorted(path.name for path in stacks.iterdir()) == ["000000.npz", "000001.npz", "000002.npz"]
    stack_path(tmp_path, 0).write_bytes(stack_path(stacks, 0).read_bytes())
    stack_path(tmp_path, 1).write_bytes(b"kept as it is")
    assert list(generate_stacks(tmp_path, SEEDS, workers=1)) == [2, 3]
    assert stack_path(tmp_path, 1).read_bytes() == b"kept as it is"
    again, first = load_stack(tmp_path, 2), load_stack(stacks, 2)
    np.testing.assert_array_equal(again.image, first.image)
    np.testing.assert_array_equal(again.labels, first.labels)
    assert list(generate_stacks(stacks, SEEDS, workers=1)) == [3]


def test_areas_count_every_object_in_every_slice(stacks: Path) -> None:
    stack = load_stack(stacks, 0)
    assert stack.areas.shape == (stack.labels.max() + 1, len(stack.labels))
    for label, z in ((0, 0), (1, len(stack.labels) // 2)):
        assert stack.areas[label, z] == np.count_nonzero(stack.labels[z] == label)


def test_stacks_say_what_they_are(stacks: Path, tmp_path: Path) -> None:
    stack = load_stack(stacks, 0)
    assert stack.modality in ("CT", "MR", "US")
    assert all(0 < step < 20 for step in stack.spacing_mm)
    # As a version before wrote it.
    np.savez(stack_path(tmp_path, 0), image=stack.image, labels=stack.labels)
    earlier = load_stack(tmp_path, 0)
    assert (earlier.modality, earlier.spacing_mm) == (None, (1.0, 1.0, 1.0))
    assert entry_of(tmp_path, 0) is None


@pytest.mark.parametrize("whole", [True, False])
def test_whole_slices_show_all_of_a_slice(stacks: Path, whole: bool) -> None:
    config = DataConfig(whole_slices=whole, zoom=(1.0, 1.0), min_side=(8, 8), center_shift=0.0)
    clips = draw_official_clips(
        stacks, range(1), config, [np.random.default_rng(2)] * 4, clip_length=1, image_size=64, augment=False
    )
    shares = clips.targets.flatten(1).mean(dim=1)
    assert bool((shares < 0.2).all()) == whole


def test_a_clip_may_turn_round_and_come_back(stacks: Path) -> None:
    config = DataConfig(augment=AugmentConfig(return_share=1.0))
    clips = draw_official_clips(
        stacks, SEEDS, config, [np.random.default_rng(1)] * 2, clip_length=5, image_size=64, augment=True
    )
    assert torch.equal(clips.targets, clips.targets.flip(1))
    assert not torch.equal(clips.targets[:, 0], clips.targets[:, 2])


def test_clips_follow_from_the_state_of_chance(stacks: Path) -> None:
    batches = [
        draw_official_clips(
            stacks, SEEDS, DataConfig(), [np.random.default_rng(seed)] * 2,
            clip_length=3, image_size=64, augment=True,
        )
        for seed in (1, 1, 2)
    ]  # fmt: skip
    assert batches[0].images.shape == batches[0].targets.shape == (2, 3, 64, 64)
    assert batches[0].images.dtype == torch.uint8
    assert torch.equal(batches[0].images, batches[1].images)
    assert torch.equal(batches[0].targets, batches[1].targets)
    assert not torch.equal(batches[0].images, batches[2].images)
    assert set(batches[0].targets.unique().tolist()) == {0.0, 1.0}
    assert batches[0].targets[:, 0].flatten(1).any(dim=1).all(), "the prompted slice shows the object"


def test_exported_weights_load_as_the_network_that_was_trained(stacks: Path, tmp_path: Path) -> None:
    trainer = Trainer(CONFIG, tmp_path, stacks, devices=Devices(device="cpu"))
    network = load_network(trainer.export())
    assert network.config == PRESETS[CONFIG.preset]
    state = network.state_dict()
    assert state.keys() == trainer.state.keys()
    # Weights are written as float16.
    assert all(torch.equal(state[name], value.half().float()) for name, value in trainer.state.items())
    load(tmp_path / "weights.safetensors").save_pretrained(tmp_path / "hub")
    card = (tmp_path / "hub" / "README.md").read_text(encoding="utf-8")
    assert "# Weights trained with medsam2 for 0 of 5 steps\n\nNetwork: compact. Seed: 5." in card
    assert "drawn by chance" in card


@pytest.mark.parametrize(
    ("begun", "sentence"),
    [
        ("compact", "Fine-tuned from compact, whose licence holds for these weights too: Apache-2.0."),
        ("medsam2", "these weights too: CC-BY-SA-4.0; authors: "),
        (
            "hf://clinic/livers",
            "Fine-tuned from hf://clinic/livers, whose licence holds for these weights too: see",
        ),
        ("/home/jane/w.safetensors", "Fine-tuned from w.safetensors, "),
    ],
)
def test_a_card_says_what_the_weights_began_from(begun: str, sentence: str) -> None:
    card = card_of_run(dataclasses.replace(CONFIG, initial_weights=begun), 5, Best(dice=0.8125, step=4))
    assert sentence in card
    assert "jane" not in card
    assert "Best Dice in validation: 0.812, after 4 steps." in card


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"preset": "tiny-64", "memory_dropout": 0.1}], ids=str)
@pytest.mark.usefixtures("tiny_preset")
def test_a_run_that_was_stopped_ends_in_the_same_bits(
    stacks: Path, tmp_path: Path, changes: dict[str, object]
) -> None:
    config = dataclasses.replace(CONFIG, **changes)
    through = Trainer(config, tmp_path / "through", stacks, devices=Devices(device="cpu"))
    started = {name: value.clone() for name, value in through.state.items()}
    reports = list(through.run())
    assert [report.step for report in reports] == [1, 2, 3, 4, 5]
    assert [report.phase for report in reports] == ["slices"] * 2 + ["clips"] * 3
    assert all(math.isfinite(loss) for report in reports for loss in report.losses.values())
    scores = [report.validation_dice for report in reports]
    assert [score is not None for score in scores] == [False, True, False, False, True]
    assert all(0 <= score <= 1 for score in scores if score is not None)

    folder = tmp_path / "stopped"
    for step in (1, 2, 3):  # in the middle of the first phase, at its end, in the middle of the second
        run = Trainer(config, folder, stacks, devices=Devices(device="cpu")).run()
        assert next(run).step == step
        run.close()
    last = Trainer(config, folder, stacks, devices=Devices(device="cpu"))
    assert [report.step for report in last.run()] == [4, 5]

    states = [RunFolder(path).load() for path in (tmp_path / "through", folder)]
    for part in ("network", "average"):
        ours, theirs = (getattr(state, part) for state in states)
        assert ours.keys() == theirs.keys() == started.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours), part
    moved = [name for name in started if not torch.equal(started[name], states[0].network[name])]
    assert len(moved) > 0.9 * len(started)
    weights = [(path / "weights.safetensors").read_bytes() for path in (tmp_path / "through", folder)]
    assert weights[0] == weights[1]
    exported = load_network(folder / "weights.safetensors").state_dict()
    assert all(torch.equal(exported[n], states[0].average[n].half().float()) for n in exported)
    assert list(Trainer(config, folder, stacks, devices=Devices(device="cpu")).run()) == [], (
        "a run that is over stays over"
    )


def _state(step: int, optimizer: dict[str, object] | None = None) -> RunState:
    weights = {"w": torch.full((3,), float(step))}
    return RunState(step=step, network=weights, average=weights, optimizer=optimizer)


def test_a_checkpoint_replaces_the_last_one_or_leaves_it(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder.load() is None
    folder.save(_state(1))
    folder.save(_state(2, {"state": {}, "param_groups": [{"lr": 0.1}]}))
    loaded = folder.load()
    assert (loaded.step, loaded.network["w"].tolist()) == (2, [2.0] * 3)
    assert loaded.optimizer == {"state": {}, "param_groups": [{"lr": 0.1}]}
    assert [path.name for path in tmp_path.iterdir()] == ["state.pt"]
    with pytest.raises((AttributeError, TypeError, RuntimeError), match=r"lambda|pickle"):
        folder.save(_state(3, {"broken": lambda: None}))
    assert folder.load().step == 2, "a write that fails leaves the last checkpoint whole"


@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x03\x04 half a file"])
def test_a_damaged_checkpoint_is_named(tmp_path: Path, content: bytes) -> None:
    folder = RunFolder(tmp_path)
    folder.state_path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"state\.pt is not a training checkpoint"):
        folder.load()


def test_a_checkpoint_of_something_else_is_named(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    torch.save({"model": {}}, folder.state_path)
    with pytest.raises(CheckpointError, match=r"state\.pt is not a training checkpoint"):
        folder.load()


def test_the_resolved_settings_lie_with_the_run(tmp_path: Path) -> None:
    RunFolder(tmp_path / "new").start(CONFIG)
    kept = json.loads((tmp_path / "new" / "config.json").read_text(encoding="utf-8"))
    assert kept["seed"] == 5
    assert kept["losses"] == dataclasses.asdict(CONFIG.losses)
    assert [phase["name"] for phase in kept["phases"]] == ["slices", "clips"]
