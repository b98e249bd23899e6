"""`medsam2 rounds` as a process: two rounds over a small folder, one of which trains."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from medsam2.cli.main import run
from medsam2.imaging import io
from medsam2.imaging.volume import Volume

RECIPE = """
preset = "compact"
initial_weights = "compact"
precision = "32-true"
validate_every = 1
validation_clips = 1
keep_best = true
checkpoint_every = 1

[data]
min_area = 20

[[phases]]
name = "clips"
steps = 1
image_size = 64
batch = 1
clip_length = 2
learning_rate = 1e-5
warmup_steps = 1
"""


def _write_scan(root: Path, number: int) -> np.ndarray:
    rng = np.random.default_rng(number)
    labels = np.zeros((6, 64, 64), np.uint8)
    y, x = rng.integers(14, 22, 2)
    labels[1:5, y : y + 20, x : x + 24] = 1
    grey = rng.integers(0, 60, labels.shape) + 150 * labels
    io.write(Volume.from_array(grey.astype(np.int16)), root / f"scan{number}.nii.gz")
    return labels


@pytest.mark.slow
def test_two_rounds(tmp_path: Path) -> None:
    root = tmp_path / "scans"
    (root / "labels" / "final").mkdir(parents=True)
    (tmp_path / "recipe.toml").write_text(RECIPE)
    truths = {f"scan{number}": _write_scan(root, number) for number in range(5)}
    io.write(Volume.from_array(truths["scan0"]), root / "labels" / "final" / "scan0.nii.gz")
    command = [
        sys.executable,
        "-m",
        "medsam2",
        "rounds",
        str(root),
        "--recipe",
        str(tmp_path / "recipe.toml"),
    ]
    command += ["--next", "2", "--device", "cpu"]

    first = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "nothing is trained before two patients" in first.stderr
    assert len(first.stdout.splitlines()) == 2
    for line in first.stdout.splitlines():  # a person corrects what was put forward
        name = line.split()[0]
        assert (root / "labels" / "proposed" / f"{name}.nii.gz").exists()
        io.write(Volume.from_array(truths[name]), root / "labels" / "final" / f"{name}.nii.gz")

    second = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
    record = json.loads(second.stdout)
    assert record["round"] == 2
    assert len(record["corrected"]) == 3
    assert {one["name"] for one in record["next"]} == set(truths) - set(record["corrected"])
    assert 0 <= record["validation_dice"] <= 1
    assert (root / "rounds" / "002" / record["weights"]).exists()


def test_wrong_folders_and_recipes_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(RECIPE)
    assert run(["rounds", str(tmp_path / "none"), "--recipe", str(recipe)]) == 2
    assert "none: no such folder" in capsys.readouterr().err
    assert run(["rounds", str(tmp_path), "--recipe", str(tmp_path / "no.toml")]) == 2
    assert "no such recipe" in capsys.readouterr().err
    assert run(["rounds", str(tmp_path)]) == 2
    assert "--recipe" in capsys.readouterr().err
