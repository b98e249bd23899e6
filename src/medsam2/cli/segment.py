"""`medsam2 segment`: prompts on slices of a scan become 3D masks."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from medsam2.cli.messages import say
from medsam2.cli.options import (
    HELP,
    OPTION,
    WindowCommand,
    grouped,
    heading,
    parse_window,
    precision_option,
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
from medsam2.cli.prompting import PromptOptions, check_prompts, prompt_options, read_asked

if TYPE_CHECKING:
    from medsam2.cli.run_report import RunReport
    from medsam2.imaging.volume import Volume
    from medsam2.inference.session import Session
    from medsam2.prompts.types import Prompt

OBLIQUE_DEG = 0.5  # less is rounding, or no more than a patient moves


@dataclass(frozen=True, kw_only=True)
class WayOptions:
    """How the volume is read and followed, as it is given."""

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


@dataclass(frozen=True, kw_only=True)
class RunFiles:
    """What a run read and wrote, and what else its report tells of it."""

    read: Sequence[Path]
    written: Sequence[Path]
    names: Mapping[int, str | None]
    seconds: float
    warnings: Sequence[str]


way_options = grouped(
    "way",
    WayOptions,
    heading("Volume"),
    click.option(OPTION, metavar="LO HI | NAME", callback=parse_window, help=HELP),
    click.option(
        "--plane", type=click.Choice(["axial", "coronal", "sagittal"]),
        help="Plane of the slices, from the scan's orientation; K and pixels still count as in the file.",
    ),
    click.option("--frame", type=int, metavar="N", help="Frame of a 4D file, counted from 0."),
    click.option(
        "--series", metavar="N|UID",
        help="DICOM series to read, by number or UID; the one with most slices if not given.",
    ),
    heading("Model"),
    click.option(
        "--weights", default="compact", show_default=True,
        help="Weights, by name (see medsam2 weights) or as a file.",
    ),
    click.option(
        "--memory", type=click.Choice(["recent", "self-sorting"]), default="recent", show_default=True,
        help="Which slices the memory bank keeps: the latest ones, or those that are sure and differ most.",
    ),
    click.option(
        "--keep-component/--no-component", default=None,
        help="Keep only the connected part with the prompt; by default for an object of one box.",
    ),
    click.option(
        "--stop-after", type=int, metavar="N",
        help="Stop propagating in a direction after N slices without the object; 0 never stops.",
    ),
    click.option(
        "--device", default="auto", show_default=True, help="Where to compute: auto, cpu, cuda or cuda:N."
    ),
    precision_option,
)  # fmt: skip


@click.command(cls=WindowCommand)
@click.argument("image", type=click.Path(path_type=Path))
@prompt_options
@way_options
@output_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of sentences.")
def segment(
    image: Path, asked: PromptOptions, way: WayOptions, outputs: OutputOptions, as_json: bool
) -> None:
    """Segment a structure from a prompt on a slice.

    The prompt is a box, points, a mask or a RECIST line on one slice of IMAGE, or a file says what to
    segment; the result is a mask on exactly the image's grid, with a label for each object.
    """
    from medsam2.cli.run_report import noting_warnings
    from medsam2.imaging.io import read
    from medsam2.inference.prompting import add_prompts

    started = time.perf_counter()
    check_prompts(asked)
    check_places(outputs, image)
    inputs = [image, *asked.files, *([] if outputs.source is None else [outputs.source])]
    with noting_warnings() as warned:
        volume = read(image, frame=way.frame, series=way.series)
        source = source_series(outputs, image, way.series, frame=way.frame, volume=volume)
        axis, plane_facts = _choose_axis(volume, way.plane)
        wishes = read_asked(asked, volume, image, axis)
        window = way.window if way.window is not None else wishes.window
        session = _open(image, volume, way, window)
        prompts = wishes.prompts(session)
        names = wishes.names(list(prompts))
        plan = plan_outputs(outputs, image, names, inputs)
        add_prompts(session, prompts)
        _propagate(session)
        written = write_outputs(session, plan, names, source, way.weights)
    seconds = time.perf_counter() - started
    if outputs.report is not None:
        run = RunFiles(read=inputs, written=written, names=names, seconds=seconds, warnings=warned)
        _describe(session, way, prompts, run).write(outputs.report)
    facts = {
        "image": str(image),
        "mask": str(plan.mask),
        "weights": way.weights,
        "window": [session.window.lower, session.window.upper],
        **plane_facts,
        **_measured(session, names, plan),
        "seconds": round(seconds, 2),
    }
    click.echo(json.dumps(facts) if as_json else _sentences(facts))


def _choose_axis(volume: Volume, plane: str | None) -> tuple[int, dict[str, object]]:
    """Find the file axis that slices are stacked along, and say in words what was found for a plane."""
    from medsam2.imaging.geometry import plane_axis, plane_tilt_deg
    from medsam2.inference.predictor import DEFAULT_AXIS

    if plane is None:
        return DEFAULT_AXIS, {}
    axis, tilt = plane_axis(volume.affine, plane), plane_tilt_deg(volume.affine, plane)
    ordinal = ("first axis, x", "second axis, y", "third axis, z")[axis]
    say(f"{plane} slices are those along the file's {ordinal}: 0 to {volume.shape[2 - axis] - 1}")
    if tilt >= OBLIQUE_DEG:
        say(f"the scan is oblique: these slices lean {tilt:.1f} degrees out of the {plane} plane")
    return axis, {"plane": plane, "axis": axis, "tilt_deg": round(tilt, 2)}


def _open(image: Path, volume: Volume, way: WayOptions, window: str | tuple[float, float] | None) -> Session:
    from medsam2.errors import InputError
    from medsam2.inference.predictor import load
    from medsam2.inference.runtime import InferenceOptions

    options = InferenceOptions(
        memory=way.memory, keep_component=way.keep_component, stop_after=way.stop_after
    )
    predictor = load(way.weights, device=way.device, precision=way.precision)
    try:
        session = predictor.session(volume, window=window, plane=way.plane, options=options)
    except InputError as error:
        raise type(error)(f"{image}: {error}") from error
    if session.window.note is not None:
        say(session.window.note)
    return session


def _propagate(session: Session) -> None:
    """Run to the end, with a bar for a person who watches."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    steps = session.propagate()
    if not console.is_terminal:
        for _ in steps:
            pass
        return
    for _ in track(steps, description="slices", total=session.shape[0], console=console, transient=True):
        pass


