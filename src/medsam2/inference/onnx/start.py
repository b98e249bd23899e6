"""Weights, or a folder of exported parts, ready in ONNX Runtime."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from medsam2.checkpoints import config_from, load_network, resolve
from medsam2.errors import CheckpointError, InputError, require
from medsam2.hub import HOME_VARIABLE, MODEL_FILE, file_digest, weights_folder
from medsam2.inference.onnx.chain import CHAIN_FILE, FORMAT, Origin
from medsam2.inference.onnx.export import export_network
from medsam2.inference.onnx.networks import OnnxCompactNetwork, OnnxNetwork
from medsam2.inference.onnx.sessions import Parts
from medsam2.inference.runtime import Runtime
from medsam2.model.compact.config import CompactConfig

DEVICES = ("auto", "cpu")
PRECISIONS = ("auto", "float32")

logger = logging.getLogger(__name__)


def start_onnx(weights: str | Path, *, device: str = "auto", precision: str = "auto") -> Runtime:
    """Load a network into ONNX Runtime, which computes on the CPU in float32.

    Args:
        weights: A folder of parts that `export_network` made; or weights by name or file, whose parts are
            made once and kept in `MEDSAM2_HOME`.
        device: `auto` or `cpu`.
        precision: `auto` or `float32`.

    Raises:
        CheckpointError: The weights are missing, damaged or of another network.
        InputError: ONNX Runtime is not installed, or cannot do what was chosen.
    """
    require("onnxruntime", "runtime onnx needs the package", "onnx")
    if device not in DEVICES:
        raise InputError(
            f"runtime onnx computes on the CPU: device is {' or '.join(DEVICES)}, not {device!r}"
        )
    if precision not in PRECISIONS:
        raise InputError(
            f"runtime onnx computes in float32: precision is {' or '.join(PRECISIONS)}, not {precision!r}"
        )
    has_parts = Path(weights).is_dir() and not (Path(weights) / MODEL_FILE).is_file()
    folder = Path(weights) if has_parts else kept_parts(resolve(weights), str(weights))
    parts = Parts(folder)
    try:
        config = config_from(dict(parts.facts["config"]))
    except (KeyError, TypeError, ValueError, AttributeError, CheckpointError) as error:
        raise InputError(f"{folder / CHAIN_FILE}: describes no network that this version knows") from error
    network = (
        OnnxCompactNetwork(config, parts) if isinstance(config, CompactConfig) else OnnxNetwork(config, parts)
    )
    return Runtime(network=network.eval(), device=torch.device("cpu"), precision=torch.float32, name="onnx")


def kept_parts(path: Path, name: str) -> Path:
    """Find the parts of weights that were exported earlier, or export them now.

    Args:
        path: The file of weights.
        name: Name or file, as the user gave it.
    """
    origin = Origin(name=Path(name).name, sha256=file_digest(path))
    folder = weights_folder().parent / "onnx" / f"{origin.sha256[:16]}-{FORMAT}"
    if not (folder / CHAIN_FILE).is_file():
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"{folder.parent}: cannot be made ({error.strerror}); set {HOME_VARIABLE} to another folder"
            ) from error
        logger.warning("exporting %s to ONNX once, into %s; this takes some minutes", name, folder)
        try:
            for part in export_network(load_network(path), folder, origin=origin):
                logger.info("wrote %s", part)
        except InputError:
            # Another process may have been faster.
            if not (folder / CHAIN_FILE).is_file():
                raise
    return folder
