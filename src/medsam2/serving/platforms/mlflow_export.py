"""Write a folder that MLflow serves: the weights, this package and the contract's signature."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import mlflow.pyfunc
from mlflow.models import ModelSignature
from mlflow.types.schema import AnyType, ColSpec, DataType, Schema

from medsam2.checkpoints import WeightsSummary
from medsam2.imaging.replacing import filling
from medsam2.serving.rows import COLUMNS, REQUIRED

LOADER = "medsam2.serving.platforms.mlflow_model"
_PACKAGE = Path(__file__).parents[2]
_NEEDED = ("", "extra == 'serve'")
_NAME = re.compile(r"[A-Za-z0-9._-]+")

# With a column of arrays in its signature, MLflow takes the lists of `inputs`, an entry per row, for a single
# row. What is in these lists is checked by us.
_LISTS = AnyType()
_TYPES = {
    "nii_image": DataType.string,
    "key_slice_idx": DataType.long,
    "dicom_window": _LISTS,
    "bbox": _LISTS,
    "slice_offset": DataType.long,
    "points": _LISTS,
    "point_labels": _LISTS,
    "mask_format": DataType.string,
    "memory": DataType.string,
    "frame": DataType.long,
}


def export_model(summary: WeightsSummary, licence: str | None, folder: Path) -> None:
    """Write an MLflow model into a new folder.

    Args:
        summary: The weights that go into it.
        licence: What their publisher allows, where it is known.
        folder: New or empty; nothing is left of it if the work fails.

    Raises:
        InputError: The folder cannot be made, or is not empty.
    """
    with filling(folder) as temporary:
        mlflow.pyfunc.save_model(
            temporary,
            loader_module=LOADER,
            data_path=str(summary.path),
            code_paths=[str(_PACKAGE)],
            pip_requirements=list(requirements()),
            signature=contract_signature(),
            metadata={
                "medsam2_version": metadata.version("medsam2"),
                "weights_sha256": summary.sha256,
                "weights_licence": licence or "not known",
            },
        )


def contract_signature() -> ModelSignature:
    """The contract's columns with their types; a mask is what `mask_format` asks for."""
    inputs = [ColSpec(_TYPES[name], name, required=name in REQUIRED) for name in COLUMNS]
    outputs = [
        ColSpec(AnyType(), "mask", required=False),
        ColSpec(AnyType(), "metadata", required=False),
        ColSpec(DataType.string, "error", required=False),
        ColSpec(DataType.long, "status", required=False),
    ]
    return ModelSignature(inputs=Schema(inputs), outputs=Schema(outputs))


def requirements() -> Iterator[str]:
    """What the model needs beside its own code, at the versions that are installed here."""
    for line in metadata.requires("medsam2") or ():
        found = _NAME.match(line)
        condition = line.partition(";")[2].strip().replace('"', "'")
        if found and condition in _NEEDED:
            # Where a wheel is for one kind of machine its version says so behind a plus sign.
            yield f"{found[0]}=={metadata.version(found[0]).partition('+')[0]}"
