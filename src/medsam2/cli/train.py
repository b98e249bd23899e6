"""`medsam2 train`: train a network from a recipe, or fine-tune one on labelled scans."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from medsam2.cli.messages import say

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

    from medsam2.training.config import TrainConfig
    from medsam2.training.loop import Trainer
    from medsam2.training.runs import Progress


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", type=click.Path(path_type=Path),
    help="Folder of the run. A run that is in it is resumed.  [default: runs/NAME of the recipe]",
)  # fmt: skip
@click.option(
    "--stacks", type=click.Path(path_type=Path),
    help="Folder of training stacks, as `medsam2 data prepare` makes it. In another folder, stacks are "
    "generated.  [default: OUTPUT/stacks]",
)  # fmt: skip
@click.option(
    "--bank", "old_name", type=click.Path(path_type=Path), hidden=True, help="Earlier name of --stacks."
)
@click.option(
    "--weights", metavar="NAME|FILE", help="Weights to begin from, instead of those that the recipe names."
)
@click.option(
    "--workers", type=int, default=os.cpu_count() or 1, show_default=True,
    help="Number of processes that generate stacks before the training.",
)  # fmt: skip
@click.option(
    "--clip-workers", type=click.IntRange(min=0), metavar="N",
    help="Number of processes that draw clips during the training, so that a GPU does not wait. The clips "
    "are the same with any number.  [default: 4 with a GPU, 0 on a CPU]",
)  # fmt: skip
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
@click.option(
    "--processes", type=click.IntRange(min=1), default=1, show_default=True,
    help="Number of GPUs, or of parts of the processor, that share each batch.",
)  # fmt: skip
@click.option(
    "--machines", type=click.IntRange(min=1), default=1, show_default=True,
    help="Number of machines, each with --processes processes, started by torchrun or SLURM.",
)  # fmt: skip
def train(
    recipe: Path,
    output: Path | None,
    stacks: Path | None,
    old_name: Path | None,
    weights: str | None,
    workers: int,
    clip_workers: int | None,
    device: str,
    processes: int,
    machines: int,
) -> None:
    """Train a network from a recipe.

    A run that was stopped continues from its last checkpoint. It writes the weights to
    OUTPUT/weights.safetensors, curves and pictures for TensorBoard beside them, and a report to
    OUTPUT/report if the recipe has report_cases.

    Example: medsam2 train recipes/compact-finetune.toml --stacks stacks -o run
    """
    import dataclasses

    from medsam2.training.config import read_recipe
    from medsam2.training.devices import Devices
    from medsam2.training.loop import Trainer
    from medsam2.training.stack_files import use_stacks

    config = read_recipe(recipe)
    if weights is not None:
        config = dataclasses.replace(config, initial_weights=weights)
    output = Path("runs") / recipe.stem if output is None else output
    stacks = stacks or old_name or _own_stacks(output)
    config = use_stacks(config, stacks)
    _fill(stacks, config, workers)
    devices = Devices(device=device, processes=processes, machines=machines, clip_workers=clip_workers)
    trainer = Trainer(config, output, stacks, devices=devices)
    if not trainer.is_first:
        for _ in trainer.run():
            pass
        return
    if trainer.step:
        say(f"resuming {output} at step {trainer.step} of {config.num_steps}")
    _watch(trainer, output)
    if trainer.is_stale:
        say(f"stopped at step {trainer.step}: no validation was better since step {trainer.best.step}")
    if config.keep_best:
        say(f"the weights are those of step {trainer.best.step}, validation Dice {trainer.best.dice:.4f}")
    if config.report_cases and config.initial_weights is not None:
        _report(config, output, stacks, "cuda" if trainer.fabric.device.type == "cuda" else "cpu", recipe)
    click.echo(trainer.folder.weights_path)


def _own_stacks(output: Path) -> Path:
    """Return where a run keeps stacks of its own."""
    from medsam2.training.stack_files import FORMER_NAME

    former = output / FORMER_NAME
    return former if former.exists() else output / "stacks"


def _watch(trainer: Trainer, output: Path) -> None:
    """Train, and write curves and pictures."""
    from torch.utils.tensorboard import SummaryWriter

    # Steps after the last checkpoint are done again, so their earlier curves are not shown.
    with SummaryWriter(str(output), purge_step=trainer.step + 1 if trainer.step else None) as curves:
        for progress in trainer.run():
            say(_line(progress))
            _note(progress, curves)


def _note(progress: Progress, curves: SummaryWriter) -> None:
    for name, value in progress.losses.items():
        curves.add_scalar(f"loss/{name}", value, progress.step)
    if progress.losses:
        curves.add_scalar("learning_rate", progress.learning_rate, progress.step)
        curves.add_scalar("seconds_per_step", progress.seconds_per_step, progress.step)
    if progress.validation is not None:
        curves.add_scalar("dice/validation", progress.validation.dice, progress.step)
        curves.add_image("validation", progress.validation.picture, progress.step, dataformats="HWC")


def _report(config: TrainConfig, output: Path, stacks: Path, device: str, recipe: Path) -> None:
    """Compare the weights before and after on the stacks that were held out."""
    from medsam2.evaluation.report import PAGE
    from medsam2.training.comparison import compare_weights, write_comparison, write_held_out
    from medsam2.training.runs import RunFolder

    assert config.initial_weights is not None
    data = config.data
    first = data.first_seed + data.stacks
    cases = write_held_out(
        stacks, range(first, first + data.validation_stacks), output / "held-out",
        most=config.report_cases, min_area=data.min_area,
    )  # fmt: skip
    compared = compare_weights(
        cases, config.initial_weights, RunFolder(output).weights_path, device=device,
        command=f"medsam2 train {recipe}",
    )  # fmt: skip
    for line in write_comparison(compared, output / "report"):
        say(line)
    say(f"the report is {output / 'report' / PAGE}")


def _fill(stacks: Path, config: TrainConfig, workers: int) -> None:
    """Generate the stacks that are missing, with a progress bar in a terminal."""
    from rich.console import Console
    from rich.progress import Progress as Bar

    from medsam2.training.stack_files import generate_stacks

    data = config.data
    seeds = range(data.first_seed, data.first_seed + data.stacks + data.validation_stacks)
    console = Console(stderr=True)
    with Bar(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("generating stacks", total=len(seeds))
        for done in generate_stacks(stacks, seeds, workers):
            bar.update(task, completed=done)


def _line(progress: Progress) -> str:
    terms = "  ".join(f"{name} {value:.4f}" for name, value in progress.losses.items())
    parts = [
        f"step {progress.step}/{progress.num_steps} ({progress.phase})",
        *([terms, f"{progress.seconds_per_step:.2f} s/step"] if terms else []),
        *([] if progress.validation is None else [f"validation Dice {progress.validation.dice:.4f}"]),
    ]
    return "  ".join(parts)
