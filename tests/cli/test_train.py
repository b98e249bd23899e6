"""`medsam2 train` as a process: one that trains alone, and two that share each batch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

RECIPE = """
preset = "compact-256"
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
