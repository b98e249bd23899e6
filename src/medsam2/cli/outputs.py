"""The files that a segmentation writes: labels, a file for each object, pictures, measurements."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from medsam2.cli.options import grouped, heading
from medsam2.errors import InputError

if TYPE_CHECKING:
    from medsam2.imaging.dicom.header import Source
    from medsam2.imaging.volume import Volume
    from medsam2.inference.job import Job, Outcome

KINDS = ("nifti", "nrrd", "seg.nrrd", "mha", "dicom-seg", "rtstruct", "stl", "npz")
MAX_NAME_LENGTH = 60  # characters of an object's name in a file's


@dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """The options as they are given."""

    output: Path | None
    output_type: str | None
    source: Path | None
    per_object: bool
    preview: Path | None
    statistics: Path | None
    report: Path | None


output_options = grouped(
    "outputs",
    OutputOptions,
    heading("Output"),
    click.option(
        "-o", "--output", type=click.Path(path_type=Path), help="Mask; IMAGE_mask.nii.gz if not given."
    ),
    click.option(
        "--output-type", type=click.Choice(KINDS),
        help="File format of the mask; taken from the end of its name if not given.",
    ),
    click.option(
        "--source", type=click.Path(path_type=Path), metavar="SERIES",
        help="DICOM series that dicom-seg and rtstruct refer to; IMAGE if not given.",
    ),
    click.option(
        "--per-object", is_flag=True,
        help="Also write a file for each object, with overlaps: MASK_NAME or MASK_NUMBER.",
    ),
    click.option(
        "--preview", type=click.Path(path_type=Path),
        help="Also write a picture (PNG) of the first object; with --per-object, one of each.",
    ),
    click.option(
        "--statistics", type=click.Path(path_type=Path), metavar="FILE",
        help="Also measure each object: volume, diameters, surface, intensities; .json or .csv.",
    ),
    click.option(
        "--report", type=click.Path(path_type=Path), metavar="FILE",
        help="Also write how the mask was made, as .json: versions, weights, files, prompts, time.",
    ),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class OutputPlan:
    """Every file that will be written, known before the work."""

    options: OutputOptions
    mask: Path
    masks: Mapping[int, Path]
    """By object number, empty without `--per-object`."""
    pictures: Mapping[int, Path]


def mask_path(options: OutputOptions, image: Path) -> Path:
    """Choose the label file: the one named, or one beside the image."""
    from medsam2.imaging.outputs.write import SUFFIXES

    if options.output is not None:
        return options.output
    stem, _ = _split(image)
    return image.with_name(f"{stem}_mask{SUFFIXES[options.output_type or 'nifti'][0]}")


def source_series(options: OutputOptions, job: Job, volume: Volume) -> Source | None:
    """Find the DICOM series that a mask refers to, in the order of its slices; None if it refers to none.

    Args:
        options: As they are given.
        job: What is segmented; its frame is the source's as well.
        volume: The image; that the source fits it is known before the work.

    Raises:
        InputError: There is no such series, it cannot be read, or it is not that of the image.
    """
    from io import BytesIO

    from pydicom import dcmread

    from medsam2.imaging.dicom.read import series_files
    from medsam2.imaging.outputs.dicom_source import match
    from medsam2.imaging.outputs.write import NEEDS_SOURCE, kind_of

    image = job.image
    assert isinstance(image, Path)
    if kind_of(mask_path(options, image), options.output_type) not in NEEDS_SOURCE:
        return None
    files = series_files(options.source or image, None if options.source else job.series, frame=job.frame)
    source = [dcmread(BytesIO(one)) if isinstance(one, bytes) else one for one in files]
    try:
        match(source, volume)
    except InputError as error:
        raise type(error)(str(error).replace("the source", str(options.source or image), 1)) from error
    return source


def check_places(options: OutputOptions, image: Path) -> None:
    """Refuse places that cannot be written to, or that two files would share, before anything is read.

    Raises:
        InputError: See `imaging.outputs.write.check_labels_output`, or a picture is no PNG, or see above.
    """
    from medsam2.imaging.io import check_output
    from medsam2.imaging.outputs.mesh import require_skimage
    from medsam2.imaging.outputs.write import check_labels_output, kind_of

    mask = mask_path(options, image)
    check_labels_output(mask, options.output_type, options.source or image)
    if options.per_object and kind_of(mask, options.output_type) == "stl":
        raise InputError("an STL file holds one object anyway; leave out --per-object")
    if options.statistics is not None:
        require_skimage()
    others = {
        "--statistics": (options.statistics, (".json", ".csv")),
        "--report": (options.report, (".json",)),
        "--preview": (options.preview, (".png",)),
    }
    named = {"the mask": mask}
    for option, (path, endings) in others.items():
        if path is not None:
            if path.suffix.lower() not in endings:
                raise InputError(f"{path}: must end in {' or '.join(endings)}")
            check_output(path)
            named[option] = path
    _check_apart(named)


def plan_outputs(
    options: OutputOptions, image: Path, names: Mapping[int, str | None], inputs: Iterable[Path]
) -> OutputPlan:
    """Name every file that will be written.

    Args:
        options: As they are given.
        image: What is segmented.
        names: Object number to name, or to None.
        inputs: Files that were read, and must stay.

    Raises:
        InputError: One of them is a file that was read, or two are the same file.
    """
    mask = mask_path(options, image)
    masks = _named(mask, names) if options.per_object else {}
    pictures: dict[int, Path] = {}
    if options.preview is not None:
        first = next(iter(names))
        is_each = options.per_object and len(names) > 1
        pictures = _named(options.preview, names) if is_each else {first: options.preview}
    tables = {"--statistics": options.statistics, "--report": options.report}
    read = {path.resolve() for path in inputs}
    for path in (mask, *masks.values(), *pictures.values(), *tables.values()):
        if path is not None and path.resolve() in read:
            raise InputError(f"{path}: is an input, which is never written over; name another file with -o")
    titles = {number: name or f"object {number}" for number, name in names.items()}
    _check_apart(
        {
            "the mask": mask,
            **{f"the mask of {number}, {titles[number]}": path for number, path in masks.items()},
            **{f"the picture of {number}, {titles[number]}": path for number, path in pictures.items()},
            **{option: path for option, path in tables.items() if path is not None},
        }
    )
    return OutputPlan(options=options, mask=mask, masks=masks, pictures=pictures)


def _check_apart(named: Mapping[str, Path]) -> None:
    """Refuse two outputs in one file, of which only the last would be left."""
    places: dict[Path, str] = {}
    for what, path in named.items():
        other = places.setdefault(path.resolve(), what)
        if other != what:
            raise InputError(f"{path}: is named for {other} and for {what}; give each a file of its own")


def write_outputs(outcome: Outcome, plan: OutputPlan, source: Source | None, weights: str) -> list[Path]:
    """Write everything but the report: the place to add another kind of output to.

    Args:
        outcome: What was segmented.
        plan: Where to.
        source: The DICOM series that the mask refers to, if it refers to one.
        weights: Their name.

    Returns:
        The files that were written.

    Raises:
        InputError: A file cannot be written; those before it are there, each whole.
    """
    from medsam2.imaging.outputs.write import write_labels
    from medsam2.measure.preview import write_preview
    from medsam2.measure.sizes import measure_objects, write_statistics

    session, labels, kind = outcome.session, outcome.labels, plan.options.output_type
    given = {number: name for number, name in outcome.names.items() if name is not None}
    written = list(write_labels(labels, plan.mask, kind=kind, names=given, source=source, weights=weights))
    for number, path in plan.masks.items():
        own = {number: given[number]} if number in given else {}
        alone = session.result(number)
        written += write_labels(alone, path, kind=kind, names=own, source=source, weights=weights)
    for number, path in plan.pictures.items():
        write_preview(session.object(number).picture(), path)
        written.append(path)
    if plan.options.statistics is not None:
        measured = measure_objects(labels, session.grid.volume, names=given, axis=session.grid.axis)
        write_statistics(measured, plan.options.statistics)
        written.append(plan.options.statistics)
    return written


def _named(path: Path, names: Mapping[int, str | None]) -> dict[int, Path]:
    """Give each object a file beside another: by its name made safe, or by its number."""
    stem, suffix = _split(path)
    safe = {number: _safe(name) for number, name in names.items()}
    # Some file systems take Liver and liver for the same file.
    folded = [name.casefold() for name in safe.values()]
    parts = {
        number: name if folded.count(name.casefold()) == 1 else f"{number}_{name}"
        for number, name in safe.items()
    }
    parts |= {number: str(number) for number, name in safe.items() if not name}
    return {number: path.with_name(f"{stem}_{part}{suffix}") for number, part in parts.items()}


def _safe(name: str | None) -> str:
    """A name as part of a file's: letters, digits, point, hyphen and underscore of it."""
    safe = re.sub(r"[^\w.-]+", "_", name or "")[:MAX_NAME_LENGTH].strip("._-")
    return f"object_{safe}" if safe.isdigit() else safe


def _split(path: Path) -> tuple[str, str]:
    """A file's name without its suffix, and the suffix; .nii.gz is one."""
    for suffix in (".nii.gz", path.suffix):
        if suffix and path.name.lower().endswith(suffix.lower()):
            return path.name[: -len(suffix)], path.name[-len(suffix) :]
    return path.name, ""
