"""Write what a check has found: JSON for machines, one page with pictures for people."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from medsam2.errors import InputError
from medsam2.imaging.geometry import slices_along
from medsam2.imaging.intensity import to_uint8
from medsam2.imaging.replacing import replacing
from medsam2.imaging.volume import match_order
from medsam2.measure.preview import draw_preview, write_preview
from medsam2.training.datasets.contents import read_image, read_mask, whole_numbers, window_of
from medsam2.training.datasets.objects import slice_axis
from medsam2.training.datasets.scan import DataSet, LabelledScan
from medsam2.training.datasets.summary import Range, SetReport

TILE_SIDE = 192
COLUMNS = 6
MARGIN = 4
COLOURS = (
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
    return preview, _tile(to_uint8(slices[key], limits), np.where(inside[key], labels[key], 0), aspect)


def contact_sheet(tiles: Sequence[Image.Image]) -> Image.Image:
    """Put small pictures in rows, numbered from 1."""
    columns = max(1, min(COLUMNS, len(tiles)))
    rows = -(-len(tiles) // columns)
    step = TILE_SIDE + MARGIN
    sheet = Image.new("RGB", (columns * step - MARGIN, max(1, rows * step - MARGIN)))
    draw = ImageDraw.Draw(sheet)
    for number, tile in enumerate(tiles):
        x, y = number % columns * step, number // columns * step
        sheet.paste(tile, (x + (TILE_SIDE - tile.width) // 2, y + (TILE_SIDE - tile.height) // 2))
        draw.text((x + 4, y + 2), str(number + 1), (255, 255, 255), stroke_width=1, stroke_fill=(0, 0, 0))
    return sheet


def _tile(grey: np.ndarray, labels: np.ndarray, aspect: float) -> Image.Image:
    """Bring a slice to the size of a tile and outline each label there, so that lines stay thin."""
    height, width = grey.shape[0] * aspect, grey.shape[1]
    scale = TILE_SIDE / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    colours = np.array(Image.fromarray(grey).resize(size, Image.Resampling.BICUBIC).convert("RGB"))
    for number, value in enumerate(np.unique(labels[labels > 0])):
        mask = Image.fromarray((labels == value).astype(np.uint8) * 255)
        inside = np.asarray(mask.resize(size, Image.Resampling.BILINEAR)) > 127
        edge = inside & ~ndimage.binary_erosion(inside, border_value=0)
        colours[edge] = COLOURS[number % len(COLOURS)]
    return Image.fromarray(colours)


PAGE, RECORD, SHEET = "report.html", "report.json", "contact_sheet.png"
NUM_PREVIEWS = 6
NUM_TILES = 36

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #222; margin: 2rem auto; max-width: 72rem }
table { border-collapse: collapse; margin: .5rem 0 1.5rem }
th, td { padding: .2rem .8rem .2rem 0; text-align: left; vertical-align: top }
th { border-bottom: 1px solid #999 } td.n, th.n { text-align: right }
.error { color: #b00020 } .warning { color: #8a5a00 } .good { color: #1b6e2c }
figure { display: inline-block; margin: 0 1rem 1rem 0; vertical-align: top } img { max-width: 100% }
"""


def as_json(report: SetReport) -> dict[str, object]:
    """Return a report as values that JSON knows; names of cases and patients are in it."""
    content = dataclasses.asdict(report)
    return {"errors": report.num_errors, "warnings": report.num_warnings, **content}


