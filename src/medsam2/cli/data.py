"""`medsam2 data`: check labelled scans and prepare them for training."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from medsam2.cli.messages import EXIT_FAILED, say, with_progress
from medsam2.cli.options import WindowCommand, grouped, heading, json_option, plane_option, window_option
from medsam2.cli.paint import paint
from medsam2.errors import InputError

if TYPE_CHECKING:
    from medsam2.training.datasets.prepare import PreparedCase
    from medsam2.training.datasets.scan import DataSet
    from medsam2.training.datasets.splits import Splits
    from medsam2.training.datasets.summary import SetReport

_MIB = 2**20


@click.group()
def data() -> None:
    """Check labelled scans and prepare them for training.

    PATH is an nnU-Net or decathlon folder, a MONAI data list, a table (CSV, TSV), a MONAI Label folder, a
    folder of MedSAM .npz files, a folder of videos as frames, or a folder of images beside masks. The format
    is recognised.

    Example: medsam2 data check scans/, then medsam2 data prepare scans/ -o stacks
    """


data.add_command(paint)


@dataclass(frozen=True, kw_only=True)
class Source:
    """How a data set is kept, as the options say."""

    format: str | None
    images: str | None
    masks: str | None
    channel: str | None
    patient: str | None
    base: Path | None
    label: tuple[str, ...]
    modality: str | None
    fold: int | None


_source = grouped(
    "source", Source, heading("Data set"),
    click.option(
        "--format", metavar="NAME",
        help="Format of the data set, if it is not recognised: nnunet, msd, monai, table, monailabel, "
        "frames, npz or pairs.",
    ),
    click.option(
        "--images", metavar="GLOB",
        help="Pattern of the images, for example --images 'scans/*.nii.gz'. The part that the star matches "
        "is the name of the case.",
    ),
    click.option(
        "--masks", metavar="GLOB",
        help="Pattern of the masks, with as many stars, for example --masks 'masks/*_seg.nii.gz'.",
    ),
    click.option(
        "--channel", metavar="NAME|N",
        help="The channel to use where scans have several, for example --channel FLAIR.",
    ),
    click.option(
        "--patient", metavar="REGEX|COLUMN",
        help="How to find the patient of a scan: a regular expression for its path, for example "
        "--patient '(P[0-9]+)_', or the name of a table's column. Scans of one patient stay in one split.",
    ),
    click.option(
        "--base", type=click.Path(path_type=Path), metavar="FOLDER",
        help="Folder that paths in a list or a table are relative to, if it is not the file's own folder.",
    ),
    click.option(
        "--label", metavar="VALUE=NAME", multiple=True,
        help="Name of a value in the masks, for example --label 1=liver. May be repeated. Values without a "
        "name are then errors.",
    ),
    click.option(
        "--modality", type=click.Choice(["CT", "MR", "US"]),
        help="Modality of all scans, if neither the files nor a list name it.",
    ),
    click.option(
        "--fold", type=int, metavar="N", help="Fold of a MONAI data list that is for validation.",
    ),
)  # fmt: skip
_path = click.argument("path", type=click.Path(path_type=Path))
_workers = click.option(
    "--workers", type=click.IntRange(min=1), default=os.cpu_count() or 1, show_default=True,
    help="Number of processes that read scans.",
)  # fmt: skip


@data.command(cls=WindowCommand)
@_path
@heading("Output")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path),
    help="Folder to write report.html, report.json and pictures into.",
)  # fmt: skip
@_source
@heading("Volume")
@plane_option
@window_option
@heading("Work")
@click.option(
    "--min-area", type=click.IntRange(min=1), default=12, show_default=True, metavar="N",
    help="Warn about objects with fewer pixels in their largest slice.",
)  # fmt: skip
@_workers
@json_option
@click.pass_context
def check(
    ctx: click.Context,
    path: Path,
    output: Path | None,
    source: Source,
    plane: str | None,
    window: str | tuple[float, float] | None,
    min_area: int,
    workers: int,
    as_json: bool,
) -> None:
    """Check the data set PATH before you train on it.

    Checks grids, masks, labels, intensities, duplicates, and patients who are in two splits. A bad scan does
    not stop the check. The exit code is 1 if there are errors; warnings do not count.

    Example: medsam2 data check scans/ -o report
    """
    from medsam2.reports.page import make_folder
    from medsam2.training.datasets.checking import CheckLimits, check_scans
    from medsam2.training.datasets.contents import check_window
    from medsam2.training.datasets.report import as_json as facts_of
    from medsam2.training.datasets.report import write_report
    from medsam2.training.datasets.summary import summarise

    check_window(window)
    found = _read(source, path)
    if output is not None:
        make_folder(output)  # before the work is done
    limits = CheckLimits(smallest_area=min_area, plane=plane)
    cases = list(with_progress(check_scans(found.scans, limits, workers), "checking", len(found.scans)))
    report = summarise(found, cases)
    page = None if output is None else write_report(report, found, output, plane=plane, window=window)
    if as_json:
        click.echo(json.dumps(facts_of(report)))
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
    "-o", "--output", type=click.Path(path_type=Path),
    help="Folder of the data set for training, the same as OUT. Scans that are in it already are not "
    "prepared again.",
)  # fmt: skip
@_source
@heading("Volume")
@plane_option
@window_option
@heading("Stacks")
@click.option("--components", is_flag=True, help="Make each connected piece of a label an object of its own.")
@click.option(
    "--min-area", type=click.IntRange(min=1), metavar="N",
    show_default="12; 20 for a table with a column kind",
    help="Leave out objects that have fewer pixels in their largest slice.",
)  # fmt: skip
@click.option(
    "--max-mib", type=float, default=16.0, show_default=True, metavar="N",
    help="Largest size of a file in MiB. Larger scans are cropped around their objects.",
)  # fmt: skip
@click.option(
    "--shares", type=float, nargs=3, metavar="TRAIN VALIDATION TEST",
    show_default="0.8 0.2 0; a fixed eighth to validate on for a table with a column kind",
    help="How to share the patients that the data set puts into no split, for example --shares 0.7 0.2 0.1.",
)  # fmt: skip
@click.option("--seed", type=int, metavar="N", help="Seed of the random split by --shares.")
@heading("Work")
@_workers
@json_option
@click.pass_context
def prepare(
    ctx: click.Context,
    path: Path,
    out: Path | None,
    output: Path | None,
    source: Source,
    plane: str | None,
    window: str | tuple[float, float] | None,
    components: bool,
    min_area: int | None,
    max_mib: float,
    shares: tuple[float, float, float] | None,
    seed: int | None,
    workers: int,
    as_json: bool,
) -> None:
    """Cut the data set PATH into stacks for training, in the folder OUT.

    Each scan becomes 8-bit stacks of slices with numbered objects, for `medsam2 train --stacks OUT`. Scans
    are split by patient. Scans for testing are listed, but no stacks are made of them. A scan that fails does
    not stop the rest; the exit code is then 1.

    A table with a column kind (volume, still or video) may give each scan its window and slicing axis, and
    name its labels, data set and patient. Such scans are cropped around their objects. A CT gives stacks in
    three windows, and a volume with nearly cubic voxels is cut along all three axes.

    Example: medsam2 data prepare scans/ -o stacks --window -160 240
    """
    from medsam2.training.datasets.prepare import PrepareOptions
    from medsam2.training.datasets.prepare import prepare as fill

    folder = _one_folder(out, output)
    if not max_mib > 0 or max_mib > 2**20:
        raise InputError(f"--max-mib is a number of MiB above 0, not {max_mib:g}")
    options = PrepareOptions(
        window=window, plane=plane, pieces=components, smallest_area=min_area, file_bytes=int(max_mib * _MIB)
    )
    found = _read(source, path)
    for sentence in found.row_errors.values():
        say(f"a row is left out: {sentence}")
    splits = _split(found, shares, seed)
    num_scans = sum(len(splits[name]) for name in ("train", "validation"))
    cases = list(with_progress(fill(splits, folder, options, workers), "preparing", num_scans))
    failed = {f"row {number}": sentence for number, sentence in found.row_errors.items()}
    for case in cases:
        if case.error is not None:
            failed[case.name] = case.error
            say(f"{case.name} is left out: {case.error}")
    patients = {name: len({scan.patient for scan in part}) for name, part in splits.items()}
    facts = _stack_facts(folder, cases, patients) | {"failed": failed}
    if as_json:
        click.echo(json.dumps(facts))
    else:
        say(
            f"{facts['train_files']} stacks to train on, {facts['validation_files']} to validate on, "
            f"{facts['objects']} objects ({facts['left_out']} left out as too small)"
        )
        click.echo(folder)
    if failed:
        ctx.exit(EXIT_FAILED)


def _one_folder(out: Path | None, output: Path | None) -> Path:
    """Return the folder that was given as OUT or by -o."""
    if out is not None and output is not None:
        raise click.UsageError(f"give the folder once, not as {out} and by -o {output}")
    folder = out or output
    if folder is None:
        raise click.UsageError("Missing option '-o' or a second argument: the folder of the stacks")
    return folder


def _split(found: DataSet, shares: tuple[float, float, float] | None, seed: int | None) -> Splits:
    """Split the scans by patient, as the options say or as this kind of data set is split."""
    from medsam2.training.datasets.splits import DEFAULT_SHARES, split_by_fixed_eighth, split_by_patient

    if shares is None and seed is None and all(scan.row is not None for scan in found.scans):
        return split_by_fixed_eighth(found.scans)
    return split_by_patient(found.scans, shares or DEFAULT_SHARES, seed or 0)


def _read(source: Source, path: Path) -> DataSet:
    """List the data set as the options say."""
    from medsam2.training.datasets.layouts import read_data_set
    from medsam2.training.datasets.scan import ReadOptions

    options = ReadOptions(
        channel=source.channel, images=source.images, masks=source.masks, base=source.base,
        patient=source.patient, modality=source.modality, fold=source.fold,
        labels=dict(_parse_label(text) for text in source.label),
    )  # fmt: skip
    return read_data_set(path, source.format, options)


def _parse_label(text: str) -> tuple[int, str]:
    value, separator, name = text.partition("=")
    if not separator or not value.strip().isdecimal() or int(value) == 0 or not name.strip():
        raise InputError(f"a label is a number above 0 and a name, for example 1=liver, not {text!r}")
    return int(value), name.strip()


def _stack_facts(folder: Path, cases: list[PreparedCase], patients: dict[str, int]) -> dict[str, object]:
    return {
        "bank": str(folder),  # see `stack_files.FORMER_NAME`
        "patients": patients,
        "train_files": sum(len(case.files) for case in cases if case.split == "train"),
        "validation_files": sum(len(case.files) for case in cases if case.split == "validation"),
        "objects": sum(len(names) for case in cases for names in case.objects),
        "left_out": sum(case.num_left_out for case in cases),
    }


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
