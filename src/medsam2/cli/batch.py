"""`medsam2 batch`: segment a table of cases into a folder of masks; crashes and restarts lose no work."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from medsam2.cli.messages import EXIT_FAILED, say
from medsam2.cli.options import WindowCommand, grouped, heading, json_option
from medsam2.cli.outputs import KINDS
from medsam2.cli.segment import RunOptions, run_options
from medsam2.errors import InputError

if TYPE_CHECKING:
    from medsam2.batch.cases import Case
    from medsam2.batch.records import BatchSettings, CaseRecord, Failure
    from medsam2.batch.results import Summary
    from medsam2.batch.run import Engine, Plan

CASE_MARK = "{case}"


@dataclass(frozen=True, kw_only=True)
class BatchOptions:
    """The options about cases, work and output."""

    output: Path
    pattern: str | None
    key: str | None
    output_type: str
    source: str | None
    preview: bool
    changed: str
    workers: int | None
    engine: str
    address: str | None
    max_download: int


_batch_options = grouped(
    "options",
    BatchOptions,
    heading("Cases"),
    click.option(
        "--glob", "pattern", metavar="PATTERN",
        help="Find the images by a pattern; the part that the star stands for is the case's name in TABLE: "
        "--glob 'scans/*/ct.nii.gz' finds the case p1 in scans/p1/ct.nii.gz.",
    ),
    click.option(
        "--key", metavar="COLUMN",
        help="Column with the name of the case, if it is not called case or id. Rows with the same name are "
        "objects of one case.",
    ),
    click.option(
        "--changed", type=click.Choice(["redo", "report"]), default="redo", show_default=True,
        help="If the row, the image or an option has changed since a mask was made: segment the case again, "
        "or report it and leave the mask.",
    ),
    click.option(
        "--max-download", type=click.IntRange(min=1), default=4096, show_default=True, metavar="MIB",
        help="Largest image that is downloaded from a URL, in MiB.",
    ),
    heading("Work"),
    click.option(
        "--workers", type=click.IntRange(min=1), metavar="N",
        help="Number of processes; each loads the weights. If not given: 1, or on Ray as many as the cluster "
        "has processors or GPUs.",
    ),
    click.option(
        "--engine", type=click.Choice(["processes", "ray"]), default="processes", show_default=True,
        help="Run in processes of this machine, or on a Ray cluster.",
    ),
    click.option(
        "--address", metavar="ADDRESS",
        help="Address of the Ray cluster, for example 10.0.0.5:6379; if not given, the cluster that this "
        "machine belongs to.",
    ),
    heading("Output"),
    click.option(
        "-o", "--output", type=click.Path(path_type=Path), required=True, metavar="FOLDER",
        help="Folder for masks, results and report.",
    ),
    click.option(
        "--output-type", type=click.Choice(KINDS), default="nifti", show_default=True,
        help="File format of the masks.",
    ),
    click.option(
        "--source", metavar="SERIES",
        help="DICOM series that a dicom-seg or rtstruct refers to, for rows without a source; {case} stands "
        "for the case's name: --source 'series/{case}'.",
    ),
    click.option("--preview", is_flag=True, help="Also write a picture (PNG) of each case's first object."),
)  # fmt: skip


@click.command(cls=WindowCommand)
@click.argument("table", type=click.Path(path_type=Path))
@run_options
@_batch_options
@json_option
@click.pass_context
def batch(ctx: click.Context, table: Path, options: BatchOptions, run: RunOptions, as_json: bool) -> None:
    """Segment a table of cases; a stopped run can be resumed.

    TABLE is CSV, JSON or Parquet. Each row names an image, as a file or a URL (http, https, s3), and a
    prompt, with the keys of prompt files. A value in a row has priority over the option of the same name. A
    case is done when its mask is in FOLDER. Run the same command again to segment only the cases that are
    missing, have failed or have changed. The exit code is 1 if a case has failed.
    """
    from medsam2.batch.records import working_in
    from medsam2.batch.results import each_result, write_page, write_results
    from medsam2.batch.run import check_apart, plan_run

    started = time.perf_counter()
    if options.address is not None and options.engine != "ray":
        raise InputError("--address is the address of a Ray cluster; it needs --engine ray")
    settings = _settings(options, run)
    cases = _read_cases(table, options)
    check_apart(cases, options.output)
    digest = _weights_digest(run.weights)
    with working_in(options.output):
        plan = plan_run(cases, settings, options.output, digest, redo_changed=options.changed == "redo")
        _announce(plan, len(cases))
        _work(plan, _engine(options, settings))
        summary = write_results(cases, plan.tally, options.output, time.perf_counter() - started)
        facts = _facts(table, options, run, digest)
        write_page(summary, each_result(cases, plan.tally, options.output), facts, options.output)
    _print(summary, options.output, as_json)
    if not summary.is_complete:
        ctx.exit(EXIT_FAILED)


def _settings(options: BatchOptions, run: RunOptions) -> BatchSettings:
    from medsam2.batch.records import BatchSettings
    from medsam2.imaging.intensity import WINDOW_PRESETS

    if isinstance(run.window, str) and run.window not in WINDOW_PRESETS:
        raise InputError(f"a window is two limits or one of {', '.join(WINDOW_PRESETS)}, not {run.window!r}")
    if run.stop_after is not None and run.stop_after < 0:
        raise InputError(f"--stop-after is 0 or more slices, not {run.stop_after}")
    return BatchSettings(
        **asdict(run),
        output_type=options.output_type,
        preview=options.preview,
        max_download_mib=options.max_download,
    )


def _read_cases(table: Path, options: BatchOptions) -> Sequence[Case]:
    """Read the table, and report every error in it before a case is segmented."""
    from medsam2.batch.cases import cases_of, check_meshes, read_rows
    from medsam2.batch.storage import find_images

    images = None if options.pattern is None else find_images(options.pattern)
    cases = cases_of(read_rows(table), folder=table.parent, key=options.key, images=images)
    if images is not None and (num_left := len(images.keys() - {case.name for case in cases})):
        say(f"{num_left} images of --glob are in no row of {table} and are left out")
    if options.output_type == "stl":
        check_meshes(cases)
    if options.source is None:
        return cases
    if CASE_MARK not in options.source:
        raise InputError(f"--source {options.source}: needs {CASE_MARK}, which stands for the case's name")
    return [
        replace(case, source=case.source or options.source.replace(CASE_MARK, case.name)) for case in cases
    ]


def _weights_digest(weights: str) -> str:
    """Return the SHA-256 of the weights; they are downloaded here, once for all processes."""
    from medsam2.checkpoints import resolve
    from medsam2.hub import file_digest

    return file_digest(resolve(weights))


def _engine(options: BatchOptions, settings: BatchSettings) -> Engine:
    if options.engine == "ray":
        from medsam2.batch.cluster import DEFAULT_ADDRESS, run_on_ray

        return partial(
            run_on_ray, settings=settings, folder=options.output, num_workers=options.workers,
            address=options.address or DEFAULT_ADDRESS,
        )  # fmt: skip
    from medsam2.batch.processes import run_in_processes

    return partial(
        run_in_processes, settings=settings, folder=options.output, num_workers=options.workers or 1
    )


def _announce(plan: Plan, num_cases: int) -> None:
    """Report which cases are done, have changed or have failed before the run."""
    if plan.tally.kept:
        say(f"{len(plan.tally.kept)} of {num_cases} cases are done already")
    if plan.num_changed:
        say(f"{plan.num_changed} have changed and are segmented again")
    for failure in plan.tally.failures.values():
        _complain(failure)


def _work(plan: Plan, engine: Engine) -> None:
    """Segment the cases, with a progress bar on a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from medsam2.batch.run import run_plan

    console = Console(stderr=True)
    outcomes = run_plan(plan, engine)
    if not console.is_terminal:
        for outcome in outcomes:
            _complain(outcome)
        return
    # Cases take seconds to minutes, so the remaining time is estimated from the last half hour.
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[failed]}"), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, speed_estimate_period=1800) as progress:
        bar = progress.add_task("cases", total=len(plan.tasks), failed="")
        for outcome in outcomes:
            _complain(outcome)
            num_failed = len(plan.tally.failures)
            progress.update(bar, advance=1, failed=f"{num_failed} failed" if num_failed else "")


