"""`benchmarks/leave_one_out.py`: its arguments, what it leaves out, and what it measures."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import leave_one_out
import nibabel
import numpy as np
import pytest
import torch

from medsam2.errors import InputError
from medsam2.training.config import read_recipe
from medsam2.training.networks import CompactTraining
from medsam2.training.stack_files import MANIFEST, use_stacks

RECIPE = """
preset = "compact"
initial_weights = "compact"
precision = "32-true"
keep_best = true
patience = 2
validation_clips = 1
checkpoint_every = 1

[[phases]]
name = "clips"
steps = 9
image_size = 64
batch = 1
clip_length = 2
learning_rate = 1e-5
warmup_steps = 2
"""

WriteStacks = Callable[..., Path]


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE)
    return path


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Two scans of hospital A, three of hospital B; of each hospital one to validate on."""
    rows = []
    for number, hospital in enumerate("AABBB"):
        labels = np.zeros((8, 48, 56), np.uint8)
        labels[2:6, 12:30, 16:36] = 1
        grey = np.random.default_rng(number).normal(60, 8, labels.shape) + 100 * labels
        names = {}
        for what, array in (("image", grey.astype(np.int16)), ("mask", labels)):
            names[what] = f"{what}{number}.nii.gz"
            spaced = nibabel.Nifti1Image(array.T, np.diag([0.8, 0.8, 2.5, 1.0]))
            nibabel.save(spaced, tmp_path / names[what])
        rows.append(
            {
                "name": f"scan {number}", **names, "patient": f"p{number}", "kind": "volume",
                "modality": "MR", "labels": '{"1": "liver"}', "dataset": f"hospital {hospital}",
                "split": "validation" if number in (0, 2) else "train",
            }
        )  # fmt: skip
    path = tmp_path / "scans.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def _stack(dataset: str, case: str) -> dict[str, object]:
    labels = np.zeros((3, 8, 8), np.uint8)
    labels[:, 2:6, 2:6] = 1
    return {"image": labels, "labels": labels, "dataset": dataset, "case": case}


def test_a_data_set_is_measured_once_per_scan(write_stacks: WriteStacks, recipe: Path) -> None:
    train = [_stack("A", "one"), _stack("B", "two"), _stack("A", "one"), _stack("painted", "map")]
    stacks = write_stacks(train, [_stack("A", "three"), _stack("B", "four")])
    config = use_stacks(read_recipe(recipe), stacks)
    assert leave_one_out.find_stacks(config, stacks, "A") == [0, 4]
    assert leave_one_out.find_stacks(config, stacks, "B") == [1, 5]
    with pytest.raises(InputError, match="has no data set 'C'; it has A, B, painted"):
        leave_one_out.find_stacks(config, stacks, "C")


def test_nobody_chooses_a_step(recipe: Path) -> None:
    plain = leave_one_out.change_recipe(read_recipe(recipe), "A", None)
    assert plain.data.leave_out == ("A",)
    assert (plain.keep_best, plain.patience, plain.report_cases) == (False, 0, 0)
    assert plain.phases == read_recipe(recipe).phases
    short = leave_one_out.change_recipe(read_recipe(recipe), "A", 1)
    assert [(phase.steps, phase.warmup_steps) for phase in short.phases] == [(1, 0)]


@pytest.mark.parametrize("name", ["compact.toml", "compact-finetune.toml"])
def test_it_takes_our_recipes(name: str) -> None:
    config = read_recipe(leave_one_out.RECIPE.with_name(name))
    assert leave_one_out.change_recipe(config, "A", None).num_steps == config.num_steps


def test_stacks_that_are_there_are_taken_as_they_are(write_stacks: WriteStacks, tmp_path: Path) -> None:
    stacks = write_stacks([_stack("A", "one")])
    before = (stacks / MANIFEST).read_bytes()
    leave_one_out.prepare(tmp_path / "none.csv", stacks)
    assert (stacks / MANIFEST).read_bytes() == before
    with pytest.raises(InputError, match=r"none\.csv was not prepared"):
        leave_one_out.prepare(tmp_path / "none.csv", tmp_path / "new")


def test_rows_of_the_result() -> None:
    class Case:
        name = "liver"

    assert leave_one_out.rows([Case()], None, [0.5])[1].split() == ["mean", "Dice", "0.500"]
    (line, mean) = leave_one_out.rows([Case()], [0.5], [0.75])
    assert line.split() == ["liver", "Dice", "0.500", "->", "0.750", "(+0.250)"]
    assert mean.split()[0] == "mean"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "the following arguments are required: --leave"),
        (["--leave", "hospital C"], "has no data set 'hospital C'; it has hospital A, hospital B"),
        (["--leave", "hospital A", "--recipe", "no.toml"], "no such recipe: no.toml"),
        (["--leave", "hospital A", "--steps", "-1"], "--steps, --objects and --threads start at 1"),
        (["--leave", "hospital A", "--objects", "0"], "--steps, --objects and --threads start at 1"),
        (
            ["--leave", "hospital A", "--recipe", "{recipes}/medsam2-finetune.toml"],
            "data.leave_out is for the compact network alone",
        ),
    ],
)
def test_refusals(table: Path, words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    recipes = leave_one_out.RECIPE.parent
    with pytest.raises(SystemExit):
        leave_one_out.main([str(table), *(word.format(recipes=recipes) for word in words)])
    assert sentence in capsys.readouterr().err


@pytest.mark.slow
def test_a_data_set_is_left_out_and_measured(
    table: Path, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stacks = tmp_path / "stacks"
    words = ["--leave", "hospital A", "--recipe", str(recipe), "--steps", "1", "--threads", "1"]
    leave_one_out.main([str(table), *words, "--stacks", str(stacks)])
    config = use_stacks(leave_one_out.change_recipe(read_recipe(recipe), "hospital A", 1), stacks)
    training = CompactTraining(config, stacks, torch.device("cpu"))
    listed = json.loads((stacks / MANIFEST).read_text())["train"]
    rng = np.random.default_rng(0)
    drawn = {listed[training.mixture.draw(rng).seed]["dataset"] for _ in range(100)}
    assert drawn == {"hospital B"}
    said = capsys.readouterr().out
    measured = [line for line in said.splitlines() if " -> " in line]
    assert [line.split(",")[0] for line in measured[:2]] == ["scan 0", "scan 1"]
    assert "left out hospital A: 2 scans, 2 objects are measured" in said
    assert "the last step is 1" in said
    assert said.count(" -> ") == 3
    assert (stacks / MANIFEST).exists(), "stacks in a folder with a name are kept"
