"""What MLflow loads of an exported model: rows of a data frame go in, the contract's answers come out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Protocol

import orjson

from medsam2.serving.platforms.embedded import Embedded, embed


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
