"""`medsam2 segment`: a prompt on one slice of a scan becomes a 3D mask."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from medsam2.cli.messages import say
from medsam2.cli.precision import precision_option
from medsam2.cli.window import HELP, OPTION, WindowCommand, parse_window
from medsam2.errors import PromptError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from medsam2.imaging.volume import Volume
    from medsam2.inference.session import Session

DEFAULT_SUFFIX = ".nii.gz"


@click.command(cls=WindowCommand)
@click.argument("image", type=click.Path(path_type=Path))
@click.option("--slice", "slice_index", type=int, required=True, help="Slice the prompt lies in, from 0.")
@click.option("--box", type=float, nargs=4, metavar="X0 Y0 X1 Y1", help="Box in pixels of the slice.")
@click.option(
    "--point", "points", type=(float, float, int), multiple=True, metavar="X Y LABEL",
    help="Click: 1 inside, 0 outside. Several are possible.",
)  # fmt: skip
@click.option("--mask", type=click.Path(path_type=Path), help="Mask file; its slice K is the prompt.")
@click.option(OPTION, metavar="LO HI | NAME", callback=parse_window, help=HELP)
@click.option("--plane", type=click.Choice(["axial", "coronal", "sagittal"]), help="Cut slices this way.")
@click.option("--weights", default="compact", show_default=True, help="Name or file.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Mask; IMAGE_mask.nii.gz if not given.")
@click.option("--preview", type=click.Path(path_type=Path), help="Also write a picture (PNG).")
@click.option("--memory", type=click.Choice(["recent", "self-sorting"]), default="recent", show_default=True)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@precision_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of sentences.")
def segment(
    image: Path,
    slice_index: int,
    box: tuple[float, float, float, float] | None,
    points: Sequence[tuple[float, float, int]],
    mask: Path | None,
    window: str | tuple[float, float] | None,
    plane: str | None,
    weights: str,
    output: Path | None,
    preview: Path | None,
    memory: str,
    device: str,
    precision: str,
    as_json: bool,
) -> None:
    """Segment a structure from a prompt on a slice.

    The prompt is a box, points or a mask on one slice of IMAGE; the result is a mask on exactly the
    image's grid.
    """
    from medsam2.imaging.io import check_mask_output, check_output, read, write
    from medsam2.imaging.preview import write_preview
    from medsam2.inference.options import InferenceOptions
    from medsam2.inference.predictor import load

    started = time.perf_counter()
    output = _beside(image) if output is None else output
    check_mask_output(output)
    if preview is not None:
        check_output(preview)
    if box is None and not points and mask is None:
        raise PromptError("say what to segment: --box X0 Y0 X1 Y1, --point X Y 1 or --mask FILE")
    volume = read(image)
    session = load(weights, device=device, precision=precision).session(
        volume,
        window=window,
        plane=plane,
        options=InferenceOptions(memory=memory),
    )
    if session.window.note is not None:
        say(session.window.note)
    session.add(
        1,
        slice=slice_index,
        box=box,
        points=[(x, y) for x, y, _ in points],
        labels=[label for _, _, label in points],
        mask=None if mask is None else _mask_slice(read(mask), volume, session, slice_index),
    )
    _propagate(session)
    result = session.result()
    write(result, output)
    if preview is not None:
        write_preview(session.picture(1), preview)
    facts = {
        "image": str(image),
        "mask": str(output),
        "weights": weights,
        "window": [session.window.lower, session.window.upper],
        **session.measurements(1),
        "seconds": round(time.perf_counter() - started, 2),
    }
    click.echo(json.dumps(facts) if as_json else _sentence(facts))


def _beside(image: Path) -> Path:
    name = image.name
    for suffix in (".nii.gz", image.suffix):
        if suffix and name.lower().endswith(suffix):
            return image.with_name(f"{name[: -len(suffix)]}_mask{DEFAULT_SUFFIX}")
    return image.with_name(f"{name}_mask{DEFAULT_SUFFIX}")


def _mask_slice(mask: Volume, volume: Volume, session: Session, slice_index: int) -> npt.NDArray[np.generic]:
    from medsam2.imaging.geometry import slices_along
    from medsam2.prompts.types import check_slice

    if mask.shape != volume.shape:
        raise PromptError(f"the mask has shape {mask.shape} (z, y, x), the image {volume.shape}")
    check_slice(slice_index, session.shape[0])
    return slices_along(mask.array, session.axis)[slice_index]


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


def _sentence(facts: dict[str, object]) -> str:
    return (
        f"{facts['mask']}: {facts['volume_ml']:.2f} ml, "
        f"longest diameter {facts['longest_diameter_mm']:.1f} mm, "
        f"{facts['num_slices']} slices, {facts['seconds']:.1f} s"
    )
