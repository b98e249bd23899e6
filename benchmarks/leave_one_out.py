"""Train on all data sets of a table but one, and measure on that one.

    python benchmarks/leave_one_out.py TABLE --leave DATASET [--stacks FOLDER] [--recipe RECIPE] [--steps N]
        [--objects 40] [--threads 2]

TABLE has a column `dataset`. Its scans are cut into stacks in FOLDER, or in a folder that is removed at the
end. A FOLDER that has stacks already is used as it is, with what `medsam2 data paint` has added; where masks
of DATASET were painted, their shapes are trained on. Nothing else of DATASET is trained or validated on. The
last step's weights are measured: with nothing of DATASET at hand, nobody could choose a better step.

The default recipe, compact-finetune.toml, begins with the weights that ship: of a data set that they have
learnt from, it says how much is kept, not how well the others prepare for it. Of that,
`--recipe recipes/compact.toml` says more; it begins from chance and takes two hours.

Objects are prompted by a tight box in the slice where they are largest. Of a scan that was cut in several
ways, the first is measured: its own slicing axis and window.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from medsam2.cli.main import run as medsam2
from medsam2.errors import InputError
from medsam2.evaluation.cases import Case, read_cases
from medsam2.evaluation.runner import run_cases
from medsam2.inference.predictor import load
from medsam2.training.comparison import write_held_out
from medsam2.training.config import TrainConfig, read_recipe
from medsam2.training.devices import Devices
from medsam2.training.loop import Trainer
from medsam2.training.stack_files import MANIFEST, list_entries, use_stacks

RECIPE = Path(__file__).resolve().parents[1] / "recipes" / "compact-finetune.toml"
ROWS_FAILED = 1  # the command's exit code when a row was left out; of the others there are stacks


def prepare(table: Path, stacks: Path) -> None:
    """Cut the stacks if they are not there.

    Raises:
        InputError: The table cannot be used; the command has said why.
    """
    if (stacks / MANIFEST).exists():
        return
    if medsam2(["data", "prepare", str(table), str(stacks)]) not in (0, ROWS_FAILED):
        raise InputError(f"{table} was not prepared")


def change_recipe(config: TrainConfig, leave: str, steps: int | None) -> TrainConfig:
    """The recipe without a data set, to its last step or to fewer of its first phase.

    Raises:
        InputError: The recipe is not one for the compact network.
    """
    phases = config.phases
    if steps is not None:
        first = phases[0]
        phases = (dataclasses.replace(first, steps=steps, warmup_steps=min(first.warmup_steps, steps - 1)),)
    return dataclasses.replace(
        config, phases=phases, keep_best=False, patience=0, report_cases=0,
        data=dataclasses.replace(config.data, leave_out=(leave,)),
    )  # fmt: skip


def find_stacks(config: TrainConfig, stacks: Path, dataset: str) -> list[int]:
    """Numbers of a data set's stacks, the first one of each scan.

    Args:
        config: With the numbers of stacks in the folder.
        stacks: Folder of the stacks.
        dataset: Name of the data set.

    Raises:
        InputError: No stack is of that data set.
    """
    seeds = range(config.data.stacks + config.data.validation_stacks)
    entries = list_entries(stacks, seeds)
    first: dict[str, int] = {}
    for seed, entry in zip(seeds, entries, strict=True):
        if entry.dataset == dataset:
            first.setdefault(entry.case, seed)
    if not first:
        known = sorted({entry.dataset for entry in entries})
        raise InputError(f"{stacks}: has no data set {dataset!r}; it has {', '.join(known)}")
    return list(first.values())


def train(config: TrainConfig, folder: Path, stacks: Path) -> Trainer:
    """Train to the end and say what each validation gave."""
    trainer = Trainer(config, folder, stacks, devices=Devices(device="cpu"))
    for progress in trainer.run():
        if progress.validation is not None:
            print(f"  step {progress.step}: validation Dice {progress.validation.dice:.3f}", flush=True)
    return trainer


def measure(cases: list[Case], weights: str | Path) -> list[float]:
    """Dice of each case, 0 where it failed."""
    results = run_cases(cases, load(weights, device="cpu"))
    return [0.0 if result.scores is None else result.scores.dice for result in results]


def compare(arguments: argparse.Namespace, root: Path) -> None:
    """Train in a folder, then print each left-out object before and after."""
    stacks = arguments.stacks or root / "stacks"
    config = change_recipe(read_recipe(arguments.recipe), arguments.leave, arguments.steps)
    prepare(arguments.table, stacks)
    config = use_stacks(config, stacks)
    numbers = find_stacks(config, stacks, arguments.leave)
    cases = read_cases(
        write_held_out(
            stacks, numbers, root / "held-out", most=arguments.objects, min_area=config.data.min_area
        )
    )
    print(f"left out {arguments.leave}: {len(numbers)} scans, {len(cases)} objects are measured", flush=True)
    torch.set_num_threads(arguments.threads)
    started = time.process_time()  # of the processor: other work on the machine does not count
    trainer = train(config, root / "run", stacks)
    print(f"{(time.process_time() - started) / 60:.1f} minutes of one core; the last step is {trainer.step}")
    after = measure(cases, trainer.folder.weights_path)
    before = None if config.initial_weights is None else measure(cases, config.initial_weights)
    for line in rows(cases, before, after):
        print(line, flush=True)


def rows(cases: list[Case], before: list[float] | None, after: list[float]) -> list[str]:
    """A line for each case and one for their mean; `before` is None for training from chance."""
    names = [*(case.name for case in cases), "mean"]
    now = [*after, float(np.mean(after))]
    if before is None:
        return [f"{name:40s} Dice {dice:.3f}" for name, dice in zip(names, now, strict=True)]
    then = [*before, float(np.mean(before))]
    return [
        f"{name:40s} Dice {old:.3f} -> {new:.3f} ({new - old:+.3f})"
        for name, old, new in zip(names, then, now, strict=True)
    ]


def main(words: Sequence[str] | None = None) -> None:
    """Read the command line; `words` are for tests."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", type=Path, help="as `medsam2 data prepare` takes it")
    parser.add_argument("--leave", required=True, metavar="DATASET")
    parser.add_argument("--stacks", type=Path, metavar="FOLDER")
    parser.add_argument("--bank", dest="stacks", type=Path, help=argparse.SUPPRESS)  # its old name
    parser.add_argument("--recipe", type=Path, default=RECIPE)
    parser.add_argument("--steps", type=int, help="of the first phase, and no other")
    parser.add_argument("--objects", type=int, default=40, help="of the left-out set, at most")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args(words)
    if min(arguments.steps or 1, arguments.objects, arguments.threads) < 1:
        parser.error("--steps, --objects and --threads start at 1")
    with tempfile.TemporaryDirectory() as folder:
        try:
            compare(arguments, Path(folder))
        except InputError as error:
            parser.error(str(error))


if __name__ == "__main__":
    main()
