"""`medsam2 evaluate`: measure a predictor on a list of cases."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from medsam2.cli.messages import EXIT_FAILED, say, with_progress
from medsam2.cli.options import (
    HeadedCommand,
    device_option,
    heading,
    json_option,
    memory_option,
    precision_option,
)
from medsam2.errors import InputError

if TYPE_CHECKING:
    from medsam2.evaluation.cost import TimeModel
    from medsam2.evaluation.experiment import Arm, Experiment, Provenance
    from medsam2.evaluation.runner import CaseResult
    from medsam2.evaluation.simulated_user import RunOptions
    from medsam2.evaluation.summary import Summary

NETWORK = "network"
DEFAULT_WEIGHTS = "compact"
PIPE_WIDTH = 160  # columns; a pipe has no width, and a table broken at 80 is hard to read
# The same as `evaluation.simulated_user.PROTOCOLS`, which would import torch.
PROTOCOLS = ("box", "clicks", "mask", "recist", "interactive")
AGAINST = {"weights": "--against", "memory": "--against-memory", "precision": "--against-precision"}
"""Setting of a network -> the option that names the other one of a comparison."""
TIMES = {
    "box": "box_s", "click": "click_s", "line": "line_s", "slice": "drawn_slice_s", "look": "look_s",
}  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Network:
    """The settings in which the two networks of a comparison may differ."""

    weights: str
    memory: str
    precision: str

    def called(self, other: _Network) -> str:
        """A name that differs from the other's: the setting in which they differ, or else the weights."""
        if other.memory != self.memory:
            return self.memory
        if other.precision != self.precision:
            return self.precision
        short, its = Path(self.weights).name, Path(other.weights).name
        return self.weights if short == its else short


@click.command(cls=HeadedCommand)
@click.argument("cases", metavar="CASES.json", type=click.Path(path_type=Path))
@heading("Model")
@click.option("--weights", metavar="NAME|FILE", help=f"Name or file.  [default: {DEFAULT_WEIGHTS}]")
@click.option(
    "--predictor", type=click.Choice([NETWORK, "ellipse", "random-walker"]), default=NETWORK,
    show_default=True, help="The network, or a classical method to compare it with.",
)  # fmt: skip
@memory_option
@device_option
@precision_option
@heading("Simulated user")
@click.option(
    "--protocol", type=click.Choice(PROTOCOLS), default="box", show_default=True,
    help="Prompts of the simulated user; interactive: a box, then clicks, as in the CVPR 2025 challenge.",
)  # fmt: skip
@click.option("--clicks", type=int, default=5, show_default=True, metavar="N",
              help="Number of clicks in the protocols clicks and interactive.")  # fmt: skip
@click.option(
    "--box-noise", type=float, default=0.0, metavar="F",
    help="Move each end of the box by up to this fraction of its side, for example 0.1.",
)  # fmt: skip
@click.option(
    "--repeats", type=int, default=1, metavar="N", help="Run each case N times, each time with other noise."
)
@click.option("--seed", type=int, default=0, metavar="N", help="Seed of the noise and of the intervals.")
@heading("Comparison")
@click.option("--against", metavar="NAME|FILE", help="Compare with these weights, case by case.")
@click.option("--against-memory", metavar="POLICY", help="Compare with this memory policy.")
@click.option("--against-precision", metavar="P", help="Compare with this precision.")
@heading("Output")
@click.option("--report", type=click.Path(path_type=Path), metavar="FOLDER",
              help="Write report.html and its numbers as CSV and JSON into a folder.")  # fmt: skip
