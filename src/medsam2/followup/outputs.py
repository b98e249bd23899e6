"""The files of a follow-up: labels, a table, and a page with pictures of each object in both scans."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from medsam2.errors import InputError
from medsam2.followup.findings import COLUMNS, VANISHED, FollowedObject, FollowUp, percent_change
from medsam2.followup.follow import Visits
from medsam2.followup.registration import resampled
from medsam2.imaging.geometry import Cut, slices_along
from medsam2.imaging.intensity import to_uint8
from medsam2.imaging.io import check_output
from medsam2.imaging.outputs.write import check_labels_output, kind_of, write_labels
from medsam2.measure.preview import outline_of
from medsam2.reports.page import Picture, jpeg_picture, render, write_text
from medsam2.reports.tables import Table, number, write_rows

KEPT, CARRIED = (255, 72, 0), (64, 160, 255)
"""Colours of the outlines: the mask of the scan, and the first scan's mask carried over."""
PICTURE_SIDE = 360
VIEW_FACTOR, LEAST_VIEW_MM = 3.0, 40.0
"""Side of a picture over an object's longest diameter, and its least side."""
_Mask = npt.NDArray[np.bool_]


def followed_path(follow_up: Path) -> Path:
    """The label file beside a scan where none is named."""
    name = follow_up.name
    stem = name[: -len(".nii.gz")] if name.lower().endswith(".nii.gz") else follow_up.stem
    return follow_up.with_name(f"{stem}_followed.nii.gz")


def check_places(
    labels: Path, table: Path | None, page: Path | None, inputs: Sequence[Path], follow_up: Path
) -> None:
    """Refuse places that cannot be written to, before anything is read.

    Raises:
        InputError: A file has a wrong ending, cannot be written, is an input, or is named twice.
    """
    if kind_of(labels) == "stl":
        raise InputError(f"{labels}: labels of several objects are not written as .stl; give .nii.gz")
    check_labels_output(labels, None, follow_up)
    named = [labels]
    for path, ending in ((table, ".csv"), (page, ".html")):
        if path is not None:
            if path.suffix.lower() != ending:
                raise InputError(f"{path}: must end in {ending}")
            check_output(path)
            named.append(path)
    read = {path.resolve() for path in inputs}
    for path in named:
        if path.resolve() in read:
            raise InputError(f"{path}: is an input, which is never written over; name another file")
    if len({path.resolve() for path in named}) < len(named):
        raise InputError("two outputs have the same name; give each a file of its own")


def write_outputs(
    found: FollowUp, labels: Path, table: Path | None, page: Path | None, visits: Visits, weights: str
) -> None:
    """Write the labels, and what else is named; earlier files are replaced once the new ones are whole.

    Raises:
        InputError: A file cannot be written.
    """
    present = {
        one.number: one.name for one in found.objects if one.name and (found.labels.array == one.number).any()
    }
    write_labels(found.labels, labels, names=present, source=visits.follow_up, weights=weights)
    if table is not None:
        write_rows(table, COLUMNS, ([_cell(value) for value in row] for row in found.rows()))
    if page is not None:
        write_text(page, render_page(found, visits, weights))


def _cell(value: object) -> object:
    if isinstance(value, float):
        return f"{value:.4f}"
    return "" if value is None else value


def render_page(found: FollowUp, visits: Visits, weights: str) -> str:
    """The page: what changed, a table, and each object in both scans."""
    alignment = found.alignment
    sums = found.totals()
    return render(
        "follow",
        baseline=Path(visits.baseline).name,
        follow_up=Path(visits.follow_up).name,
        weights=weights,
        notes=found.notes,
        table=_table(found),
        total=_total(sums),
        num_counted=int(sums["num_objects"]),
        num_vanished=sum(one.status == VANISHED for one in found.objects),
        has_reader=visits.new is not None,
        registration=Table(
            header=("", "correlation", "mutual information", "overlap"),
            rows=tuple(
                (name, number(one.correlation, 2), number(one.information, 2), f"{one.overlap:.0%}")
                for name, one in (("before", alignment.before), ("after", alignment.after))
            ),
        ),
        motion=(
            f"The baseline was shifted by {alignment.shift_mm:.1f} mm and turned by {alignment.turn_deg:.1f} "
            f"degrees{', then bent' if alignment.is_bent else ', not bent'}."
        ),
        boards=list(_boards(found)),
        exhibits=[_exhibit(found, one) for one in found.objects],
    )


def _table(found: FollowUp) -> Table:
    return Table(
        header=(
            "object", "ml then", "ml now", "change %", "longest mm then", "now", "change %",
            "across it mm then", "now", "note",
        ),
        rows=tuple(
            (
                f"{one.title}: {one.status}",
                *(number(_size(sizes, "volume_ml"), 2) for sizes in (one.then, one.now)),
                _signed(one.volume_change_percent),
                *(number(_size(sizes, "long_mm"), 1) for sizes in (one.then, one.now)),
                _signed(one.long_change_percent),
                *(number(_size(sizes, "short_mm"), 1) for sizes in (one.then, one.now)), "; ".join(one.notes),
            )
            for one in found.objects
        ),
        words=frozenset({"note"}),
        marks=tuple("" if one.status == "followed" and not one.notes else "warning" for one in found.objects),
    )  # fmt: skip


