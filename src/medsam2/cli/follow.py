"""`medsam2 follow`: yesterday's objects in today's scan, and how they have changed."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from medsam2.cli.messages import say
from medsam2.cli.options import (
    WindowCommand,
    device_option,
    grouped,
    heading,
    json_option,
    memory_option,
    plane_option,
    precision_option,
    runtime_option,
    weights_option,
    window_option,
)
from medsam2.inference.options import InferenceOptions

if TYPE_CHECKING:
    from medsam2.followup.findings import FollowedObject, FollowUp


@dataclass(frozen=True, kw_only=True)
class ObjectOptions:
    """What is followed, as it is given."""

    wanted: Sequence[str]
    drawn_as: str
    new: Path | None


@dataclass(frozen=True, kw_only=True)
class ScanOptions:
    """How the scans are read, registered and segmented, as it is given."""

    window: str | tuple[float, float] | None
    plane: str | None
    series: str | None
    baseline_series: str | None
    is_rigid: bool
    weights: str
    memory: str
    device: str
    precision: str
    runtime: str


@dataclass(frozen=True, kw_only=True)
class FollowOutputs:
    """What is written, as it is given."""

    output: Path | None
    table: Path | None
    page: Path | None


object_options = grouped(
    "objects",
    ObjectOptions,
    heading("Objects"),
    click.option(
        "--mask-label", "wanted", multiple=True, metavar="N|NAME",
        help="Follow only this label of MASK, by value or name. May be repeated.",
    ),
    click.option(
        "--from-mask-as", "drawn_as", type=click.Choice(["mask", "recist"]), default="mask",
        show_default=True,
        help="What a label of MASK shows: the object, or its longest diameter as a line on one slice. An "
        "object of a line is first segmented in BASELINE.",
    ),
    click.option(
        "--new", type=click.Path(path_type=Path), metavar="MASK",
        help="What a reader drew on FOLLOW-UP. Labels that meet no object of MASK are listed as new. Without "
        "it nothing is: this command does not look for new lesions.",
    ),
)  # fmt: skip
scan_options = grouped(
    "scans",
    ScanOptions,
    heading("Scans"),
    window_option,
    plane_option,
    click.option("--series", metavar="N|UID", help="DICOM series of FOLLOW-UP, by number or UID."),
    click.option("--baseline-series", metavar="N|UID", help="DICOM series of BASELINE, by number or UID."),
    click.option(
        "--rigid-only", "is_rigid", is_flag=True,
        help="Turn and shift BASELINE onto FOLLOW-UP, but do not bend it.",
    ),
    heading("Model"),
    weights_option,
    memory_option,
    device_option,
    precision_option,
    runtime_option,
)  # fmt: skip
output_options = grouped(
    "outputs",
    FollowOutputs,
    heading("Output"),
    click.option(
        "-o", "--output", type=click.Path(path_type=Path),
        help="Labels on FOLLOW-UP's grid, with the numbers of MASK; FOLLOW-UP_followed.nii.gz if not given.",
    ),
    click.option(
        "--table", type=click.Path(path_type=Path), metavar="FILE.csv",
        help="Also write volumes and diameters then and now, and their changes in per cent.",
    ),
    click.option(
        "--page", type=click.Path(path_type=Path), metavar="FILE.html",
        help="Also write a page with the table and pictures of each object in both scans.",
    ),
)  # fmt: skip


@click.command(cls=WindowCommand)
@click.argument("baseline", type=click.Path(path_type=Path))
@click.argument("mask", type=click.Path(path_type=Path))
@click.argument("follow_up", type=click.Path(path_type=Path), metavar="FOLLOW-UP")
@object_options
@scan_options
@output_options
@json_option
def follow(
    baseline: Path,
    mask: Path,
    follow_up: Path,
    objects: ObjectOptions,
    scans: ScanOptions,
    outputs: FollowOutputs,
    as_json: bool,
) -> None:
    """Follow the objects of a scan into a later scan.

    MASK shows objects of BASELINE, each with a number. The command registers BASELINE onto FOLLOW-UP, finds
    each object again, and compares volumes and diameters. An object that no longer stands out where it was
    is reported as vanished.

    Example: medsam2 follow january.nii.gz january_mask.nii.gz may.nii.gz --window lung --page change.html
    """
    from medsam2.followup.follow import Visits
    from medsam2.followup.follow import follow as follow_objects
    from medsam2.followup.outputs import check_places, followed_path, write_outputs
    from medsam2.inference.predictor import load

    started = time.perf_counter()
    labels = outputs.output or followed_path(follow_up)
    inputs = [baseline, mask, follow_up, *([] if objects.new is None else [objects.new])]
    check_places(labels, outputs.table, outputs.page, inputs, follow_up)
    visits = Visits(
        baseline=baseline,
        mask=mask,
        follow_up=follow_up,
        new=objects.new,
        drawn_as=objects.drawn_as,
        wanted=objects.wanted,
        window=scans.window,
        plane=scans.plane,
        is_rigid=scans.is_rigid,
        series=scans.series,
        baseline_series=scans.baseline_series,
        options=InferenceOptions(memory=scans.memory),
    )
    predictor = load(scans.weights, device=scans.device, precision=scans.precision, runtime=scans.runtime)
    found = follow_objects(visits, predictor)
    for note in found.notes:
        say(note)
    write_outputs(found, labels, outputs.table, outputs.page, visits, scans.weights)
    facts = {
        **_facts(found),
        "mask": str(labels),
        "weights": scans.weights,
        "seconds": round(time.perf_counter() - started, 2),
    }
    click.echo(json.dumps(facts) if as_json else _sentences(found, facts))


def _facts(found: FollowUp) -> dict[str, object]:
    from medsam2.followup.findings import COLUMNS

    alignment = found.alignment
    return {
        "objects": [
            {**dict(zip(COLUMNS, row, strict=True)), "source": one.source}
            for one, row in zip(found.objects, found.rows(), strict=True)
        ],
        "totals": found.totals(),
        "registration": {
            "shift_mm": round(alignment.shift_mm, 2),
            "turn_deg": round(alignment.turn_deg, 2),
            "bent": alignment.is_bent,
            "before": asdict(alignment.before),
            "after": asdict(alignment.after),
        },
        "windows": [[window.lower, window.upper] for window in found.windows],
        "notes": list(found.notes),
    }


def _sentences(found: FollowUp, facts: dict[str, object]) -> str:
    alignment = found.alignment
    how = "turned, shifted and bent" if alignment.is_bent else "turned and shifted"
    lines = [
        f"{facts['mask']}: {len(found.objects)} objects, {facts['seconds']:.1f} s",
        f"baseline {how}: {alignment.shift_mm:.1f} mm, {alignment.turn_deg:.1f} degrees, similarity "
        f"{alignment.before.information:.2f} before and {alignment.after.information:.2f} after",
    ]
    for one in found.objects:
        lines.append(f"  {one.title}: {_change(one)}")
        lines += [f"    {note}" for note in one.notes]
    return "\n".join(lines)


def _change(one: FollowedObject) -> str:
    """The change of one object in words."""
    if one.then is None:
        assert one.now is not None
        return f"{one.status}, {one.now.volume_ml:.2f} ml, longest diameter {one.now.long_mm:.1f} mm"
    if one.now is None:
        return f"{one.status} FOLLOW-UP's field of view, was {one.then.volume_ml:.2f} ml"
    return (
        f"{one.status}, {one.then.volume_ml:.2f} to {one.now.volume_ml:.2f} ml"
        f" ({one.volume_change_percent or 0:+.0f} %), longest diameter {one.then.long_mm:.1f} to "
        f"{one.now.long_mm:.1f} mm ({one.long_change_percent or 0:+.0f} %)"
    )
