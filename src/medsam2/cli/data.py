"""`medsam2 data`: check labelled scans and prepare them for training."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from medsam2.cli.messages import EXIT_FAILED, say
from medsam2.cli.options import HELP as WINDOW_HELP
from medsam2.cli.options import OPTION as WINDOW_OPTION
from medsam2.cli.options import WindowCommand, heading, parse_window
from medsam2.cli.paint import paint
from medsam2.errors import InputError

if TYPE_CHECKING:
    from medsam2.training.datasets.prepare import PreparedCase
    from medsam2.training.datasets.scan import DataSet
    from medsam2.training.datasets.splits import Splits
    from medsam2.training.datasets.summary import SetReport

T = TypeVar("T")

_SOURCE = "medsam2.data_source"  # where options of a data set wait for the command
_MIB = 2**20


@click.group()
def data() -> None:
    """Check labelled scans and prepare them for training.

    PATH is an nnU-Net or decathlon folder, a MONAI data list, a table (CSV, TSV), a MONAI Label folder, a
    folder of MedSAM .npz files, of videos as frames, or of images beside masks. Its format is recognised.
    """


data.add_command(paint)


def _keep(ctx: click.Context, option: click.Parameter, value: object) -> None:
    ctx.meta.setdefault(_SOURCE, {})[option.name] = value


def _source_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options that say how a data set is kept; `_read` finds their values."""
    texts = {
        "--format": (
            "NAME",
            "nnunet, msd, monai, table, monailabel, frames, npz or pairs, if not recognised.",
        ),
        "--images": ("GLOB", "Pattern of the images; what its stars stand for is the case."),
        "--masks": ("GLOB", "Pattern of the masks, with as many stars."),
        "--channel": ("NAME|N", "Which channel, where scans have several."),
        "--patient": ("REGEX|COLUMN", "Whose scan it is, from its path or, in a table, from a column."),
        "--base": ("FOLDER", "What paths in a list or a table are relative to, if not to itself."),
    }
    decorators = [
        click.option(name, metavar=metavar, help=text, expose_value=False, callback=_keep)
        for name, (metavar, text) in texts.items()
    ]
    decorators += [
        click.option(
            "--label", metavar="VALUE=NAME", multiple=True, expose_value=False, callback=_keep,
            help="Name a value of the masks; may be repeated. Others count as errors then.",
        ),
        click.option(
            "--modality", type=click.Choice(["CT", "MR", "US"]), expose_value=False, callback=_keep,
            help="Of all scans, where neither files nor list say it.",
        ),
        click.option(
            "--fold", type=int, expose_value=False, callback=_keep,
            help="Fold of a MONAI data list to validate on.",
        ),
    ]  # fmt: skip
    for decorator in reversed((heading("Data set"), *decorators)):
        command = decorator(command)
    return command


_path = click.argument("path", type=click.Path(path_type=Path))
_plane = click.option(
    "--plane", type=click.Choice(["axial", "coronal", "sagittal"]), help="Cut slices this way."
)
_window = click.option(
    WINDOW_OPTION, metavar="LO HI|NAME", callback=parse_window, expose_value=True, help=WINDOW_HELP
)
_workers = click.option(
    "--workers", type=click.IntRange(min=1), default=os.cpu_count() or 1, show_default=True,
    help="Processes that read.",
)  # fmt: skip
_as_json = click.option("--json", "prints_json", is_flag=True, help="Print one JSON object.")


