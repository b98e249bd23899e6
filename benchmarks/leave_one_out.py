"""Fine-tune the shipped weights on all patients of a list but one, and measure on that one.

    python benchmarks/leave_one_out.py CASES.json --leave FOLDER [--steps 120] [--recipe RECIPE]

Cases of one folder beside the list are one patient; `--leave` may be the beginning of several folders'
names. Of the others, the scans with the windows and slices that the list names and all labels of their
masks become a bank; the first patient after the left-out one, in the order of the list, is validated on.
Everything runs on one thread. Pictures are left out, since clips need slices.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from medsam2.evaluation.protocol import Case, read_cases
from medsam2.evaluation.runner import run_cases
from medsam2.imaging import io
from medsam2.imaging.geometry import slices_along
from medsam2.imaging.grids import match_order
from medsam2.imaging.intensity import resolve_window, to_uint8
from medsam2.inference.predictor import load
from medsam2.training.bank import MANIFEST, use_bank
from medsam2.training.config import TrainConfig, read_recipe
from medsam2.training.devices import Devices
from medsam2.training.loop import Trainer

RECIPE = Path(__file__).resolve().parents[1] / "recipes" / "compact-finetune.toml"
SHORTEST = 4  # slices of a clip


def write_bank(cases: list[Case], validation: str, root: Path, bank: Path) -> list[str]:
    """Write each scan once, and the list of the bank; return the patients that are trained on."""
    listed: dict[str, list[dict[str, object]]] = {"train": [], "validation": []}
    patients: list[str] = []
    done = set()
    for case in cases:
        if (case.image, case.mask) in done:
            continue
        done.add((case.image, case.mask))
        volume, axis = io.read(case.image), case.axis or 0
        labels = slices_along(match_order(io.read(case.mask), volume), axis)
        if len(labels) < SHORTEST:
            continue
        values = [int(value) for value in np.unique(labels) if value]
        numbered = np.zeros(labels.shape, np.uint8)
        for number, value in enumerate(values, start=1):
            numbered[labels == value] = number
        image = to_uint8(slices_along(volume.array, axis), resolve_window(volume, case.window))
        file = f"{len(done):03d}.npz"
        np.savez(bank / file, image=image, labels=numbered, modality=np.array(case.modality))
        patient = _patient(case, root)
        is_validated = patient == validation
        listed["validation" if is_validated else "train"].append(
            {"file": file, "case": patient, "objects": [str(value) for value in values]}
        )
        if not is_validated and patient not in patients:
            patients.append(patient)
    (bank / MANIFEST).write_text(json.dumps(listed))
    return patients


def train(config: TrainConfig, folder: Path, bank: Path) -> Trainer:
    """Train to the end and say what each validation gave."""
    trainer = Trainer(use_bank(config, bank), folder, bank, devices=Devices(device="cpu"))
    for progress in trainer.run():
        if progress.validation is not None:
            print(f"  step {progress.step}: validation Dice {progress.validation.dice:.3f}", flush=True)
    return trainer


def main() -> None:
    """Train, then print each left-out case before and after."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", type=Path)
    parser.add_argument("--leave", required=True)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--recipe", type=Path, default=RECIPE)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    root = arguments.cases.parent
    cases = [case for case in read_cases(arguments.cases) if case.axis is not None]
    is_left = [_patient(case, root).startswith(arguments.leave) for case in cases]
    left_out = [case for case, left in zip(cases, is_left, strict=True) if left]
    rest = [case for case, left in zip(cases, is_left, strict=True) if not left]
    after = [case for case in cases[cases.index(left_out[-1]) + 1 :] if case in rest]
    validation = _patient((after or rest)[0], root)
    config = read_recipe(arguments.recipe)
    if arguments.steps is not None:
        phase = dataclasses.replace(config.phases[0], steps=arguments.steps)
        config = dataclasses.replace(config, phases=(phase,))
    with tempfile.TemporaryDirectory() as folder:
        bank = Path(folder) / "bank"
        bank.mkdir()
        patients = write_bank(rest, validation, root, bank)
        print(f"left out {arguments.leave}; trained on {', '.join(patients)}; validated on {validation}")
        started = time.process_time()  # of the processor: other work on the machine does not count
        trainer = train(config, Path(folder) / "run", bank)
        minutes = (time.process_time() - started) / 60
        print(
            f"{minutes:.1f} minutes of one core; the best is step {trainer.best.step} of {trainer.step}",
            flush=True,
        )
        results = [
            list(run_cases(left_out, load(weights, device="cpu")))
            for weights in ("compact", trainer.folder.weights_path)
        ]
    for first, second in zip(*results, strict=True):
        assert first.scores is not None
        assert second.scores is not None
        before, now = first.scores.dice, second.scores.dice
        print(f"{first.name:28s} Dice {before:.3f} -> {now:.3f} ({now - before:+.3f})")


def _patient(case: Case, root: Path) -> str:
    return case.image.relative_to(root).parts[0]


if __name__ == "__main__":
    main()
