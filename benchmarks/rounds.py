"""Corrections that a case needs, round by round, in a simulated annotation of generated scans.

    python benchmarks/rounds.py [--rounds 3] [--next 4] [--steps 60] [--test 6] [--clicks 10]
        [--order uncertain] [--target 0.9]

A pool of generated scans of one kind, inverted and blurred so that the shipped weights have not seen
their like. Each round fine-tunes on what is corrected so far, as `medsam2 rounds` does, and puts scans
forward. The simulated annotator draws a box and clicks in the largest error until the Dice is the target, so
many clicks at most; then the true mask is kept as the corrected one. What the annotator needed is shown
for the scans that were put forward, and for a test set that is the same in every round: the first ones
are chosen to be hard, the test set is not.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
import time
from pathlib import Path

import numpy as np
from scipy import ndimage

from medsam2.evaluation.cases import Case, read_cases
from medsam2.evaluation.runner import run_cases
from medsam2.evaluation.simulated_user import RunOptions
from medsam2.imaging import io
from medsam2.imaging.volume import Volume
from medsam2.inference.predictor import Predictor, load
from medsam2.measure.overlap import TARGET_DICE
from medsam2.prompts.simulate import tight_box
from medsam2.synthesis.stack import generate_stack
from medsam2.training.config import TrainConfig, read_recipe
from medsam2.training.rounds.proposals import read_folder, round_folder
from medsam2.training.rounds.work import RoundOptions, begin_from, look_at, put_forward, start_training

SHAPE = (14, 112, 112)
LEAST_AREA = 60
FIRST_SEED = 700_000  # far from those of training


def make_scan(seed: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Generate a scan `(z, y, x)` and the mask of its largest object; None if that is small."""
    stack = generate_stack(seed, shape=SHAPE, look="mr")
    areas = [(stack.labels == label).sum(axis=(1, 2)) for label in range(1, int(stack.labels.max()) + 1)]
    sizes = [int(area.sum()) if (area > 0).sum() >= 5 else 0 for area in areas]
    if not sizes or areas[int(np.argmax(sizes))].max() < LEAST_AREA:
        return None
    mask = stack.labels == int(np.argmax(sizes)) + 1
    blurred = ndimage.gaussian_filter(255.0 - stack.image, (0.0, 1.2, 1.2))
    grain = np.random.default_rng(seed).gamma(8.0, 1 / 8.0, blurred.shape)
    return np.clip(blurred * grain, 0, 255).astype(np.uint8), mask


def write_scans(root: Path, num_pool: int, num_test: int) -> tuple[dict[str, Case], list[Case]]:
    """Write the pool into the folder and the test set beside it; return the cases of both."""
    (root / "scans" / "prompts").mkdir(parents=True)
    (root / "scans" / "labels" / "final").mkdir(parents=True)
    (root / "truth").mkdir()
    (root / "test").mkdir()
    entries: list[dict[str, object]] = []
    seed = FIRST_SEED
    while len(entries) < num_pool + num_test:
        made = make_scan(seed)
        seed += 1
        if made is None:
            continue
        image, mask = made
        name = f"scan{len(entries):03d}"
        folder = root / ("scans" if len(entries) < num_pool else "test")
        key = int(mask.sum(axis=(1, 2)).argmax())
        box = list(tight_box(mask[key]).xyxy)
        io.write(Volume.from_array(image), folder / f"{name}.nii.gz")
        io.write(Volume.from_array(mask.astype(np.uint8)), root / "truth" / f"{name}.nii.gz")
        if folder.name == "scans":
            said = json.dumps([{"slice": key, "box": box}])
            (folder / "prompts" / f"{name}.json").write_text(said)
        entries.append(
            {
                "name": name, "image": f"{folder.name}/{name}.nii.gz", "mask": f"truth/{name}.nii.gz",
                "label": 1, "modality": "MR", "target": "object", "window": [0, 255], "axis": 2,
                "key_slice": key, "box": box,
            }
        )  # fmt: skip
    (root / "cases.json").write_text(json.dumps(entries))
    cases = read_cases(root / "cases.json")
    return {case.name: case for case in cases[:num_pool]}, cases[num_pool:]


def corrections(
    cases: list[Case], predictor: Predictor, most: int, target: float
) -> tuple[float, float, float]:
    """Return the mean Dice after the box, mean clicks until the target, and the share that reaches it."""
    first, clicks, reached = [], [], []
    for result in run_cases(cases, predictor, RunOptions(protocol="interactive", clicks=most)):
        dice = [step.dice for step in result.steps]
        first.append(dice[0])
        clicks.append(next((n for n, value in enumerate(dice) if value >= target), most))
        reached.append(max(dice) >= target)
    return float(np.mean(first)), float(np.mean(clicks)), float(np.mean(reached))


def main() -> None:
    """Run the rounds and print a row for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--next", type=int, default=4)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--test", type=int, default=6)
    parser.add_argument("--clicks", type=int, default=10)
    parser.add_argument("--order", default="uncertain")
    parser.add_argument("--target", type=float, default=TARGET_DICE)
    arguments = parser.parse_args()
    most, target = arguments.clicks, arguments.target
    recipe = Path(__file__).resolve().parents[1] / "recipes" / "compact-finetune.toml"
    config = begin_from(_shortened(read_recipe(recipe), arguments.steps), "compact")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        pool, test = write_scans(root, arguments.rounds * arguments.next + arguments.next, arguments.test)
        print(
            "round, corrected; of those put forward, then of the test set: Dice after the box, clicks, "
            f"share that reaches {target}; minutes"
        )
        for _ in range(arguments.rounds + 1):
            started = time.perf_counter()
            scans = read_folder(root / "scans")
            number, place = round_folder(scans.root)
            options = RoundOptions(
                number=number, folder=place, num_next=arguments.next, order=arguments.order, device="cpu",
                window=(0.0, 255.0),
            )  # fmt: skip
            trained = start_training(scans, config, options)
            for _ in trained.run() if trained else ():
                pass
            predictor = load(trained.folder.weights_path if trained else "compact", device="cpu")
            chosen = put_forward(scans, list(look_at(scans, predictor, options)), options, trained)
            ours = corrections([pool[one.name] for one in chosen], predictor, most, target)
            theirs = corrections(test, predictor, most, target)
            minutes = (time.perf_counter() - started) / 60
            rows = "    ".join(f"{d:.3f}  {c:4.1f}  {100 * r:3.0f} %" for d, c, r in (ours, theirs))
            print(f"{number:5d}  {len(scans.corrected):10d}  {rows}  {minutes:.1f}", flush=True)
            for one in chosen:
                truth = root / "truth" / f"{one.name}.nii.gz"
                (scans.root / "labels" / "final" / truth.name).write_bytes(truth.read_bytes())


def _shortened(config: TrainConfig, steps: int) -> TrainConfig:
    phase = dataclasses.replace(config.phases[0], steps=steps, warmup_steps=min(10, steps - 1))
    return dataclasses.replace(
        config, phases=(phase,), validate_every=max(1, steps // 3), validation_clips=8, patience=0
    )


if __name__ == "__main__":
    main()