@data.command(cls=WindowCommand)
@_path
@heading("Output")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path),
    help="Folder for report.html, report.json and pictures.",
)  # fmt: skip
@_source_options
@heading("Volume")
@_plane
@_window
@heading("Work")
@click.option(
    "--min-area", type=click.IntRange(min=1), default=12, show_default=True, metavar="N",
    help="Warn of objects with fewer pixels in their largest slice.",
)  # fmt: skip
@_workers
@_as_json
@click.pass_context
def check(
    ctx: click.Context,
    path: Path,
    output: Path | None,
    plane: str | None,
    window: str | tuple[float, float] | None,
    min_area: int,
    workers: int,
    prints_json: bool,
) -> None:
    """Check the data set PATH before anything is trained on it.

    Grids, masks, labels, intensities, duplicates and patients in two splits. It does not stop at the first
    bad scan. The exit code is 1 if there are errors; warnings do not count.
    """
    from medsam2.reports.page import make_folder
    from medsam2.training.datasets.checking import CheckLimits, check_scans
    from medsam2.training.datasets.contents import check_window
    from medsam2.training.datasets.report import as_json, write_report
    from medsam2.training.datasets.summary import summarise

    check_window(window)
    found = _read(ctx, path)
    if output is not None:
        make_folder(output)  # to be said before the work is done
    limits = CheckLimits(smallest_area=min_area, plane=plane)
    cases = list(_watched(check_scans(found.scans, limits, workers), len(found.scans), "checking"))
    report = summarise(found, cases)
    page = None if output is None else write_report(report, found, output, plane=plane, window=window)
    if prints_json:
        click.echo(json.dumps(as_json(report)))
    else:
        _print_report(report)
        if page is not None:
            click.echo(page)
    if report.num_errors:
        ctx.exit(EXIT_FAILED)


@data.command(cls=WindowCommand)
@_path
@click.argument("out", type=click.Path(path_type=Path), required=False)
@heading("Output")
@click.option(
    "-o", "--output", "bank", type=click.Path(path_type=Path),
    help="Folder of the bank, the same as OUT; what is there already is not done again.",
)  # fmt: skip
@_source_options
@heading("Volume")
@_plane
@_window
@heading("Stacks")
@click.option("--components", is_flag=True, help="Make each connected piece of a label an object of its own.")
@click.option(
    "--min-area", type=click.IntRange(min=1), metavar="N",
    show_default="12; 20 for a table with a column kind",
    help="Leave out objects with fewer pixels in their largest slice.",
)  # fmt: skip
@click.option(
    "--max-mib", type=float, default=16.0, show_default=True, metavar="N",
    help="Largest file; larger scans are cropped around their objects.",
)  # fmt: skip
@click.option(
    "--shares", type=float, nargs=3, metavar="TRAIN VALIDATION TEST",
    show_default="0.8 0.2 0; a fixed eighth to validate on for a table with a column kind",
    help="Of the patients whom the data set puts into no split.",
)  # fmt: skip
@click.option("--seed", type=int, metavar="N", help="Of the split into --shares.")
@heading("Work")
@_workers
@_as_json
@click.pass_context
def prepare(
    ctx: click.Context,
    path: Path,
    out: Path | None,
    bank: Path | None,
    plane: str | None,
    window: str | tuple[float, float] | None,
    components: bool,
    min_area: int | None,
    max_mib: float,
    shares: tuple[float, float, float] | None,
    seed: int | None,
    workers: int,
    prints_json: bool,
) -> None:
    """Cut the data set PATH into a bank of stacks for training, in the folder OUT.

    Scans become 8-bit stacks of slices with numbered objects, split by patient, for `medsam2 train --bank`.
    Scans for testing are listed in the bank but are not in it. A scan that fails does not stop the rest; the
    exit code is then 1.

    A table with a column kind (volume, still or video) may give each scan its window and slicing axis, and
    name its labels, data set and patient. Such scans are cropped around their objects. CT gives three
    windows, and volumes with nearly cubic voxels are cut along all three axes.
    """
    from medsam2.training.datasets.prepare import PrepareOptions
    from medsam2.training.datasets.prepare import prepare as fill

    folder = _one_folder(out, bank)
    if not max_mib > 0 or max_mib > 2**20:
        raise InputError(f"--max-mib is a number of MiB above 0, not {max_mib:g}")
    options = PrepareOptions(
        window=window, plane=plane, pieces=components, smallest_area=min_area, file_bytes=int(max_mib * _MIB)
    )
    found = _read(ctx, path)
    for sentence in found.row_errors.values():
        say(f"a row is left out: {sentence}")
    splits = _split(found, shares, seed)
    num_scans = sum(len(splits[name]) for name in ("train", "validation"))
    cases = list(_watched(fill(splits, folder, options, workers), num_scans, "preparing"))
    failed = {f"row {number}": sentence for number, sentence in found.row_errors.items()}
    for case in cases:
        if case.error is not None:
            failed[case.name] = case.error
            say(f"{case.name} is left out: {case.error}")
    patients = {name: len({scan.patient for scan in part}) for name, part in splits.items()}
    facts = _bank_facts(folder, cases, patients) | {"failed": failed}
    if prints_json:
        click.echo(json.dumps(facts))
    else:
        say(
            f"{facts['train_files']} stacks to train on, {facts['validation_files']} to validate on, "
            f"{facts['objects']} objects ({facts['left_out']} left out as too small)"
        )
        click.echo(folder)
    if failed:
        ctx.exit(EXIT_FAILED)