def _measured(session: Session, names: Mapping[int, str | None], plan: OutputPlan) -> dict[str, object]:
    """Measurements of each object, and of a single one beside the other facts."""
    measured = {number: session.measurements(number) for number in names}
    objects = [
        {
            "number": number,
            "name": name,
            **measured[number],
            **({"mask": str(plan.masks[number])} if number in plan.masks else {}),
        }
        for number, name in names.items()
    ]
    alone = next(iter(measured.values())) if len(measured) == 1 else {}
    return {**alone, "objects": objects}


def _describe(
    session: Session, way: WayOptions, prompts: Mapping[int, Sequence[Prompt]], run: RunFiles
) -> RunReport:
    """Tell how a run was made."""
    from medsam2.checkpoints import resolve
    from medsam2.cli.run_report import (
        RunReport,
        WindowFacts,
        describe_file,
        describe_prompt,
        describe_weights,
    )

    window, runtime = session.window, session.runtime
    return RunReport(
        weights=describe_weights(way.weights, resolve(way.weights)),
        input_files=[describe_file(path) for path in run.read],
        output_files=[describe_file(path) for path in run.written],
        prompts=[
            describe_prompt(number, prompt, run.names[number])
            for number, said in prompts.items()
            for prompt in said
        ],
        window=WindowFacts(lower=window.lower, upper=window.upper, source=window.source),
        plane=way.plane,
        device=str(runtime.device),
        precision=str(runtime.precision).removeprefix("torch."),
        memory=way.memory,
        runtime_seconds=round(run.seconds, 3),
        warnings=run.warnings,
    )


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
