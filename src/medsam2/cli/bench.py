"""`medsam2 bench`: measure policies and speed on this machine."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from medsam2.cli.messages import say

if TYPE_CHECKING:
    from medsam2.evaluation.ablation import ArmScore, Comparison, Subject

PIPE_WIDTH = 140


@click.group()
def bench() -> None:
    """Measure memory policies on this machine."""


@bench.command()
@click.argument("cases", type=click.Path(path_type=Path), required=False, metavar="[CASES.json]")
@click.option("--generated", type=click.IntRange(min=0), default=12, show_default=True,
              help="Stacks to generate, each with up to two long objects.")  # fmt: skip
@click.option("--seed", type=click.IntRange(min=0), default=900_000, show_default=True,
              help="Of the first stack.")  # fmt: skip
@click.option("--weights", default="compact", show_default=True, help="Name or file.")
@click.option("--arm", "arms", multiple=True, help="Compare these policies only; several are possible.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of tables.")
def memory(
    cases: Path | None, generated: int, seed: int, weights: str, arms: Sequence[str], as_json: bool
) -> None:
    """Compare memory policies in pairs.

    The same weights follow every object with every policy, through all slices of its volume, from the
    tight box on one slice. Objects are the 3D cases of CASES.json and generated ones.
    """
    from medsam2.errors import InputError
    from medsam2.evaluation.ablation import run_arms
    from medsam2.evaluation.arms import ARMS
    from medsam2.inference.predictor import load

    unknown = [arm for arm in arms if arm not in ARMS]
    if unknown:
        raise InputError(f"policies to compare are {', '.join(ARMS)}, not {unknown[0]!r}")
    chosen = {name: policy for name, policy in ARMS.items() if not arms or name in arms or name == "recent"}
    subjects = list(_subjects(cases, generated, seed))
    if not subjects:
        raise InputError("there is nothing to follow: give CASES.json, or --generated above 0")
    scores = []
    for score in run_arms(subjects, load(weights), chosen):
        scores.append(score)
        if len(scores) % len(chosen) == 0:
            say(f"{len(scores) // len(chosen)} of {len(subjects)} objects")
    if as_json:
        click.echo(json.dumps(_facts(scores)))
    else:
        _print_tables(scores)


def _subjects(cases: Path | None, generated: int, seed: int) -> Iterator[Subject]:
    from medsam2.evaluation.ablation import subject_of
    from medsam2.evaluation.cases import read_cases, read_task
    from medsam2.evaluation.generated import long_objects

    for case in [] if cases is None else read_cases(cases):
        if case.axis is not None:
            yield subject_of(read_task(case))
    yield from long_objects(range(seed, seed + generated))


def _strata(scores: Sequence[ArmScore]) -> Iterator[tuple[str, list[ArmScore]]]:
    """All objects, then apart: the short ones, generated and real long ones, those with a gap."""
    from medsam2.evaluation.summary import SHORT_OBJECT

    is_short = {score.subject: score.num_slices <= SHORT_OBJECT for score in scores}
    strata = {
        "all objects": list(scores),
        f"real, longer than {SHORT_OBJECT} slices": [
            s for s in scores if not s.group.startswith("generated") and not is_short[s.subject]
        ],
        f"up to {SHORT_OBJECT} slices": [s for s in scores if is_short[s.subject]],
        "generated": [s for s in scores if s.group.startswith("generated") and not s.group.endswith("gap")],
        "generated, with a gap": [s for s in scores if s.group.endswith("gap")],
    }
    yield from ((name, part) for name, part in strata.items() if part)


def _facts(scores: Sequence[ArmScore]) -> dict[str, object]:
    from medsam2.evaluation.ablation import compare

    return {
        "strata": {
            name: [dataclasses.asdict(row) for row in compare(part)] for name, part in _strata(scores)
        },
        "scores": [dataclasses.asdict(score) for score in scores],
    }


def _print_tables(scores: Sequence[ArmScore]) -> None:
    from rich.console import Console
    from rich.table import Table

    from medsam2.evaluation.ablation import compare

    console = Console()
    if not console.is_terminal:
        console = Console(width=PIPE_WIDTH)
    for name, part in _strata(scores):
        rows = compare(part)
        table = Table(
            title=f"{name} ({rows[0].num_subjects})", title_justify="left", box=None, pad_edge=False
        )
        for number, title in enumerate(("policy", "Dice", "over", "under", "difference", "95 %", "p")):
            table.add_column(title, justify="right" if number else "left", no_wrap=True)
        for row in rows:
            table.add_row(row.arm, *_cells(row, is_first=row is rows[0]))
        console.print(table, markup=False)
        console.print()


def _cells(row: Comparison, *, is_first: bool) -> tuple[str, ...]:
    cells = (f"{row.mean_dice:.3f}", f"{row.mean_over:.2f}", f"{row.mean_under:.2f}")
    if is_first:
        return cells
    between = "-" if row.interval is None else "{:+.4f} to {:+.4f}".format(*row.interval)
    return (*cells, f"{row.difference:+.4f}", between, f"{row.p_value:.3f}")
