"""Fine-tune the shipped weights on all patients of a list but one, and measure on that one.

    python benchmarks/leave_one_out.py CASES.json --leave NAME [--on NAME ...] [--pictures]
        [--steps 120] [--recipe RECIPE]

Cases of one folder beside the list are one patient; of pictures, those of one file. A NAME may be the
beginning of several names. Of the patients that are trained on, all but the left-out one if `--on` says
nothing else, the scans with the windows and slices that the list names and all labels of their masks
become a bank. Everything runs on one thread.

Without `--on`, the first patient after the left-out one in the order of the list is validated on and
chooses the step. With it there is nobody to choose by: the last step's weights are measured.
`--pictures` trains on single slices and takes the pictures instead of the volumes.
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


def write_bank(cases: list[Case], validation: str | None, root: Path, bank: Path) -> list[str]:
    """Write each scan once, and the list of the bank; return the patients that are trained on.

    Without a patient to validate on, the first one's scans are validated on as well, for the curve alone.
    """
    listed: dict[str, list[dict[str, object]]] = {"train": [], "validation": []}
    masks: dict[Path, dict[Path, Case]] = {}
    for case in cases:
        masks.setdefault(case.image, {})[case.mask] = case
    for number, (_, of_scan) in enumerate(masks.items()):
        case = next(iter(of_scan.values()))
        image, labels = _stack(list(of_scan.values()))
        if case.axis is not None and len(labels) < SHORTEST:
            continue
        values = [int(value) for value in np.unique(labels) if value]
        file = f"{number:03d}.npz"
        renumbered = np.searchsorted([0, *values], labels).astype(np.uint8)
        np.savez(bank / file, image=image, labels=renumbered, modality=np.array(case.modality))
        patient = _patient(case, root)
        entry: dict[str, object] = {
            "file": file,
            "case": patient,
            "objects": [str(value) for value in values],
        }
        listed["validation" if patient == validation else "train"].append(entry)
    if validation is None:
        first = listed["train"][0]["case"]
        listed["validation"] = [entry for entry in listed["train"] if entry["case"] == first]
    (bank / MANIFEST).write_text(json.dumps(listed))
    return list(dict.fromkeys(str(entry["case"]) for entry in listed["train"]))


def _stack(cases: list[Case]) -> tuple[np.ndarray, np.ndarray]:
    """Read a scan's greys and labels, slices first; masks in files of their own are numbered in order."""
    volume, axis = io.read(cases[0].image), cases[0].axis or 0
    image = to_uint8(slices_along(volume.array, axis), resolve_window(volume, cases[0].window))
    joined = np.zeros(image.shape, np.int64)
    for number, case in enumerate(cases, start=1):
        found = slices_along(match_order(io.read(case.mask), volume), axis)
        joined = np.where(found > 0, found if len(cases) == 1 else number, joined)
    return image, joined


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
    parser.add_argument("--on", nargs="+", default=[])
    parser.add_argument("--pictures", action="store_true")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--recipe", type=Path, default=RECIPE)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    root = arguments.cases.parent
    cases = [case for case in read_cases(arguments.cases) if (case.axis is None) == arguments.pictures]
    left_out = [case for case in cases if _patient(case, root).startswith(arguments.leave)]
    rest = [case for case in cases if case not in left_out]
    chosen = [case for case in rest if _patient(case, root).startswith(tuple(arguments.on))]
    after = [case for case in cases[cases.index(left_out[-1]) + 1 :] if case in rest]
    validation = None if arguments.on else _patient((after or rest)[0], root)
    config = _recipe(arguments.recipe, arguments.steps, arguments.pictures, keep_best=not arguments.on)
    with tempfile.TemporaryDirectory() as folder:
        bank = Path(folder) / "bank"
        bank.mkdir()
        patients = write_bank(chosen if arguments.on else rest, validation, root, bank)
        print(f"left out {arguments.leave}; trained on {', '.join(patients)}; validated on {validation}")
        started = time.process_time()  # of the processor: other work on the machine does not count
        trainer = train(config, Path(folder) / "run", bank)
        minutes = (time.process_time() - started) / 60
        taken = f"the best is step {trainer.best.step} of" if config.keep_best else "the last step is"
        print(f"{minutes:.1f} minutes of one core; {taken} {trainer.step}", flush=True)
        results = [
            list(run_cases(left_out, load(weights, device="cpu")))
            for weights in ("compact", trainer.folder.weights_path)
        ]
    for first, second in zip(*results, strict=True):
        assert first.scores is not None
        assert second.scores is not None
        before, now = first.scores.dice, second.scores.dice
        print(f"{first.name:28s} Dice {before:.3f} -> {now:.3f} ({now - before:+.3f})")


def _recipe(path: Path, steps: int | None, pictures: bool, *, keep_best: bool) -> TrainConfig:
    """The recipe with what the command line changes in it; pictures are clips of one slice."""
    config = read_recipe(path)
    phase = config.phases[0]
    if steps is not None:
        phase = dataclasses.replace(phase, steps=steps, warmup_steps=min(phase.warmup_steps, steps - 1))
    if pictures:
        phase = dataclasses.replace(phase, clip_length=1, batch=phase.batch * phase.clip_length)
    kept = config if keep_best else dataclasses.replace(config, keep_best=False, patience=0)
    return dataclasses.replace(kept, phases=(phase,))


def _patient(case: Case, root: Path) -> str:
    return case.image.stem if case.axis is None else case.image.relative_to(root).parts[0]


if __name__ == "__main__":
    main()
