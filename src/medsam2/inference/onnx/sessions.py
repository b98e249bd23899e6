"""The parts of an exported network, run by ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medsam2.errors import InputError, require
from medsam2.inference.onnx.chain import read_facts

PROVIDERS = ("CPUExecutionProvider",)
_TYPES = {"float32": np.float32, "int32": np.int32, "bool": np.bool_}


class Parts:
    """The ONNX files of one folder.

    Args:
        folder: Made by `export_network`.

    Raises:
        InputError: ONNX Runtime is not installed, or the folder is not whole.
    """

    def __init__(self, folder: Path) -> None:
        require("onnxruntime", "runtime onnx needs the package", "onnx")
        import onnxruntime

        self.facts = read_facts(folder)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # warnings speak of our graphs, not of the user's work
        self._sessions: dict[str, Any] = {}
        self._types: dict[str, list[type[np.generic]]] = {}
        try:
            for part in self.facts["parts"]:
                path = folder / Path(part["file"]).name
                session = onnxruntime.InferenceSession(path, options, providers=list(PROVIDERS))
                self._sessions[part["name"]] = session
                self._types[part["name"]] = [_TYPES[one["dtype"]] for one in part["inputs"]]
        except Exception as error:  # ONNX Runtime has a class of its own for each failure
            detail = next(iter(str(error).splitlines()), type(error).__name__)
            raise InputError(f"{folder}: its parts cannot be loaded ({detail}); export them again") from error

    def run(self, name: str, *inputs: Tensor) -> list[Tensor]:
        """Run a part on its inputs, in their order; floating point numbers are computed with in float32."""
        session = self._sessions[name]
        names = [one.name for one in session.get_inputs()]
        feed = {
            key: np.ascontiguousarray(_as_array(tensor), dtype=dtype)
            for key, tensor, dtype in zip(names, inputs, self._types[name], strict=True)
        }
        return [torch.from_numpy(found) for found in session.run(None, feed)]


def _as_array(tensor: Tensor) -> np.ndarray:
    tensor = tensor.detach()
    return (tensor.float() if tensor.is_floating_point() else tensor).numpy()