@click.option(
    "--seconds", "times", multiple=True, metavar="WHAT=S",
    help=f"Change a time in the report's simulated cost, for example click=3.9; WHAT is {', '.join(TIMES)}.",
)  # fmt: skip
@click.option(
    "--csv", "csv_path", type=click.Path(path_type=Path), help="Also write a CSV table with one row a run."
)
@json_option
def evaluate(
    cases: Path,
    weights: str | None,
    predictor: str,
    protocol: str,
    clicks: int,
    box_noise: float,
    repeats: int,
    seed: int,
    memory: str,
    against: str | None,
    against_memory: str | None,
    against_precision: str | None,
    report: Path | None,
    times: tuple[str, ...],
    csv_path: Path | None,
    device: str,
    precision: str,
    as_json: bool,
) -> None:
    """Measure masks against reference masks.

    CASES.json lists scans, prompts and reference masks. Each case is prompted with a box on one slice, or as
    --protocol says, and gets its Dice, its surface Dice at 2 mm and its HD95; pictures without a spacing are
    measured in pixels. A case that fails does not stop the rest; the exit code is then 1.
    """
    from medsam2.evaluation.cases import read_cases
    from medsam2.evaluation.experiment import Masks, conclude, run_arms_of
    from medsam2.evaluation.metrics import TOLERANCE
    from medsam2.evaluation.report import write_csv
    from medsam2.evaluation.simulated_user import RunOptions
    from medsam2.evaluation.summary import summarise

    is_network = predictor == NETWORK
    options_against = {"weights": against, "memory": against_memory, "precision": against_precision}
    changes = {name: value for name, value in options_against.items() if value is not None}
    _check_choices(predictor, weights, protocol, changes)
    model = _time_model(times)
    if csv_path is not None and not csv_path.parent.is_dir():  # before the work is done
        raise InputError(f"{csv_path} cannot be written: there is no folder {csv_path.parent}")
    first = _Network(weights=weights or DEFAULT_WEIGHTS, memory=memory, precision=precision)
    networks = list(dict.fromkeys((first, dataclasses.replace(first, **changes))))
    if changes and len(networks) == 1:
        raise InputError(f"a comparison with {next(iter(changes.values()))} itself would show nothing")
    options = RunOptions(
        box_noise=box_noise, repeats=repeats, seed=seed, memory=memory, protocol=protocol, clicks=clicks
    )
    listed = read_cases(cases)
    arms = _network_arms(networks, options, device) if is_network else [_classical_arm(predictor, options)]
    facts = None if report is None else _prepare(report, cases, networks if is_network else [], arms)
    masks = Masks()
    total = len(listed) * repeats * len(arms)
    results = list(with_progress(run_arms_of(listed, arms, masks), "cases", total))
    found = conclude(listed, arms, results, masks, facts, model=model)
    mine = found.results[0]
    summary = summarise(mine)
    if as_json:
        settings: dict[str, object] = {
            "cases": str(cases),
            "predictor": predictor,
            "weights": first.weights if is_network else None,
            "memory": memory if is_network else None,
            "box_noise": box_noise,
            "repeats": repeats,
            "seed": seed,
            "surface_dice_tolerance": TOLERANCE,
            "protocol": protocol,
        }
        _print_json(settings, found)
    else:
        _print_table(mine, summary)
        _print_differences(found)
    if csv_path is not None:
        write_csv(mine, csv_path)
    if report is not None:
        from medsam2.evaluation.report import PAGE, publish

        publish(found, report)
        say(f"the report is {report / PAGE}")
    failures = [result for part in found.results for result in part if result.error is not None]
    for result in failures:
        say(f"{result.name} failed: {result.error}")
    if failures:
        click.get_current_context().exit(EXIT_FAILED)


def _check_choices(predictor: str, weights: str | None, protocol: str, changes: Mapping[str, str]) -> None:
    """Refuse options that cannot be combined."""
    named = [AGAINST[name] for name in changes]
    if len(named) > 1:
        raise InputError(f"{' and '.join(named)}: a comparison changes one thing, give one of them")
    if predictor == NETWORK:
        return
    if weights is not None:
        raise InputError(f"--weights {weights} are for the network; the predictor {predictor} has none")
    if named:
        raise InputError(f"{named[0]} is for the network; the predictor {predictor} has none")
    if protocol != "box":
        raise InputError(f"--protocol {protocol} is for the network; the predictor {predictor} takes a box")


def _time_model(times: Sequence[str]) -> TimeModel:
    from medsam2.evaluation.cost import TimeModel

    chosen: dict[str, float] = {}
    for text in times:
        name, _, value = text.partition("=")
        try:
            chosen[TIMES[name]] = float(value)
        except (KeyError, ValueError):
            raise InputError(
                f"--seconds is one of {', '.join(TIMES)} with a number, for example click=3.9, not {text!r}"
            ) from None
    return TimeModel(**chosen)


