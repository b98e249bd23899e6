"""The contract for Azure ML's inference server, which calls `init` once and `run` for each request."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from medsam2.checkpoints import SUFFIXES
from medsam2.errors import InputError
from medsam2.serving.platforms.embedded import Embedded, embed

if TYPE_CHECKING:
    from azureml_inference_server_http.api.aml_response import AMLResponse

MODEL_VARIABLE = "AZUREML_MODEL_DIR"

_embedded: Embedded | None = None


def init() -> None:
    """Load the weights of the deployment's model if it has one, or else MEDSAM2_WEIGHTS."""
    global _embedded
    _embedded = embed(_mounted_weights(os.environ.get(MODEL_VARIABLE)))


def run(raw_data: str) -> AMLResponse:
    """Answer a request.

    Args:
        raw_data: The body of the request.

    Returns:
        The answer and the status that the contract prescribes.
    """
    from azureml_inference_server_http.api.aml_response import AMLResponse

    assert _embedded is not None
    reply = _embedded.answer(raw_data.encode())
    return AMLResponse(reply.body, reply.status, {"Content-Type": "application/json", **reply.headers})


def _mounted_weights(folder: str | None) -> str | None:
    """Find the one file of weights in the folder of a registered model."""
    if not folder:
        return None
    files = sorted(path for path in Path(folder).rglob("*") if path.suffix in SUFFIXES)
    if len(files) != 1:
        found = ", ".join(path.name for path in files) or "none"
        raise InputError(
            f"{MODEL_VARIABLE} should hold one file of weights ({', '.join(SUFFIXES)}), found: {found}"
        )
    return str(files[0])