def check_folder(folder: Path) -> None:
    """Make the report's folder before the work that fills it.

    Raises:
        InputError: It is a file, or cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: no folder can be made here: {error.strerror or error}") from error


def write_report(
    report: SetReport,
    data: DataSet,
    folder: Path,
    *,
    plane: str | None = None,
    window: str | tuple[float, float] | None = None,
) -> Path:
    """Write report.html, report.json and pictures; what was there of the same name is replaced.

    Args:
        report: Of the check.
        data: The data set that was checked; some of its scans are opened again to be drawn.
        folder: Where to write.
        plane: Of the slices that are drawn; the file's third axis if not given.
        window: Of the intensities; chosen by modality if not given.

    Returns:
        The page.

    Raises:
        InputError: A file cannot be written.
    """
    check_folder(folder)
    figures = _draw(report, data, folder, plane, window)
    _write_text(json.dumps(as_json(report), indent=1) + "\n", folder / RECORD)
    _write_text(_page(report, figures), folder / PAGE)
    return folder / PAGE


@dataclasses.dataclass(frozen=True)
class _Figures:
    previews: tuple[tuple[str, str], ...]
    """File and case."""
    sheet: tuple[str, ...]
    """Cases on the contact sheet, in its order."""


def _draw(
    report: SetReport,
    data: DataSet,
    folder: Path,
    plane: str | None,
    window: str | tuple[float, float] | None,
) -> _Figures:
    drawable = [
        scan
        for scan, case in zip(data.scans, report.cases, strict=True)
        if case.is_paired and case.labels and not any(f.code.startswith("image-") for f in case.findings)
    ]
    tiles: list[Image.Image] = []
    previews: list[tuple[str, str]] = []
    shown: list[str] = []
    chosen = _evenly(len(drawable), NUM_TILES)
    with_preview = {chosen[place] for place in _evenly(len(chosen), NUM_PREVIEWS)}
    for place in chosen:
        scan = drawable[place]
        try:
            preview, tile = draw_case(scan, plane=plane, window=window)
        except InputError:
            continue  # its fault is a finding already, or the window is not for this scan
        tiles.append(tile)
        shown.append(scan.name)
        if place in with_preview:
            # Numbers, not names: those may be a patient's.
            name = f"case_{len(previews) + 1}.png"
            write_preview(preview, folder / name)
            previews.append((name, scan.name))
    if tiles:
        write_preview(contact_sheet(tiles), folder / SHEET)
    return _Figures(tuple(previews), tuple(shown))


def _evenly(count: int, at_most: int) -> list[int]:
    return sorted({int(place) for place in np.linspace(0, count - 1, min(count, at_most)).round()})


def _page(report: SetReport, figures: _Figures) -> str:
    parts = [
        f"<h1>Data set {escape(Path(report.root).name)}</h1>",
        f"<p>{escape(_verdict(report))}</p>",
        _table(("", ""), _overview(report)),
        "<h2>Labels</h2>",
        _table(
            ("value", "name", "cases", "smallest ml", "median ml", "largest ml"),
            [
                (str(label.value), label.name, str(label.num_cases), *(f"{v:.4g}" for v in label.volume_ml))
                for label in report.labels
            ],
        ),
        "<h2>What was found</h2>",
        _findings(report),
        "<h2>Pictures</h2>",
        _pictures(figures),
        "<h2>Cases</h2>",
        _table(
            ("case", "patient", "split", "size x y z", "spacing mm", "axes", "type", "labels"), _cases(report)
        ),
    ]
    body = "\n".join(parts)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Data set</title>'
        f"<style>{_STYLE}</style></head><body>\n{body}\n</body></html>\n"
    )


def _verdict(report: SetReport) -> str:
    return (
        f"{report.num_cases} cases of {report.num_patients} patients, kept as {report.layout}: "
        f"{report.num_errors} errors, {report.num_warnings} warnings"
    )


def _overview(report: SetReport) -> list[tuple[str, str]]:
    rows = [("splits", _counts(report.splits) or "none named"), ("modalities", _counts(report.modalities))]
    for name, ranges in (("spacing mm", report.spacing_mm), ("size", report.size_voxels)):
        if ranges is not None:
            rows += [(f"{name} {axis}", _shown(one)) for axis, one in zip("xyz", ranges, strict=True)]
    rows += [(f"intensity, percentile {name}", _shown(one)) for name, one in report.intensities.items()]
    return rows


def _findings(report: SetReport) -> str:
    if not report.findings:
        return '<p class="good">Nothing.</p>'
    rows = "".join(
        f'<tr><td class="{f.severity}">{f.severity}</td><td>{escape(f.code)}</td>'
        f"<td>{escape(f.case or '')}</td><td>{escape(f.text)}</td></tr>"
        for f in sorted(report.findings, key=lambda finding: finding.severity)
    )
    return f"<table><tr><th>severity</th><th>kind</th><th>case</th><th>what</th></tr>{rows}</table>"


def _pictures(figures: _Figures) -> str:
    if not figures.sheet:
        return "<p>No case could be drawn.</p>"
    names = ", ".join(f"{number} {name}" for number, name in enumerate(figures.sheet, start=1))
    return "".join(_figure(*one) for one in (*figures.previews, (SHEET, names)))


def _figure(file: str, caption: str) -> str:
    return f'<figure><img src="{file}" alt=""><figcaption>{escape(caption)}</figcaption></figure>'


def _cases(report: SetReport) -> list[tuple[str, ...]]:
    return [
        (
            case.name, case.patient, case.split or "",
            "" if case.shape is None else " x ".join(str(n) for n in case.shape[::-1]),
            "" if case.spacing_mm is None else " x ".join(f"{step:.3g}" for step in case.spacing_mm),
            case.orientation or "", case.dtype or "", ", ".join(str(facts.value) for facts in case.labels),
        )
        for case in report.cases
    ]  # fmt: skip


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header) if any(header) else ""
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def _shown(values: Range) -> str:
    lowest, middle, highest = values
    return f"{lowest:.4g}" if lowest == highest else f"{lowest:.4g} to {highest:.4g}, median {middle:.4g}"


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def _write_text(text: str, path: Path) -> None:
    with replacing(path, ".part") as temporary:
        temporary.write_text(text, encoding="utf-8")
