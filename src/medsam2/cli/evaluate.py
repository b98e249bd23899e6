"""`medsam2 evaluate`: a predictor is measured on a list of cases."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from medsam2.cli.messages import EXIT_FAILED, say
from medsam2.cli.precision import precision_option
from medsam2.errors import InputError

if TYPE_CHECKING:
    from medsam2.evaluation.rounds import Segmenter
    from medsam2.evaluation.runner import CaseResult
    from medsam2.evaluation.summary import Summary

NETWORK = "network"
DEFAULT_WEIGHTS = "compact"
PIPE_WIDTH = 160  # columns; a pipe has no width, and a table broken at 80 is hard to read


@click.command()
@click.argument("cases", metavar="CASES.json", type=click.Path(path_type=Path))
@click.option("--weights", metavar="NAME|FILE", help=f"Name or file.  [default: {DEFAULT_WEIGHTS}]")
@click.option(
    "--predictor", type=click.Choice([NETWORK, "ellipse", "random-walker"]), default=NETWORK,
    show_default=True, help="The network, or a classical method to compare it with.",
)  # fmt: skip
@click.option(
    "--box-noise", type=float, default=0.0, metavar="F",
    help="Move each end of the box by up to this part of its side, 0.1 say.",
)  # fmt: skip
@click.option("--repeats", type=int, default=1, metavar="N", help="Run each case N times, with other noise.")
@click.option("--seed", type=int, default=0, metavar="N", help="Of the noise.")
@click.option("--memory", default="recent", show_default=True, help="recent or self-sorting.")
@click.option("--csv", "csv_path", type=click.Path(path_type=Path), help="Also write a table, a row a run.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N or mps.")
@precision_option
@click.option("--json", "prints_json", is_flag=True, help="Print one JSON object instead of a table.")
def evaluate(
    cases: Path,
    weights: str | None,
    predictor: str,
    box_noise: float,
    repeats: int,
    seed: int,
    memory: str,
    csv_path: Path | None,
    device: str,
    precision: str,
    prints_json: bool,
) -> None:
    """Measure masks against reference masks.

    CASES.json lists scans, prompts and reference masks. Each case is prompted with a box on one slice and
    gets its Dice, its surface Dice at 2 mm and its HD95; pictures without a spacing are measured in pixels.
    A case that fails does not stop the rest; the exit code is then 1.
    """
    from medsam2.evaluation.metrics import TOLERANCE
    from medsam2.evaluation.protocol import read_cases
    from medsam2.evaluation.report import as_json, write_csv
    from medsam2.evaluation.rounds import RunOptions
    from medsam2.evaluation.runner import run_cases
    from medsam2.evaluation.summary import summarise

    is_network = predictor == NETWORK
    if weights is not None and not is_network:
        raise InputError(f"--weights {weights} are for the network; the predictor {predictor} has none")
    if csv_path is not None and not csv_path.parent.is_dir():  # to be said before the work is done
        raise InputError(f"{csv_path} cannot be written: there is no folder {csv_path.parent}")
    weights = weights or DEFAULT_WEIGHTS
    options = RunOptions(box_noise=box_noise, repeats=repeats, seed=seed, memory=memory)
    listed = read_cases(cases)
    segmenter = _load(predictor, weights, memory, device, precision)
    results = list(_watched(run_cases(listed, segmenter, options), len(listed) * repeats))
    summary = summarise(results)
    if prints_json:
        settings = {
            "cases": str(cases),
            "predictor": predictor,
            "weights": weights if is_network else None,
            "memory": memory if is_network else None,
            "box_noise": box_noise,
            "repeats": repeats,
            "seed": seed,
            "surface_dice_tolerance": TOLERANCE,
        }
        click.echo(json.dumps({"settings": settings, **as_json(results, summary)}, allow_nan=False))
    else:
        _print_table(results, summary)
    if csv_path is not None:
        write_csv(results, csv_path)
    failures = [result for result in results if result.error is not None]
    for result in failures:
        say(f"{result.name} failed: {result.error}")
    if failures:
        click.get_current_context().exit(EXIT_FAILED)


def _load(predictor: str, weights: str, memory: str, device: str, precision: str) -> Segmenter:
    if predictor == NETWORK:
        from medsam2.inference.options import InferenceOptions
        from medsam2.inference.predictor import load

        InferenceOptions(memory=memory)  # a wrong name is the command line's fault, not each case's
        return load(weights, device=device, precision=precision)
    from medsam2.evaluation.baseline import EllipsoidSegmenter, RandomWalkerSegmenter

    return EllipsoidSegmenter() if predictor == "ellipse" else RandomWalkerSegmenter()


def _watched(results: Iterator[CaseResult], total: int) -> Iterator[CaseResult]:
    """Hand results on, with a bar for a person who watches."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    if not console.is_terminal:
        return results
    return iter(track(results, description="cases", total=total, console=console, transient=True))


def _print_table(results: Sequence[CaseResult], summary: Summary) -> None:
    from rich.console import Console
    from rich.table import Table

    from medsam2.evaluation.report import TABLE_HEADER, as_table

    console = Console()
    if not console.is_terminal:
        console = Console(width=PIPE_WIDTH)
    table = Table(box=None, pad_edge=False)
    for number, name in enumerate(TABLE_HEADER):
        table.add_column(name, justify="right" if number else "left", no_wrap=True)
    runs, means = as_table(results, summary)
    for row in runs:
        table.add_row(*row)
    table.add_section()
    for row in means:
        table.add_row(*row)
    console.print(table, markup=False)
