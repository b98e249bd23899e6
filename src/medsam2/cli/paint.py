"""`medsam2 data paint`: add stacks that are painted from label maps to a folder of stacks."""

from __future__ import annotations

import os
from pathlib import Path

import click

from medsam2.cli.messages import EXIT_FAILED, say, with_progress
from medsam2.errors import InputError


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--maps", "tables", type=click.Path(path_type=Path), multiple=True, required=True, metavar="TABLE",
    help="CSV table with the columns name and file (label maps), or name, mask, patient and labels (masks of "
    "training scans). May be repeated.",
)  # fmt: skip
@click.option(
    "--count", type=click.IntRange(min=1), default=700, show_default=True, help="Number of stacks to paint."
)
@click.option(
    "--first-seed", type=click.IntRange(min=0), default=0, show_default=True,
    help="Seed of the first stack; the next stacks have the next seeds.",
)  # fmt: skip
@click.option(
    "--processes", type=click.IntRange(min=1), default=os.cpu_count() or 1, show_default=True,
    help="Number of processes that paint.",
)  # fmt: skip
@click.option(
    "--weight", "weights", multiple=True, metavar="NAME=FACTOR",
    help="Draw maps with NAME in their names FACTOR times as often, for example --weight torso=3. 0 leaves "
    "them out. May be repeated.",
)  # fmt: skip
@click.pass_context
def paint(
    ctx: click.Context,
    folder: Path,
    tables: tuple[Path, ...],
    count: int,
    first_seed: int,
    processes: int,
    weights: tuple[str, ...],
) -> None:
    """Paint stacks with exact masks from label maps, and add them to the stacks in FOLDER.

    Real anatomy gets random greys, textures, blur and noise. So a network learns outlines and not the greys
    of one scanner. The stacks are added to the list of files to train on. From a training table only the
    masks of training patients are used. A map that cannot be used does not stop the rest; the exit code is
    then 1.

    Example: medsam2 data paint stacks --maps labelmaps.csv --count 200
    """
    from medsam2.training.painting import check_maps, list_maps, paint_stacks

    factors = dict(_parse_weight(text) for text in weights)
    maps, problems = [], []
    for table in tables:
        try:
            listed, unusable = list_maps(table, factors)
        except InputError as error:
            listed, unusable = [], [str(error)]
        maps += listed
        problems += unusable
    usable, unreadable = check_maps(maps)
    for problem in (*problems, *unreadable):
        say(f"left out: {problem}")
    seeds = range(first_seed, first_seed + count)
    done = list(with_progress(paint_stacks(usable, folder, seeds, processes), "painting", count))
    failed = [one for one in done if one.error is not None]
    for one in failed:
        say(f"left out: {one.error}")
    objects = sum(len(one.objects) for one in done)
    say(f"{len(done) - len(failed)} stacks of {len(usable)} label maps, {objects} objects")
    click.echo(folder)
    if problems or unreadable or failed:
        ctx.exit(EXIT_FAILED)


def _parse_weight(text: str) -> tuple[str, float]:
    name, _, factor = text.rpartition("=")
    try:
        value = float(factor)
    except ValueError:
        value = -1.0
    if not name or not 0 <= value < float("inf"):
        raise InputError(
            f"--weight is a part of a name and a factor of at least 0, for example torso=3, not {text!r}"
        )
    return name, value
