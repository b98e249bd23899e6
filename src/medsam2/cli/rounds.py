"""`medsam2 rounds`: fine-tune on corrected masks and propose masks for the scans to correct next."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from medsam2.cli.messages import say
from medsam2.cli.options import WindowCommand, heading, json_option, plane_option, window_option

if TYPE_CHECKING:
    from medsam2.training.loop import Trainer
    from medsam2.training.rounds.proposals import Proposal


@click.command(cls=WindowCommand)
@click.argument("folder", type=click.Path(path_type=Path))
@heading("Fine-tuning")
@click.option(
    "--recipe", type=click.Path(path_type=Path), required=True,
    help="Recipe of the fine-tuning, for example recipes/compact-finetune.toml.",
)  # fmt: skip
@click.option(
    "--weights", metavar="NAME|FILE", help="Weights to begin from, instead of those that the recipe names."
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
@heading("Next scans")
@click.option(
    "--next", "num_next", type=int, default=5, show_default=True, help="Number of scans to propose masks for."
)
@click.option(
    "--order", type=click.Choice(["uncertain", "diverse"]), default="uncertain", show_default=True,
    help="uncertain: first the scans that the network is least sure of. diverse: scans that differ most from "
    "each other.",
)  # fmt: skip
@click.option(
    "--pool", type=int, metavar="N", help="Choose among N waiting scans, drawn at random, instead of all."
)
@json_option
@heading("Scans")
@click.option(
    "--patient", metavar="REGEX", help="Regular expression that finds the patient in a file's name."
)
@plane_option
@window_option
def rounds(
    folder: Path,
    recipe: Path,
    weights: str | None,
    num_next: int,
    order: str,
    pool: int | None,
    patient: str | None,
    plane: str | None,
    window: str | tuple[float, float] | None,
    device: str,
    as_json: bool,
) -> None:
    """Fine-tune on corrected masks and propose masks for the next scans.

    FOLDER holds scans, and corrected masks of the same names in labels/final. A round fine-tunes on those and
    writes proposals for the next scans into labels/proposed. Correct them, save them in labels/final, and do
    it again. Scans are prompted by prompts/NAME.json (or .csv), by the boxes of a rough mask in
    labels/original, or where the object usually lies. With masks of fewer than two patients nothing is
    trained yet.
    """
    from medsam2.inference.predictor import load
    from medsam2.training.config import read_recipe
    from medsam2.training.datasets.scan import ReadOptions
    from medsam2.training.rounds.proposals import PROPOSED, read_folder, round_folder
    from medsam2.training.rounds.work import RoundOptions, begin_from, look_at, put_forward, start_training

    config = begin_from(read_recipe(recipe), weights)
    assert config.initial_weights is not None
    scans = read_folder(folder, ReadOptions(patient=patient))
    number, place = round_folder(folder)
    options = RoundOptions(
        number=number, folder=place, num_next=num_next, order=order, pool=pool, window=window, plane=plane,
        device=device,
    )  # fmt: skip
    if not scans.waiting:
        say(f"all {len(scans.corrected)} scans have a corrected mask: there is nothing left to propose")
        return
    trained = start_training(scans, config, options)
    if trained is None:
        say(f"round {number}: nothing is trained before two patients have a corrected mask")
    else:
        _train(trained, number)
    found = load(trained.folder.weights_path if trained else config.initial_weights, device=device)
    proposals = list(look_at(scans, found, options))
    chosen = put_forward(scans, proposals, options, trained)
    if as_json:
        click.echo((place / "round.json").read_text(encoding="utf-8").strip())
        return
    for proposal in chosen:
        click.echo(_line(proposal))
    say(f"round {number}: correct these, from {folder / PROPOSED}, and save them in labels/final")


def _train(trainer: Trainer, number: int) -> None:
    for progress in trainer.run():
        if progress.validation is not None:
            say(
                f"round {number}: step {progress.step}/{progress.num_steps}, "
                f"validation Dice {progress.validation.dice:.4f}"
            )


def _line(proposal: Proposal) -> str:
    objects = ", ".join(f"{number}: {value:.2f}" for number, value in proposal.confidences.items())
    return f"{proposal.name}  confidence {proposal.confidence:.2f}  ({objects}; by {proposal.source})"
