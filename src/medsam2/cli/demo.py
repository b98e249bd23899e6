"""`medsam2 demo`: segment a generated scan whose answer is known."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from medsam2.errors import InputError

if TYPE_CHECKING:
    import numpy as np

SEED = 7
STRUCTURE = "right kidney"


@click.command()
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), default=Path("demo"), show_default=True,
    help="Folder for the scan, the mask and the picture.",
)  # fmt: skip
@click.option("--structure", default=STRUCTURE, show_default=True, help="What to segment.")
@click.option("--seed", default=SEED, show_default=True, help="Which scan to generate.")
@click.option("--weights", default="compact", show_default=True, help="Name or file.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of sentences.")
def demo(output: Path, structure: str, seed: int, weights: str, as_json: bool) -> None:
    """Segment a generated scan whose answer is known.

    The scan is a CT; an organ is segmented from a box on one slice, and the overlap with the known
    answer is said. Scan, mask and a picture are kept.
    """
    import numpy as np

    from medsam2.imaging.io import write
    from medsam2.imaging.preview import write_preview
    from medsam2.imaging.volume import Volume
    from medsam2.inference.predictor import load
    from medsam2.prompts.simulate import tight_box
    from medsam2.synthesis.scan import STRUCTURES, generate_scan

    if structure not in STRUCTURES:
        raise InputError(f"the generated scan has {', '.join(STRUCTURES)}, but no {structure!r}")
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{output} cannot be made: {error.strerror}") from error
    scan = generate_scan(seed)
    truth: np.ndarray = np.equal(scan.labels, STRUCTURES.index(structure) + 1)
    key_slice = int(truth.sum(axis=(1, 2)).argmax())
    box = tight_box(truth[key_slice]).xyxy
    volume = Volume.from_array(scan.image, scan.spacing_mm, modality="CT")
    write(volume, output / "scan.nii.gz")

    started = time.perf_counter()
    session = load(weights).session(volume, window="abdomen")
    session.add(1, slice=key_slice, box=box)
    for _ in session.propagate():
        pass
    mask = session.result()
    seconds = time.perf_counter() - started
    write(mask, output / "mask.nii.gz")
    write_preview(session.picture(1), output / "preview.png")
    facts = {
        "scan": str(output / "scan.nii.gz"),
        "mask": str(output / "mask.nii.gz"),
        "picture": str(output / "preview.png"),
        "structure": structure,
        "slice": key_slice,
        "box": [round(end) for end in box],
        "dice": round(_dice(mask.array > 0, truth), 4),
        **session.measurements(1),
        "seconds": round(seconds, 2),
    }
    click.echo(json.dumps(facts) if as_json else _sentences(facts, weights))


def _dice(mask: np.ndarray, truth: np.ndarray) -> float:
    """Overlap with the known answer; not `evaluation`'s, which needs packages the demo does without."""
    return 2 * float((mask & truth).sum()) / float(mask.sum() + truth.sum())


def _sentences(facts: dict[str, object], weights: str) -> str:
    return (
        f"Generated a CT and saved it as {facts['scan']}.\n"
        f"Drew a box {facts['box']} around the {facts['structure']} on slice {facts['slice']} "
        f"and asked the {weights} weights for the rest.\n"
        f"{facts['mask']}: {facts['volume_ml']:.0f} ml in {facts['num_slices']} slices, "
        f"{facts['seconds']:.1f} s; picture in {facts['picture']}.\n"
        f"Dice against the known answer: {facts['dice']:.3f}\n"
        f"Try it on a scan of yours:  medsam2 segment IMAGE.nii.gz --slice K --box X0 Y0 X1 Y1"
    )