def _size(sizes: object, what: str) -> float | None:
    value = getattr(sizes, what, None)
    return value if isinstance(value, float) else None


def _signed(value: float | None) -> str:
    return number(value, 0) if value is None else f"{value:+.0f}"


def _total(sums: dict[str, float]) -> str:
    parts = []
    for what, unit, digits in (("volume", "ml", 2), ("long", "mm", 1)):
        then, now = (sums[f"{what}_{when}_{unit}"] for when in ("then", "now"))
        name = "volumes" if what == "volume" else "longest diameters"
        parts.append(
            f"sum of {name} {then:.{digits}f} to {now:.{digits}f} {unit} "
            f"({_signed(percent_change(then, now))} %)"
        )
    return ", ".join(parts)


def _exhibit(found: FollowUp, one: FollowedObject) -> dict[str, object]:
    """An object's largest slice in each scan."""
    side = max(LEAST_VIEW_MM, VIEW_FACTOR * max(s.long_mm for s in (one.then, one.now) if s is not None))
    pictures = []
    if one.then is not None:
        mask = found.masks_then[one.number]
        pictures.append(_picture(found, 0, [(mask, KEPT)], mask, side, "Baseline"))
    kept, carried = found.labels.array == one.number, found.carried.get(one.number)
    around = kept if kept.any() else carried
    if around is not None and around.any():
        drawn = [(carried, CARRIED)] if carried is not None else []
        pictures.append(_picture(found, 1, [*drawn, (kept, KEPT)], around, side, "Follow-up"))
    return {"title": f"{one.title}: {one.status}", "notes": one.notes, "pictures": pictures}


def _picture(
    found: FollowUp, which: int, outlines: Sequence[tuple[_Mask, tuple[int, int, int]]], around: _Mask,
    side_mm: float, name: str,
) -> Picture:  # fmt: skip
    """A square of a scan around the middle of a mask's largest slice, with outlines."""
    volume, cut = (found.first, found.second)[which], found.cuts[which]
    axis = cut.axis
    slices = slices_along(around, axis)
    index = int(slices.sum(axis=(1, 2)).argmax())
    width_mm, height_mm = (step for place, step in enumerate(volume.spacing) if place != axis)
    rows, columns = np.nonzero(slices[index])
    part = tuple(
        slice(max(0, round(middle - side_mm / 2 / step)), max(2, round(middle + side_mm / 2 / step)))
        for middle, step in (
            ((rows.min() + rows.max()) / 2, height_mm),
            ((columns.min() + columns.max()) / 2, width_mm),
        )
    )
    grey = to_uint8(slices_along(volume.array, axis)[index][part], found.windows[which])
    drawn = _outlined(
        grey,
        [(slices_along(mask, axis)[index][part], colour) for mask, colour in outlines],
        (width_mm, height_mm),
        cut,
    )
    return jpeg_picture(drawn, f"{name}, slice {index}")


def _outlined(
    grey: npt.NDArray[np.uint8],
    outlines: Sequence[tuple[_Mask, tuple[int, int, int]]],
    pixel_mm: tuple[float, float],
    cut: Cut,
) -> Image.Image:
    """A part of a slice as radiologists see it, with outlines in it."""
    pixel_mm = (pixel_mm[1], pixel_mm[0]) if cut.swaps_xy else pixel_mm
    grey = np.ascontiguousarray(cut.show(grey))
    height, width = grey.shape
    scale = PICTURE_SIDE / max(height * pixel_mm[1], width * pixel_mm[0])
    size = (max(1, round(width * pixel_mm[0] * scale)), max(1, round(height * pixel_mm[1] * scale)))
    large = np.asarray(Image.fromarray(grey).resize(size, Image.Resampling.BICUBIC))
    colours = np.repeat(large[:, :, None], 3, axis=2)
    for mask, colour in outlines:
        colours[outline_of(cut.show(mask), size)] = colour
    return Image.fromarray(colours)


def _boards(found: FollowUp) -> Iterator[Picture]:
    """Both scans as fields of a chessboard, where edges must go on from field to field."""
    cut = found.cuts[1]
    axis = cut.axis
    width_mm, height_mm = (step for place, step in enumerate(found.second.spacing) if place != axis)
    carried = [mask for mask in found.carried.values() if mask.any()]
    areas = sum(slices_along(mask, axis).sum(axis=(1, 2)) for mask in carried)
    index = int(np.argmax(areas))
    now = to_uint8(slices_along(found.second.array, axis)[index], found.windows[1])
    outside = found.windows[0].lower
    for name, image in (
        ("Before registration", resampled(found.first, found.second, None, outside)),
        ("After registration", resampled(found.first, found.second, found.alignment.transform, outside)),
    ):
        then = to_uint8(slices_along(image, axis)[index], found.windows[0])
        rows, columns = np.indices(now.shape)
        field = max(now.shape[0] * height_mm, now.shape[1] * width_mm) / 8
        is_then = ((rows * height_mm // field) + (columns * width_mm // field)) % 2 == 0
        board = _outlined(np.where(is_then, then, now), [], (width_mm, height_mm), cut)
        yield jpeg_picture(board, f"{name}: baseline and follow-up in turns, slice {index} of the follow-up")
