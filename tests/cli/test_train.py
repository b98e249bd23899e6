"""`medsam2 train` as a process: one that trains alone, and two that share each batch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from medsam2.checkpoints import load_network
from medsam2.cli.main import run
from medsam2.model.config import PRESETS
from medsam2.training.stack_files import MANIFEST

RECIPE = """
preset = "compact"
seed = 3
precision = "32-true"
validate_every = 100
validation_clips = 1
checkpoint_every = 1
log_every = 1

[data]
stacks = 2
validation_stacks = 1

[prompts]
disturbed_share = 1.0

[[phases]]
name = "clips"
steps = {steps}
image_size = 64
batch = 2
clip_length = 2
learning_rate = 1e-3
warmup_steps = 1
"""


def _train(folder: Path, steps: int, processes: int) -> str:
    recipe = folder / "recipe.toml"
    recipe.write_text(RECIPE.format(steps=steps))
    command = [
        sys.executable,
        "-m",
        "medsam2",
        "train",
        str(recipe),
        "-o",
        str(folder / "run"),
        "--device",
        "cpu",
    ]
    command += ["--processes", str(processes), "--workers", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.mark.slow
def test_two_processes_share_a_run_and_resume_it(tmp_path: Path) -> None:
    said = _train(tmp_path, steps=2, processes=2)
    assert said.count("step 1/2") == 1, "one of them speaks for both"
    first = load_file(tmp_path / "run" / "weights.safetensors")
    assert len(list((tmp_path / "run").glob("events.*"))) == 1
    said = _train(tmp_path, steps=3, processes=2)
    assert "resuming" in said
    assert "step 3/3" in said
    assert "step 2/3" not in said
    later = load_file(tmp_path / "run" / "weights.safetensors")
    assert any((first[name] != later[name]).any() for name in first)


def _write_stacks(folder: Path) -> None:
    """Prepared stacks: one to train on and one to validate on."""
    folder.mkdir()
    labels = np.zeros((6, 64, 72), np.uint8)
    labels[1:5, 16:40, 20:48] = 1
    image = np.where(labels > 0, 200, 40).astype(np.uint8)
    for name in ("a.npz", "b.npz"):
        np.savez(folder / name, image=image, labels=labels, modality="MR", spacing_mm=(1.0, 1.0, 3.0))
    listed = [[{"file": name, "case": name[0], "objects": ["liver"]}] for name in ("a.npz", "b.npz")]
    (folder / MANIFEST).write_text(json.dumps(dict(zip(("train", "validation"), listed, strict=True))))


@pytest.mark.slow
def test_a_fine_tuning_ends_in_weights_and_a_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, output = tmp_path / "recipe.toml", tmp_path / "run"
    recipe.write_text("keep_best = true\nreport_cases = 5\n" + RECIPE.format(steps=1))
    _write_stacks(tmp_path / "stacks")
    command = ["train", str(recipe), "-o", str(output), "--device", "cpu"]
    command += ["--bank", str(tmp_path / "stacks")]  # the former name of --stacks
    assert run([*command, "--weights", "compact"]) == 0
    said = capsys.readouterr()
    assert "step 0/1 (clips) validation Dice" in said.err
    assert "mean Dice of 1 held-out objects: " in said.err
    assert said.out.strip() == str(output / "weights.safetensors")
    assert {path.name for path in (output / "report").iterdir()} >= {
        "report.html",
        "report.txt",
        "results.json",
    }
    assert (output / "held-out" / "cases.json").exists()
    config = json.loads((output / "config.json").read_text())
    assert config["initial_weights"] == "compact"
    assert load_network(output / "weights.safetensors").config == PRESETS["compact"]


def test_a_batch_that_cannot_be_shared_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("accumulate = 3\n" + RECIPE.format(steps=1))
    assert run(["train", str(recipe), "-o", str(tmp_path / "run")]) == 2
    assert "a batch of 2 cannot be worked through in 3 equal parts" in capsys.readouterr().err


@pytest.mark.slow
def test_processes_may_be_started_by_torchrun(tmp_path: Path) -> None:
    recipe, output = tmp_path / "recipe.toml", tmp_path / "run"
    recipe.write_text(RECIPE.format(steps=1))
    _write_stacks(tmp_path / "stacks")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    command += ["-m", "medsam2", "train", str(recipe), "-o", str(output)]
    command += ["--stacks", str(tmp_path / "stacks")]
    done = subprocess.run(
        [*command, "--device", "cpu", "--processes", "2"],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("step 1/1") == 1
    assert (output / "weights.safetensors").exists()
