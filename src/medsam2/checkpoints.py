"""Files and weights: the only door through which weights come in and go out."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from medsam2.errors import CheckpointError
from medsam2.model.config import TINY_512, ModelConfig
from medsam2.model.network import Network

CONFIG_KEY = "medsam2.config"  # entry of the safetensors header
MAX_NAMED_KEYS = 3
SHIPPED_NAME = "compact"


def shipped_path() -> Path:
    """Where the weights that come with the package lie."""
    return Path(str(resources.files("medsam2") / "shipped" / f"{SHIPPED_NAME}.safetensors"))


def load_network(path: Path) -> Network:
    """Load a network, its configuration read or recognised from the file.

    Args:
        path: `.safetensors`, or a `.pt` file of SAM 2 or MedSAM2, `{"model": ...}` included.

    Returns:
        The network in float32 on the CPU, in evaluation mode.

    Raises:
        CheckpointError: The file is missing, damaged, unsafe or of another network.
    """
    if not path.is_file():
        raise CheckpointError(f"no such weights file: {path}")
    config, state = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    network = Network(config)
    _check_entries(state, network.state_dict(), path)
    network.load_state_dict(state, strict=True)
    return network.float().eval()


def save_weights(
    state: Mapping[str, Tensor], config: ModelConfig, path: Path, *, dtype: torch.dtype = torch.float16
) -> None:
    """Write weights and their configuration as safetensors, under a temporary name first."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    tensors = {name: value.detach().to("cpu", dtype).contiguous() for name, value in state.items()}
    try:
        save_file(tensors, temporary, metadata={CONFIG_KEY: json.dumps(dataclasses.asdict(config))})
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _read_safetensors(path: Path) -> tuple[ModelConfig, dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is not a complete safetensors file") from error
    if CONFIG_KEY not in metadata:
        return TINY_512, state
    try:
        return _config_from(json.loads(metadata[CONFIG_KEY])), state
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{path} carries a configuration this version does not know") from error


def _config_from(table: dict[str, Any]) -> ModelConfig:
    """Turn the stored table into a configuration; JSON has lists where we have tuples."""
    fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in table.items()}
    return ModelConfig(**fields)


def _read_torch(path: Path) -> tuple[ModelConfig, dict[str, Tensor]]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{path} is not a checkpoint that can be read safely (a .pt file of plain tensors)"
        ) from error
    state = content.get("model", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise CheckpointError(f"{path} holds no table of tensors, nor one under the name 'model'")
    return TINY_512, state


def _check_entries(state: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: Path) -> None:
    missing = [name for name in expected if name not in state]
    unknown = [name for name in state if name not in expected]
    misshapen = [n for n in expected if n in state and state[n].shape != expected[n].shape]
    for names, what in ((missing, "lacks"), (unknown, "also has"), (misshapen, "has other shapes for")):
        if names:
            listed = ", ".join(names[:MAX_NAMED_KEYS])
            more = f" and {len(names) - MAX_NAMED_KEYS} more" if len(names) > MAX_NAMED_KEYS else ""
            raise CheckpointError(f"{path} is a checkpoint of another network: it {what} {listed}{more}")