def _one_folder(out: Path | None, bank: Path | None) -> Path:
    """Return the folder that was given as OUT or by -o."""
    if out is not None and bank is not None:
        raise click.UsageError(f"give the folder once, not as {out} and by -o {bank}")
    folder = out or bank
    if folder is None:
        raise click.UsageError("Missing option '-o' or a second argument: the folder of the bank")
    return folder


def _split(found: DataSet, shares: tuple[float, float, float] | None, seed: int | None) -> Splits:
    """Divide the scans by patient as the options say, or as the kind of data set has it."""
    from medsam2.training.datasets.splits import DEFAULT_SHARES, split_by_fixed_eighth, split_by_patient

    if shares is None and seed is None and all(scan.row is not None for scan in found.scans):
        return split_by_fixed_eighth(found.scans)
    return split_by_patient(found.scans, shares or DEFAULT_SHARES, seed or 0)


def _read(ctx: click.Context, path: Path) -> DataSet:
    """List the data set as the options say."""
    from medsam2.training.datasets.layouts import read_data_set
    from medsam2.training.datasets.scan import ReadOptions

    said = ctx.meta[_SOURCE]
    options = ReadOptions(
        channel=said["channel"],
        images=said["images"],
        masks=said["masks"],
        base=None if said["base"] is None else Path(said["base"]),
        patient=said["patient"],
        modality=said["modality"],
        fold=said["fold"],
        labels=dict(_parse_label(text) for text in said["label"]),
    )
    return read_data_set(path, said["format"], options)


def _parse_label(text: str) -> tuple[int, str]:
    value, separator, name = text.partition("=")
    if not separator or not value.strip().isdecimal() or int(value) == 0 or not name.strip():
        raise InputError(f"a label is a number above 0 and a name, 1=liver say, not {text!r}")
    return int(value), name.strip()


def _bank_facts(bank: Path, cases: list[PreparedCase], patients: dict[str, int]) -> dict[str, object]:
    return {
        "bank": str(bank),
        "patients": patients,
        "train_files": sum(len(case.files) for case in cases if case.split == "train"),
        "validation_files": sum(len(case.files) for case in cases if case.split == "validation"),
        "objects": sum(len(names) for case in cases for names in case.objects),
        "left_out": sum(case.num_left_out for case in cases),
    }


def _watched(results: Iterator[T], total: int, what: str) -> Iterator[T]:
    """Hand results on, with a bar for a person who watches."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    if not console.is_terminal:
        return results
    return iter(track(results, description=what, total=total, console=console, transient=True))


def _print_report(report: SetReport) -> None:
    """Print the summary and then each finding, errors first."""
    click.echo(f"{report.num_cases} cases of {report.num_patients} patients, kept as {report.layout}")
    for name, counts in (("splits", report.splits), ("modalities", report.modalities)):
        if counts:
            click.echo(f"{name}: " + ", ".join(f"{word} {count}" for word, count in counts.items()))
    for name, ranges in (("spacing mm", report.spacing_mm), ("size", report.size_voxels)):
        if ranges is not None:
            x, y, z = (f"{low:.4g}..{high:.4g}" for low, _, high in ranges)
            click.echo(f"{name}: x {x}  y {y}  z {z}")
    if report.intensities:
        shown = "  ".join(f"{name}% {middle:.4g}" for name, (_, middle, _) in report.intensities.items())
        click.echo(f"intensities, median over the cases: {shown}")
    for label in report.labels:
        low, middle, high = label.volume_ml
        click.echo(
            f"label {label.value} ({label.name}): {label.num_cases} cases, "
            f"{low:.4g}..{high:.4g} ml, median {middle:.4g}"
        )
    for finding in sorted(report.findings, key=lambda one: one.severity):
        case = "" if finding.case is None else f"{finding.case}: "
        click.echo(f"{finding.severity} [{finding.code}] {case}{' '.join(finding.text.split())}")
    click.echo(f"{report.num_errors} errors, {report.num_warnings} warnings")