def _network_arms(networks: Sequence[_Network], options: RunOptions, device: str) -> list[Arm]:
    from medsam2.evaluation.experiment import Arm
    from medsam2.inference.predictor import load
    from medsam2.inference.runtime import InferenceOptions

    for one in networks:
        InferenceOptions(memory=one.memory)  # a wrong name fails here once, not in each case
    loaded = {
        key: load(key[0], device=device, precision=key[1])
        for key in dict.fromkeys((one.weights, one.precision) for one in networks)
    }
    return [
        Arm(
            name=one.called(other),
            segmenter=loaded[one.weights, one.precision],
            options=dataclasses.replace(options, memory=one.memory),
        )
        for one, other in zip(networks, [*networks[1:], networks[0]], strict=True)
    ]


def _classical_arm(predictor: str, options: RunOptions) -> Arm:
    from medsam2.evaluation.baseline import EllipsoidSegmenter, RandomWalkerSegmenter
    from medsam2.evaluation.experiment import Arm

    segmenter = EllipsoidSegmenter() if predictor == "ellipse" else RandomWalkerSegmenter()
    return Arm(name=predictor, segmenter=segmenter, options=options)


def _prepare(folder: Path, cases: Path, networks: Sequence[_Network], arms: Sequence[Arm]) -> Provenance:
    """Make the report's folder and describe the run."""
    from medsam2.evaluation.experiment import describe_run
    from medsam2.evaluation.report import prepare_folder

    prepare_folder(folder)
    weights = list(dict.fromkeys(one.weights for one in networks))
    devices = {arm.name: _device_of(arm) for arm in arms}
    named = devices.values() if len(set(devices.values())) == 1 else map(": ".join, devices.items())
    return describe_run(_command_line(), cases, weights, "; ".join(dict.fromkeys(named)))


def _device_of(arm: Arm) -> str:
    from medsam2.inference.fast.network import FastNetwork
    from medsam2.inference.predictor import Predictor

    if not isinstance(arm.segmenter, Predictor):
        return "cpu"
    runtime = arm.segmenter.runtime
    order = "rearranged for speed" if isinstance(runtime.network, FastNetwork) else "in the published order"
    return f"{runtime.device} in {str(runtime.precision).removeprefix('torch.')}, {order}"


def _command_line() -> str:
    """The command as it would be typed, without what was left at its default."""
    context = click.get_current_context()
    words = ["medsam2", "evaluate"]
    for parameter in context.command.params:
        name = parameter.name or ""
        value = context.params.get(name)
        if context.get_parameter_source(name) is not ParameterSource.COMMANDLINE:
            continue
        if isinstance(parameter, click.Argument):
            words.append(str(value))
        elif isinstance(value, bool):
            words.append(parameter.opts[0])
        else:
            values = value if isinstance(value, tuple) else (value,)
            words += [word for one in values for word in (parameter.opts[0], str(one))]
    return shlex.join(words)


def _print_json(settings: dict[str, object], found: Experiment) -> None:
    from medsam2.evaluation.report import experiment_json

    numbers = experiment_json(found)
    click.echo(json.dumps({"settings": settings, **numbers}, allow_nan=False))


def _print_table(results: Sequence[CaseResult], summary: Summary) -> None:
    from medsam2.evaluation.report import TABLE_HEADER, as_table

    runs, means = as_table(results, summary)
    _print_rows(TABLE_HEADER, runs, means)


def _print_differences(found: Experiment) -> None:
    from medsam2.evaluation.summary import PICTURES, SCANS
    from medsam2.evaluation.tables import alike_in_words, comparison_table

    if not found.differences:
        return
    # Strata are for the report.
    parts = [
        dataclasses.replace(table, rows=tuple(row for row in table.rows if row[0] in (SCANS, PICTURES)))
        for table in (comparison_table(found, primary=primary) for primary in (True, False))
    ]
    click.echo(f"\n{alike_in_words(found)}")
    click.echo(f"\n{found.arms[1]} minus {found.arms[0]}: primary tests, then the others")
    _print_rows(parts[0].header[:-1], *([row[:-1] for row in part.rows] for part in parts))


def _print_rows(header: Sequence[str], *sections: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if not console.is_terminal:
        console = Console(width=PIPE_WIDTH)
    table = Table(box=None, pad_edge=False)
    for number, name in enumerate(header):
        table.add_column(name, justify="right" if number else "left", no_wrap=True)
    for rows in sections:
        for row in rows:
            table.add_row(*row)
        table.add_section()
    console.print(table, markup=False)