def _complain(outcome: CaseRecord | Failure) -> None:
    """Report a failed case at once, so that the log has it even if the run ends early."""
    from medsam2.batch.records import Failure

    if isinstance(outcome, Failure):
        say(f"{outcome.case}: {outcome.error}")


def _facts(table: Path, options: BatchOptions, run: RunOptions, digest: str) -> dict[str, str]:
    from medsam2 import __version__

    chosen = {name.replace("_", " "): value for name, value in asdict(run).items() if value is not None}
    return {
        "table": str(table),
        **({} if options.pattern is None else {"images": options.pattern}),
        **{name: str(value) for name, value in chosen.items()},
        "weights' SHA-256": digest,
        "masks": options.output_type,
        "engine": f"{options.engine}, {options.workers or 'default'} workers, {os.cpu_count()} cores here",
        "version": f"medsam2 {__version__}",
    }


def _print(summary: Summary, folder: Path, as_json: bool) -> None:
    from medsam2.batch.results import NUMBERS, PAGE, TABLE, sentences

    if as_json:
        places = {"table": TABLE, "numbers": NUMBERS, "report": PAGE}
        files = {name: str(folder / file) for name, file in places.items()}
        click.echo(json.dumps({**asdict(summary), **files}))
        return
    for line in sentences(summary):
        click.echo(line)
    click.echo(f"{folder / TABLE}, {NUMBERS}, {PAGE}")
