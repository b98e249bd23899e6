"""`medsam2 export`: write a model for another serving platform, or as a page that needs no server."""

from __future__ import annotations

import json
from pathlib import Path

import click

from medsam2.cli.messages import needs_extra, say
from medsam2.cli.options import json_option, weights_option
from medsam2.errors import require
from medsam2.weights import SHIPPED_NAME, SPECS


@click.group()
def export() -> None:
    """Export a model for another platform, or as a page."""


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
    from medsam2.imaging.replacing import check_new_folder

    check_new_folder(folder)
    _write_parts(folder, weights, precision)
    num_bytes = sum(file.stat().st_size for file in folder.iterdir())
    facts = {"folder": str(folder), "weights": weights, "precision": precision, "bytes": num_bytes}
    click.echo(json.dumps(facts) if as_json else f"{folder}: {num_bytes / 2**20:.1f} MiB")


@export.command()
@click.argument("folder", type=click.Path(path_type=Path))
@weights_option
@click.option(
    "--parts", type=click.Path(path_type=Path, exists=True, file_okay=False), metavar="DIR",
    help="Folder of parts that `medsam2 export onnx` has written, instead of --weights.",
)  # fmt: skip
@click.option(
    "--runtime-files", "archives", type=click.Path(path_type=Path, exists=True, file_okay=False),
    metavar="DIR",
    help="Folder of the archives that `npm pack` writes, for a machine without npm or without a network.",
)  # fmt: skip
@json_option
def web(folder: Path, weights: str, parts: Path | None, archives: Path | None, as_json: bool) -> None:
    """Write a page that segments in the browser, without a server.

    FOLDER is new. Put it on any web server: whoever opens the page can drop a scan and segment it, and
    nothing leaves the browser. The weights are stored as float16. onnxruntime-web and dcmjs come from npm and
    are checked against digests that this program has.

    Example: medsam2 export web site && python -m http.server -d site
    """
    import shutil

    from medsam2.imaging.replacing import check_new_folder
    from medsam2.serving.npm_files import PACKAGES, package_files
    from medsam2.serving.static_site import sizes, write_site

    check_new_folder(folder)
    if parts is None:
        require("onnx", "an export to ONNX needs the package", "onnx")
    runtime: dict[str, bytes] = {}
    for package in PACKAGES:
        runtime |= package_files(package, archives)
        say(f"{package.name} {package.version}, {package.licence}")

    def write_parts(target: Path) -> None:
        if parts is None:
            _write_parts(target, weights, "float16")
        else:
            shutil.copytree(parts, target)

    found = sizes(write_site(folder, write_parts, runtime))
    facts = {"folder": str(folder), "weights": weights if parts is None else str(parts), "bytes": found}
    shown = ", ".join(f"{name} {num_bytes / 1e6:.1f} MB" for name, num_bytes in found.items())
    click.echo(json.dumps(facts) if as_json else f"{folder}: {shown}")
    say(f"try: python -m http.server -d {folder} and open http://localhost:8000")


def _write_parts(folder: Path, weights: str, precision: str) -> None:
    """Write the parts of a network into a new folder."""
    from medsam2 import checkpoints, hub
    from medsam2.inference.onnx.chain import Origin
    from medsam2.inference.onnx.export import export_network

    path = checkpoints.resolve(weights)
    spec = SPECS.get(weights)
    origin = Origin(
        name=weights if spec else path.name,
        sha256=hub.file_digest(path),
        licence=spec.licence if spec else None,
    )
    for part in export_network(checkpoints.load_network(path), folder, origin=origin, stored_as=precision):
        say(f"wrote {part}")
