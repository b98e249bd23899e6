"""`medsam2 train`: train a network from a recipe."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from medsam2.cli.messages import say

if TYPE_CHECKING:
    from medsam2.training.config import TrainConfig
    from medsam2.training.loop import Progress


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", type=click.Path(path_type=Path),
    help="Folder of the run, resumed if it holds one; runs/NAME of the recipe if not given.",
)  # fmt: skip
@click.option(
    "--bank", type=click.Path(path_type=Path),
    help="Folder of stacks: generated ones, added as needed, or those of `medsam2 data prepare`.  "
    "[default: OUTPUT/bank]",
)  # fmt: skip
@click.option(
    "--workers", type=int, default=os.cpu_count() or 1, show_default=True, help="To generate stacks."
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
@click.option(
    "--processes", type=click.IntRange(min=1), default=1, show_default=True,
    help="Share each batch among so many devices, or so many parts of the processor.",
)  # fmt: skip
def train(
    recipe: Path, output: Path | None, bank: Path | None, workers: int, device: str, processes: int
) -> None:
    """Train a network from a recipe.

    A run that was stopped goes on where it was. The averaged weights lie in
    OUTPUT/weights.safetensors, curves for TensorBoard beside them.
    """
    from torch.utils.tensorboard import SummaryWriter

    from medsam2.training.bank import use_bank
    from medsam2.training.config import read_recipe
    from medsam2.training.loop import Trainer

    config = read_recipe(recipe)
    output = Path("runs") / recipe.stem if output is None else output
    bank = output / "bank" if bank is None else bank
    config = use_bank(config, bank)
    _fill(bank, config, workers)
    trainer = Trainer(config, output, bank, device=device, processes=processes)
    if trainer.step and trainer.is_first:
        say(f"resuming {output} at step {trainer.step} of {config.num_steps}")
    if not trainer.is_first:
        for _ in trainer.run():
            pass
        return
    with SummaryWriter(str(output)) as curves:
        for progress in trainer.run():
            say(_line(progress))
            for name, value in progress.losses.items():
                curves.add_scalar(f"loss/{name}", value, progress.step)
            curves.add_scalar("learning_rate", progress.learning_rate, progress.step)
            curves.add_scalar("seconds_per_step", progress.seconds_per_step, progress.step)
            if progress.validation_dice is not None:
                curves.add_scalar("dice/validation", progress.validation_dice, progress.step)
    click.echo(trainer.folder.weights_path)


def _fill(bank: Path, config: TrainConfig, workers: int) -> None:
    """Generate the stacks that the bank lacks, with a bar for a person who watches."""
    from rich.console import Console
    from rich.progress import Progress as Bar

    from medsam2.training.bank import build_bank

    data = config.data
    seeds = range(data.first_seed, data.first_seed + data.stacks + data.validation_stacks)
    console = Console(stderr=True)
    with Bar(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("generating stacks", total=len(seeds))
        for done in build_bank(bank, seeds, workers):
            bar.update(task, completed=done)


def _line(progress: Progress) -> str:
    terms = "  ".join(f"{name} {value:.4f}" for name, value in progress.losses.items())
    validation = (
        "" if progress.validation_dice is None else f"  validation Dice {progress.validation_dice:.4f}"
    )
    return (
        f"step {progress.step}/{progress.num_steps} ({progress.phase})  {terms}  "
        f"{progress.seconds_per_step:.2f} s/step{validation}"
    )
