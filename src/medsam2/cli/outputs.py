"""What a segmentation leaves behind: the label file, a file for each object, pictures."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from medsam2.cli.grouped import grouped
from medsam2.errors import InputError

if TYPE_CHECKING:
    from medsam2.inference.session import Session

DEFAULT_SUFFIX = ".nii.gz"
MAX_NAME_LENGTH = 60  # characters of an object's name in a file's


@dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """The options as they are given."""

    output: Path | None
    per_object: bool
    preview: Path | None


output_options = grouped(
    "outputs",
    OutputOptions,
    click.option(
        "-o", "--output", type=click.Path(path_type=Path), help="Mask; IMAGE_mask.nii.gz if not given."
    ),
    click.option(
        "--per-object", is_flag=True,
        help="Also write each object by itself, overlaps included: MASK_NAME or MASK_NUMBER.",
    ),
    click.option(
        "--preview", type=click.Path(path_type=Path),
        help="Also write a picture (PNG), of the first object or with --per-object of each.",
    ),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class OutputPlan:
    """Every file that will be written, known before the work."""

    mask: Path
    masks: Mapping[int, Path]
    """By object number, empty without `--per-object`."""
    pictures: Mapping[int, Path]


def mask_path(options: OutputOptions, image: Path) -> Path:
    """Choose the label file: the one named, or one beside the image."""
    if options.output is not None:
        return options.output
    stem, _ = _split(image)
    return image.with_name(f"{stem}_mask{DEFAULT_SUFFIX}")


def check_places(options: OutputOptions, image: Path) -> None:
    """Refuse places that cannot be written to, before anything is read.

    Raises:
        InputError: See `imaging.io.check_mask_output`.
    """
    from medsam2.imaging.io import check_mask_output, check_output

    check_mask_output(mask_path(options, image))
    if options.preview is not None:
        check_output(options.preview)


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
        InputError: One of them is a file that was read.
    """
    mask = mask_path(options, image)
    masks = _named(mask, names) if options.per_object else {}
    pictures: dict[int, Path] = {}
    if options.preview is not None:
        first = next(iter(names))
        is_each = options.per_object and len(names) > 1
        pictures = _named(options.preview, names) if is_each else {first: options.preview}
    taken = {path.resolve() for path in inputs}
    for path in (mask, *masks.values(), *pictures.values()):
        if path.resolve() in taken:
            raise InputError(f"{path}: is an input, which is never written over; name another file with -o")
    return OutputPlan(mask=mask, masks=masks, pictures=pictures)


def write_outputs(session: Session, plan: OutputPlan) -> None:
    """Write everything: the place to add another kind of output to.

    Raises:
        InputError: A file cannot be written; those before it are there, each whole.
    """
    from medsam2.imaging.io import write
    from medsam2.imaging.preview import write_preview

    write(session.result(), plan.mask)
    for number, path in plan.masks.items():
        write(session.result(number), path)
    for number, path in plan.pictures.items():
        write_preview(session.picture(number), path)


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
