"""The model on MLflow: written into a folder, and loaded from it.

A loaded model takes the rows of a data frame and gives the contract's answers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

import orjson

from medsam2.checkpoints import WeightsSummary
from medsam2.imaging.replacing import filling
from medsam2.serving.platforms.embedded import Embedded, embed
from medsam2.serving.rows import COLUMNS, REQUIRED

if TYPE_CHECKING:
    from mlflow.models import ModelSignature

_PACKAGE = Path(__file__).parents[2]
_NEEDED = ("", "extra == 'serve'")
_NAME = re.compile(r"[A-Za-z0-9._-]+")


def export_model(summary: WeightsSummary, licence: str | None, folder: Path) -> None:
    """Write an MLflow model into a new folder.

    Args:
        summary: The weights that go into it.
        licence: What their publisher allows, where it is known.
        folder: New or empty; nothing is left of it if the work fails.

    Raises:
        InputError: The folder cannot be made, or is not empty.
    """
    import mlflow.pyfunc

    with filling(folder) as temporary:
        mlflow.pyfunc.save_model(
            temporary,
            loader_module=__name__,
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
    from mlflow.models import ModelSignature
    from mlflow.types.schema import AnyType, ColSpec, DataType, Schema

    # With a column of arrays in its signature, MLflow takes the lists of `inputs`, an entry per row, for a
    # single row. So lists are of any type here, and our own server checks what is in them.
    texts, numbers = ("nii_image", "mask_format", "memory"), ("key_slice_idx", "slice_offset", "frame")
    types = dict.fromkeys(texts, DataType.string) | dict.fromkeys(numbers, DataType.long)
    inputs = [ColSpec(types.get(name, AnyType()), name, required=name in REQUIRED) for name in COLUMNS]
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


class Frame(Protocol):
    """As much of a pandas data frame as we use."""

    def to_dict(self, orient: Literal["records"]) -> list[dict[str, object]]:
        """Give a dictionary per row, by column."""
        ...


class TableModel:
    """A model in the form that MLflow calls."""

    def __init__(self, embedded: Embedded) -> None:
        self._embedded = embedded

    def predict(
        self, model_input: Frame, params: Mapping[str, object] | None = None
    ) -> list[dict[str, object]]:
        """Segment what each row asks for.

        Args:
            model_input: The contract's columns, a prompt per row.
            params: MLflow hands them to every model; there are none.

        Returns:
            For each row `mask` and `metadata`, or `error` and `status`.
        """
        rows = model_input.to_dict(orient="records")
        body = orjson.dumps({"dataframe_records": rows}, default=_plain, option=orjson.OPT_SERIALIZE_NUMPY)
        answer = orjson.loads(self._embedded.answer(body).body)
        # What is wrong with the table as a whole is wrong with each of its rows.
        return answer if isinstance(answer, list) else [answer] * len(rows)


def _load_pyfunc(weights: str) -> TableModel:
    """Load an exported model; MLflow looks for this name and gives the file with the weights."""
    return TableModel(embed(weights))


def _plain(value: object) -> object:
    """Turn what a data frame has in its cells into what JSON has: arrays of arrays, and `NA`."""
    as_list = getattr(value, "tolist", None)
    return as_list() if as_list else None
