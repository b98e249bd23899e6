"""Write what a check has found: JSON for machines, one page with pictures for people."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from medsam2.errors import InputError
from medsam2.imaging.geometry import slices_along
from medsam2.imaging.intensity import to_uint8
from medsam2.imaging.volume import match_order
from medsam2.measure.preview import draw_preview, outline_of, write_preview
from medsam2.reports.page import Picture, make_folder, png_picture, write_page, write_text
from medsam2.reports.tables import Table
from medsam2.training.datasets.contents import read_image, read_mask, whole_numbers, window_of
from medsam2.training.datasets.objects import slice_axis
from medsam2.training.datasets.scan import DataSet, LabelledScan
from medsam2.training.datasets.summary import Range, SetReport

RECORD, SHEET = "report.json", "contact_sheet.png"
NUM_PREVIEWS = 6
NUM_TILES = 36
TILE_SIDE = 192
_COLUMNS = 6
_MARGIN = 4
_COLOURS = (
    (255, 72, 0), (64, 220, 90), (70, 160, 255), (255, 214, 0),
    (230, 90, 230), (0, 220, 220), (255, 150, 150), (170, 255, 120),
)  # fmt: skip


def draw_case(
    scan: LabelledScan, *, plane: str | None, window: str | tuple[float, float] | None
) -> tuple[Image.Image, Image.Image]:
    """Draw a scan whose mask lies on its grid.

    Args:
        scan: With at least one labelled voxel.
        plane: Of the slices; the file's third axis if not given.
        window: Of the intensities; chosen by modality if not given.

    Returns:
        The slice with most labelled pixels and slices through the labelled part, outlined as one; and a small
        picture of that slice in which each label has a colour.

    Raises:
        InputError: The scan cannot be read, or shows nothing.
    """
    image = read_image(scan)
    axis = slice_axis(image, plane, scan.row)
    labels = slices_along(whole_numbers(match_order(read_mask(scan), image)), axis)
    limits = window_of(scan, image, window)
    slices = slices_along(image.array, axis)
    inside = (labels != 0) & ~np.isin(labels, sorted(scan.ignored))
    key = int(inside.sum(axis=(1, 2)).argmax())
    x_mm, y_mm = (step for number, step in enumerate(image.spacing) if number != axis)
    aspect = y_mm / x_mm
    preview = draw_preview(lambda z: to_uint8(slices[z], limits), inside, key, aspect=aspect)
    return preview, _draw_tile(to_uint8(slices[key], limits), np.where(inside[key], labels[key], 0), aspect)


def _draw_tile(grey: np.ndarray, labels: np.ndarray, aspect: float) -> Image.Image:
    """Scale a slice to the size of a tile and outline each label.

    Args:
        grey: uint8, (y, x).
        labels: Whole numbers of the same shape; 0 is not outlined.
        aspect: Height of a pixel, in widths of a pixel.
    """
    height, width = grey.shape[0] * aspect, grey.shape[1]
    scale = TILE_SIDE / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    colours = np.array(Image.fromarray(grey).resize(size, Image.Resampling.BICUBIC).convert("RGB"))
    for number, value in enumerate(np.unique(labels[labels > 0])):
        colours[outline_of(labels == value, size)] = _COLOURS[number % len(_COLOURS)]
    return Image.fromarray(colours)


def _contact_sheet(tiles: Sequence[Image.Image]) -> Image.Image:
    """Put tiles in rows, numbered from 1."""
    columns = max(1, min(_COLUMNS, len(tiles)))
    rows = -(-len(tiles) // columns)
    step = TILE_SIDE + _MARGIN
    sheet = Image.new("RGB", (columns * step - _MARGIN, max(1, rows * step - _MARGIN)))
    draw = ImageDraw.Draw(sheet)
    for number, tile in enumerate(tiles):
        x, y = number % columns * step, number // columns * step
        sheet.paste(tile, (x + (TILE_SIDE - tile.width) // 2, y + (TILE_SIDE - tile.height) // 2))
        draw.text((x + 4, y + 2), str(number + 1), (255, 255, 255), stroke_width=1, stroke_fill=(0, 0, 0))
    return sheet


def as_json(report: SetReport) -> dict[str, object]:
    """Return a report as values that JSON knows; names of cases and patients are in it."""
    content = dataclasses.asdict(report)
    return {"errors": report.num_errors, "warnings": report.num_warnings, **content}


def write_report(
    report: SetReport,
    data: DataSet,
    folder: Path,
    *,
    plane: str | None = None,
    window: str | tuple[float, float] | None = None,
) -> Path:
    """Write report.html, report.json and pictures; earlier files of the same names are replaced.

    Args:
        report: Of the check.
        data: The data set that was checked; some of its scans are opened again to be drawn.
        folder: Where to write; it is made if it is not there.
        plane: Of the slices that are drawn; the file's third axis if not given.
        window: Of the intensities; chosen by modality if not given.

    Returns:
        The page, which holds the pictures as well.

    Raises:
        InputError: A file cannot be written.
    """
    make_folder(folder)
    pictures = [
        png_picture((folder / file).read_bytes(), caption)
        for file, caption in _draw(report, data, folder, plane, window)
    ]
    write_text(folder / RECORD, json.dumps(as_json(report), indent=1) + "\n")
    return _write_page(report, pictures, folder)


def _draw(
    report: SetReport,
    data: DataSet,
    folder: Path,
    plane: str | None,
    window: str | tuple[float, float] | None,
) -> Iterator[tuple[str, str]]:
    """Write pictures of cases spread over the data set, and yield the file and the caption of each."""
    drawable = [
        scan
        for scan, case in zip(data.scans, report.cases, strict=True)
        if case.is_paired and case.labels and not any(f.code.startswith("image-") for f in case.findings)
    ]
    tiles: list[Image.Image] = []
    names: list[str] = []
    chosen = _evenly(len(drawable), NUM_TILES)
    with_preview = {chosen[place] for place in _evenly(len(chosen), NUM_PREVIEWS)}
    num_previews = 0
    for place in chosen:
        scan = drawable[place]
        try:
            preview, tile = draw_case(scan, plane=plane, window=window)
        except InputError:
            continue  # the reason is a finding already, or the window is not for this scan
        tiles.append(tile)
        names.append(scan.name)
        if place in with_preview:
            num_previews += 1
            file = f"case_{num_previews}.png"  # a number, since the name may be a patient's
            write_preview(preview, folder / file)
            yield file, scan.name
    if tiles:
        write_preview(_contact_sheet(tiles), folder / SHEET)
        yield SHEET, ", ".join(f"{number} {name}" for number, name in enumerate(names, start=1))


def _evenly(count: int, at_most: int) -> list[int]:
    return sorted({int(place) for place in np.linspace(0, count - 1, min(count, at_most)).round()})


def _write_page(report: SetReport, pictures: list[Picture], folder: Path) -> Path:
    return write_page(
        folder,
        "dataset",
        name=Path(report.root).name,
        verdict=(
            f"{report.num_cases} cases of {report.num_patients} patients, kept as {report.layout}: "
            f"{report.num_errors} errors, {report.num_warnings} warnings"
        ),
        overview=_overview(report),
        labels=Table(
            header=("value", "name", "cases", "smallest ml", "median ml", "largest ml"),
            rows=tuple(
                (str(label.value), label.name, str(label.num_cases), *(f"{v:.4g}" for v in label.volume_ml))
                for label in report.labels
            ),
            words=frozenset({"name"}),
        ),
        findings=_findings(report),
        pictures=pictures,
        cases=_cases(report),
    )


def _overview(report: SetReport) -> dict[str, str]:
    facts = {"splits": _counts(report.splits) or "none named", "modalities": _counts(report.modalities)}
    for name, ranges in (("spacing mm", report.spacing_mm), ("size", report.size_voxels)):
        if ranges is not None:
            facts |= {f"{name} {axis}": _shown(one) for axis, one in zip("xyz", ranges, strict=True)}
    return facts | {f"intensity, percentile {name}": _shown(one) for name, one in report.intensities.items()}


def _findings(report: SetReport) -> Table | None:
    found = sorted(report.findings, key=lambda finding: finding.severity)
    if not found:
        return None
    return Table(
        header=("severity", "kind", "case", "what"),
        rows=tuple((one.severity, one.code, one.case or "", one.text) for one in found),
        words=frozenset({"kind", "case", "what"}),
        marks=tuple(one.severity for one in found),
    )


def _cases(report: SetReport) -> Table:
    header = ("case", "patient", "split", "size x y z", "spacing mm", "axes", "type", "labels")
    rows = tuple(
        (
            case.name, case.patient, case.split or "",
            "" if case.shape is None else " x ".join(str(n) for n in case.shape[::-1]),
            "" if case.spacing_mm is None else " x ".join(f"{step:.3g}" for step in case.spacing_mm),
            case.orientation or "", case.dtype or "", ", ".join(str(facts.value) for facts in case.labels),
        )
        for case in report.cases
    )  # fmt: skip
    return Table(header=header, rows=rows, words=frozenset(header))


def _shown(values: Range) -> str:
    lowest, middle, highest = values
    return f"{lowest:.4g}" if lowest == highest else f"{lowest:.4g} to {highest:.4g}, median {middle:.4g}"


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())
