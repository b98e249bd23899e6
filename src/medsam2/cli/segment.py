"""`medsam2 segment`: prompts on slices of a scan become 3D masks."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from medsam2.cli.messages import say, with_progress
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
from medsam2.cli.outputs import (
    OutputOptions,
    OutputPlan,
    check_places,
    output_options,
    plan_outputs,
    source_series,
    write_outputs,
)
from medsam2.cli.prompting import PromptOptions, check_prompts, find_objects, prompt_options
from medsam2.inference.options import InferenceOptions

if TYPE_CHECKING:
    from medsam2.inference.job import Outcome
    from medsam2.inference.session import Session

OBLIQUE_DEG = 0.5  # less is rounding, or no more than a patient moves


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How the volume is read and segmented, as it is given."""

    window: str | tuple[float, float] | None
    plane: str | None
    frame: int | None
    series: str | None
    weights: str
    memory: str
    keep_component: bool | None
    stop_after: int | None
    device: str
    precision: str


run_options = grouped(
    "run",
    RunOptions,
    heading("Volume"),
    window_option,
    plane_option,
    click.option("--frame", type=int, metavar="N", help="Frame of a 4D file, counted from 0."),
    click.option(
        "--series", metavar="N|UID",
        help="DICOM series to read, by number or UID; the one with most slices if not given.",
    ),
    heading("Model"),
    weights_option,
    memory_option,
    click.option(
        "--keep-component/--no-component", default=None,
        help="Keep only the connected part with the prompt; by default for an object of one box.",
    ),
    click.option(
        "--stop-after", type=int, metavar="N",
        help="Stop propagating in a direction after N slices without the object; 0 never stops.",
    ),
    device_option,
    precision_option,
)  # fmt: skip


@click.command(cls=WindowCommand)
@click.argument("image", type=click.Path(path_type=Path))
@prompt_options
@run_options
@runtime_option
@output_options
@json_option
def segment(
    image: Path, prompts: PromptOptions, run: RunOptions, runtime: str, outputs: OutputOptions, as_json: bool
) -> None:
    """Segment a structure from a prompt on a slice.

    The prompt is a box, points, a mask or a RECIST line on one slice of IMAGE, or a file says what to
    segment; the result is a mask on exactly the image's grid, with a label for each object.
    """
    from medsam2.inference.job import Job, open_job
    from medsam2.inference.predictor import load
    from medsam2.inference.record import RunReport, describe_file, describe_weights, noting_warnings

    started = time.perf_counter()
    check_prompts(prompts)
    check_places(outputs, image)
    inputs = [image, *prompts.files, *([] if outputs.source is None else [outputs.source])]
    job = Job(
        image=image,
        objects=partial(find_objects, prompts, image, run.window),
        frame=run.frame,
        series=run.series,
        window=run.window,
        plane=run.plane,
        options=InferenceOptions(
            memory=run.memory, keep_component=run.keep_component, stop_after=run.stop_after
        ),
    )
    with noting_warnings() as warned:
        predictor = load(run.weights, device=run.device, precision=run.precision, runtime=runtime)
        opened = open_job(job, predictor)
        source = source_series(outputs, job, opened.session.grid.volume)
        facts = {"image": str(image), **_describe_volume(opened.session, run)}
        plan = plan_outputs(outputs, image, opened.names, inputs)
        for _ in with_progress(opened.propagate(), "slices", opened.session.grid.shape[0]):
            pass
        outcome = opened.outcome()
        written = write_outputs(outcome, plan, source, run.weights)
    seconds = time.perf_counter() - started
    if outputs.report is not None:
        RunReport(
            record=outcome.record,
            weights=describe_weights(run.weights),
            input_files=[describe_file(path) for path in inputs],
            output_files=[describe_file(path) for path in written],
            runtime_seconds=round(seconds, 3),
            warnings=warned,
        ).write(outputs.report)
    facts |= {"mask": str(plan.mask), **_measured(outcome, plan), "seconds": round(seconds, 2)}
    click.echo(json.dumps(facts) if as_json else _sentences(facts))


def _describe_volume(session: Session, run: RunOptions) -> dict[str, object]:
    """Report the plane and the window to a person, and return the facts for `--json`."""
    from medsam2.imaging.geometry import plane_tilt_deg

    grid, window = session.grid, session.window
    facts: dict[str, object] = {"weights": run.weights, "window": [window.lower, window.upper]}
    if run.plane is not None:
        tilt = plane_tilt_deg(grid.volume.affine, run.plane)
        axis = ("first axis, x", "second axis, y", "third axis, z")[grid.axis]
        say(f"{run.plane} slices are those along the file's {axis}: 0 to {grid.shape[0] - 1}")
        if tilt >= OBLIQUE_DEG:
            say(f"the scan is oblique: these slices lean {tilt:.1f} degrees out of the {run.plane} plane")
        facts |= {"plane": run.plane, "axis": grid.axis, "tilt_deg": round(tilt, 2)}
    if window.note is not None:
        say(window.note)
    return facts


def _measured(outcome: Outcome, plan: OutputPlan) -> dict[str, object]:
    """Measurements of each object, and of a single one beside the other facts."""
    measured = outcome.measurements
    objects = [
        {
            "number": number,
            "name": name,
            **measured[number],
            **({"mask": str(plan.masks[number])} if number in plan.masks else {}),
        }
        for number, name in outcome.names.items()
    ]
    alone = next(iter(measured.values())) if len(measured) == 1 else {}
    return {**alone, "objects": objects}


def _sentences(facts: dict[str, object]) -> str:
    objects = facts["objects"]
    assert isinstance(objects, list)
    if len(objects) == 1:
        return f"{facts['mask']}: {_sizes(objects[0])}, {facts['seconds']:.1f} s"
    lines = [f"{facts['mask']}: {len(objects)} objects, {facts['seconds']:.1f} s"]
    for item in objects:
        title = f"{item['number']}" if item["name"] is None else f"{item['number']} {item['name']}"
        lines.append(f"  {title}: {_sizes(item)}")
    return "\n".join(lines)


def _sizes(item: Mapping[str, object]) -> str:
    return (
        f"{item['volume_ml']:.2f} ml, longest diameter {item['longest_diameter_mm']:.1f} mm, "
        f"{item['num_slices']} slices"
    )
