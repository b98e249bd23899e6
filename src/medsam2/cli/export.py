"""`medsam2 export`: write a model for another serving platform."""

from __future__ import annotations

import json
from pathlib import Path

import click

from medsam2.cli.messages import needs_extra, say
from medsam2.cli.options import json_option, weights_option
from medsam2.weights import SHIPPED_NAME, SPECS


@click.group()
def export() -> None:
    """Export a model for another serving platform."""


@export.command()
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    metavar="DIR",
    help="New folder for the model.",
)
@click.option(
    "--weights", default=SHIPPED_NAME, show_default=True,
    help="Weights, by name (see medsam2 weights) or as a file.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of the folder.")
def mlflow(output: Path, weights: str, as_json: bool) -> None:
    """Write an MLflow model that answers the published contract.

    The folder contains the weights, this package and the signature. `mlflow models serve -m DIR` serves it;
    platforms that read MLflow's format can serve it too.
    """
    from medsam2.imaging.replacing import check_new_folder

    check_new_folder(output)
    with needs_extra("mlflow", "this"):
        from medsam2.serving.platforms.mlflow_model import export_model, requirements
    from medsam2 import checkpoints

    summary = checkpoints.describe(checkpoints.resolve(weights))
    licence = SPECS[weights].licence if weights in SPECS else None
    with needs_extra("mlflow", "this"):
        export_model(summary, licence, output)
    facts = {
        "folder": str(output),
        "weights": weights,
        "licence": licence,
        "sha256": summary.sha256,
        "requirements": list(requirements()),
    }
    click.echo(json.dumps(facts) if as_json else str(output))
    say(f"{weights} is in {output}; try: mlflow models serve -m {output} -p 5000 --env-manager local")


@export.command()
@click.argument("folder", type=click.Path(path_type=Path))
@weights_option
@click.option(
    "--precision", type=click.Choice(["float32", "float16"]), default="float32", show_default=True,
    help="How the weights are stored. float16 halves the files; computing stays in float32.",
)  # fmt: skip
@json_option
def onnx(folder: Path, weights: str, precision: str, as_json: bool) -> None:
    """Write the parts of a network as ONNX files.

    FOLDER is new. It contains one file for each part of the network, and chain.json, which says how to chain
    them: names, shapes, order and constants. This takes some minutes.

    Example: medsam2 export onnx parts --weights compact
    """
    from medsam2 import checkpoints, hub
    from medsam2.imaging.replacing import check_new_folder
    from medsam2.inference.onnx.chain import Origin
    from medsam2.inference.onnx.export import export_network

    check_new_folder(folder)
    path = checkpoints.resolve(weights)
    spec = SPECS.get(weights)
    origin = Origin(
        name=weights if spec else path.name,
        sha256=hub.file_digest(path),
        licence=spec.licence if spec else None,
    )
    for part in export_network(checkpoints.load_network(path), folder, origin=origin, stored_as=precision):
        say(f"wrote {part}")
    num_bytes = sum(file.stat().st_size for file in folder.iterdir())
    facts = {"folder": str(folder), "weights": weights, "precision": precision, "bytes": num_bytes}
    click.echo(json.dumps(facts) if as_json else f"{folder}: {num_bytes / 2**20:.1f} MiB")
