"""`medsam2 demo`: segment a real scan and a generated one, and compare with the reference masks."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import click

from medsam2.cli.options import json_option, weights_option
from medsam2.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from medsam2.imaging.volume import Volume
    from medsam2.inference.predictor import Predictor

SEED = 7
STRUCTURE = "right kidney"
REAL_STRUCTURE = "left ventricle"  # of shipped/demo.nii.gz; shipped/demo.md says where it is from
REAL, GENERATED, BOTH = "real", "generated", "both"


@dataclass(frozen=True, kw_only=True)
class _Case:
    """A scan, the structure to segment in it, and the files for the results."""

    origin: str
    """Beginning of the first sentence for people, up to the scan's path."""
    volume: Volume
    reference: np.ndarray
    """Boolean (z, y, x)."""
    reference_name: str
    structure: str
    window: str | None
    files: tuple[Path, Path, Path]
    """For the scan, the mask and the picture."""


@click.command()
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), default=Path("demo"), show_default=True,
    help="Folder for the scans, the masks and the pictures.",
)  # fmt: skip
@click.option(
    "--scan", type=click.Choice((REAL, GENERATED, BOTH)), default=BOTH, show_default=True,
    help="Segment the real heart MR, the generated CT, or both.",
)  # fmt: skip
@click.option(
    "--structure", default=STRUCTURE, show_default=True, help="Structure to segment in the generated CT."
)
@click.option(
    "--seed", default=SEED, show_default=True, help="Seed of the generated CT; each seed gives another CT."
)
@weights_option
@json_option
def demo(output: Path, scan: str, structure: str, seed: int, weights: str, as_json: bool) -> None:
    """Segment a real scan and a generated one.

    The real scan is an MR of a heart with a mask of the left ventricle that was drawn by hand; no shipped
    weights were trained on it. The generated scan is a CT. In each, a structure is segmented from a box on
    one slice and compared with the reference mask. Each scan, its mask and a picture are saved.
    """
    from medsam2.inference.predictor import load
    from medsam2.synthesis.scan import STRUCTURES

    if structure not in STRUCTURES:
        raise InputError(f"the generated scan has no {structure!r}; it has {', '.join(STRUCTURES)}")
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{output} cannot be made: {error.strerror}") from error
    predictor = load(weights)
    facts: dict[str, dict[str, object]] = {}
    for kind in (REAL, GENERATED):
        if scan not in (kind, BOTH):
            continue
        case = _real_case(output) if kind == REAL else _generated_case(output, structure, seed)
        facts[kind] = _segment(case, predictor)
        if not as_json:
            click.echo(_sentences(facts[kind], case, weights))
    if as_json:
        click.echo(json.dumps(facts))
    else:
        click.echo("Try it on your own scan:  medsam2 segment IMAGE.nii.gz --slice K --box X0 Y0 X1 Y1")


def _real_case(output: Path) -> _Case:
    from medsam2.imaging.io import read

    shipped = Path(str(resources.files("medsam2") / "shipped"))
    return _Case(
        origin="Took the real scan in the package, a heart in short-axis MR (Sunnybrook, CC0), saved as",
        volume=read(shipped / "demo.nii.gz"),
        reference=read(shipped / "demo-mask.nii.gz").array > 0,
        reference_name="the reference drawn by hand",
        structure=REAL_STRUCTURE,
        window=None,
        files=(output / "heart.nii.gz", output / "heart-mask.nii.gz", output / "heart.png"),
    )


def _generated_case(output: Path, structure: str, seed: int) -> _Case:
    from medsam2.imaging.volume import Volume
    from medsam2.synthesis.scan import STRUCTURES, generate_scan

    scan = generate_scan(seed)
    return _Case(
        origin="Generated a CT and saved it as",
        volume=Volume.from_array(scan.image, scan.spacing_mm, modality="CT"),
        reference=scan.labels == STRUCTURES.index(structure) + 1,
        reference_name="the exact mask",
        structure=structure,
        window="abdomen",
        files=(output / "scan.nii.gz", output / "mask.nii.gz", output / "preview.png"),
    )


def _segment(case: _Case, predictor: Predictor) -> dict[str, object]:
    """Segment, save scan, mask and picture, and return what `--json` prints."""
    from medsam2.imaging.intensity import resolve_window, to_uint8
    from medsam2.imaging.io import write
    from medsam2.measure.overlap import dice
    from medsam2.measure.preview import draw_preview, write_preview
    from medsam2.measure.sizes import longest_diameter_mm
    from medsam2.prompts.simulate import tight_box

    key_slice = int(case.reference.sum(axis=(1, 2)).argmax())
    box = tight_box(case.reference[key_slice]).xyxy
    scan_path, mask_path, picture_path = case.files
    write(case.volume, scan_path)
    started = time.perf_counter()
    mask = predictor.segment(case.volume, slice=key_slice, box=box, window=case.window)
    seconds = time.perf_counter() - started
    write(mask, mask_path)
    found: np.ndarray = mask.array > 0
    spacing_x, spacing_y, spacing_z = mask.spacing
    window = resolve_window(case.volume, case.window)
    picture = draw_preview(
        lambda z: to_uint8(case.volume.array[z], window),
        found,
        key_slice,
        box_xyxy=box,
        aspect=spacing_y / spacing_x,
    )
    write_preview(picture, picture_path)
    return {
        "scan": str(scan_path),
        "mask": str(mask_path),
        "picture": str(picture_path),
        "structure": case.structure,
        "slice": key_slice,
        "box": [round(end) for end in box],
        "dice": round(dice(found, case.reference), 4),
        "volume_ml": float(found.sum()) * spacing_x * spacing_y * spacing_z / 1000,
        "longest_diameter_mm": longest_diameter_mm(found, (spacing_x, spacing_y)),
        "num_slices": int(found.any(axis=(1, 2)).sum()),
        "seconds": round(seconds, 2),
    }


def _sentences(facts: dict[str, object], case: _Case, weights: str) -> str:
    return (
        f"{case.origin} {facts['scan']}.\n"
        f"Drew a box {facts['box']} around the {facts['structure']} on slice {facts['slice']} "
        f"and segmented the other slices with the {weights} weights.\n"
        f"{facts['mask']}: {facts['volume_ml']:.0f} ml in {facts['num_slices']} slices, "
        f"{facts['seconds']:.1f} s; picture in {facts['picture']}.\n"
        f"Dice against {case.reference_name}: {facts['dice']:.3f}\n"
    )
