"""The report of a fine-tuning: held-out objects as cases, before and after, as a page and as text."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from medsam2.checkpoints import load_network, save_weights
from medsam2.evaluation.cases import OTHER, read_cases, read_task
from medsam2.hub import shipped_path
from medsam2.training.comparison import compare_weights, write_comparison, write_held_out
from medsam2.training.stack_files import MANIFEST

SPACING_MM = (0.8, 0.9, 3.0)


@pytest.fixture
def stacks(tmp_path: Path) -> Path:
    """Two prepared stacks, the second of which has no spacing, as earlier versions wrote it."""
    folder = tmp_path / "stacks"
    folder.mkdir()
    labels = np.zeros((6, 64, 72), np.uint8)
    labels[1:5, 16:40, 20:48] = 1
    labels[2:4, 46:58, 50:66] = 2
    labels[5, 2, 2] = 3  # too small
    image = np.where(labels > 0, 200, 40).astype(np.uint8)
    np.savez(folder / "a.npz", image=image, labels=labels, modality="MR", spacing_mm=SPACING_MM)
    np.savez(folder / "b.npz", image=image[::-1], labels=labels[::-1], modality="PET")  # a table's word
    listed = [
        {"file": f"{name}.npz", "case": f"case {name}", "objects": ["liver", "spleen", "speck"]}
        for name in "ab"
    ]
    (folder / MANIFEST).write_text(json.dumps({"train": listed[:1], "validation": listed[1:]}))
    return folder


def test_objects_become_cases_that_an_evaluation_reads(stacks: Path, tmp_path: Path) -> None:
    path = write_held_out(stacks, range(2), tmp_path / "cases", most=10, min_area=12)
    cases = read_cases(path)
    assert [(case.target, case.labels, case.modality, case.scan) for case in cases] == [
        ("liver", (1,), "MR", 0), ("spleen", (2,), "MR", 0),
        ("liver", (1,), OTHER, 1), ("spleen", (2,), OTHER, 1),
    ]  # fmt: skip
    task = read_task(cases[1])
    assert task.volume.spacing == pytest.approx(SPACING_MM)
    assert task.truth.sum() == 2 * 12 * 16
    assert cases[1].box_xyxy == (50.0, 46.0, 65.0, 57.0)
    assert not any("case" in file.name for file in path.parent.glob("*.nii.gz")), "names stay in the list"


def test_of_many_objects_an_even_choice_is_taken(stacks: Path, tmp_path: Path) -> None:
    cases = read_cases(write_held_out(stacks, range(2), tmp_path / "cases", most=2, min_area=12))
    assert [(case.target, case.scan) for case in cases] == [("liver", 0), ("spleen", 1)]


def test_the_report_compares_before_with_after(stacks: Path, tmp_path: Path) -> None:
    network = load_network(shipped_path())
    state = {
        name: value + 0.05 * value.std(unbiased=False) if name.startswith("decoder.") else value
        for name, value in network.state_dict().items()
    }
    after = tmp_path / "after.safetensors"
    save_weights(state, network.config, after)
    cases = write_held_out(stacks, range(1), tmp_path / "cases", most=2, min_area=12)
    experiment = compare_weights(cases, "compact", after, device="cpu", command="medsam2 train recipe.toml")
    lines = write_comparison(experiment, tmp_path / "report")
    before_dice, after_dice = ([result.scores.dice for result in part] for part in experiment.results)
    assert experiment.arms == ("before", "after")
    assert before_dice != after_dice
    mean = sum(before_dice) / 2
    assert lines[0].startswith(f"mean Dice of 2 held-out objects: {mean:.3f} before, ")
    assert f"{before_dice[0]:.3f} -> {after_dice[0]:.3f}" in lines[2]
    text = (tmp_path / "report" / "report.txt").read_text(encoding="utf-8")
    assert text.splitlines()[: len(lines)] == lines
    page = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    assert "after minus before" in page
    assert "http" not in page.replace("http-equiv", ""), "the page needs nothing else"
    shown = max(after_dice)
    assert f"best: {experiment.results[1][int(np.argmax(after_dice))].name}" in page
    assert f"Dice {shown:.3f}" in page
    numbers = json.loads((tmp_path / "report" / "results.json").read_text(encoding="utf-8"))
    assert [one["dice"] for one in numbers["second"]["cases"]] == after_dice
