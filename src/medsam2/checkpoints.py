"""Files and weights: the only door through which weights come in and go out."""

from __future__ import annotations

import dataclasses
import json
import os
import warnings
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from medsam2.errors import CheckpointError
from medsam2.hub import (
    CARD_FILE,
    CONFIG_FILE,
    MODEL_FILE,
    SUFFIXES,
    check_size,
    fetch,
    fetch_address,
    file_digest,
)
from medsam2.model.compact.config import CompactConfig
from medsam2.model.compact.network import CompactNetwork
from medsam2.model.config import PRESETS, TINY_512, ModelConfig
from medsam2.model.network import Network
from medsam2.weights import ADDRESS, SPECS, TINY, guess_network

CONFIG_KEY = "medsam2.config"  # entry of the safetensors header
CONFIG_ENTRY = "medsam2"  # of config.json in a folder of the hub, for files that lost their header
MAX_NAMED_KEYS = 3
MAX_CONFIG_NUMBER = 2048  # a header must not make us build a network that fills the memory

AnyConfig = ModelConfig | CompactConfig
AnyNetwork = Network | CompactNetwork


@dataclass(frozen=True, kw_only=True)
class WeightsSummary:
    """What a file of weights is, read from the file itself."""

    path: Path
    num_bytes: int
    sha256: str
    config: AnyConfig
    preset: str | None
    """Name of the configuration, if it is a published one."""
    num_entries: int
    num_parameters: int
    card: str | None
    """The model card as Markdown: the file of the same name ending in .md, or README.md in a hub's folder."""


def resolve(name_or_path: str | Path) -> Path:
    """Find the file of weights, fetching it once if it has a name or an address and is not here.

    Args:
        name_or_path: A name of `weights.SPECS`, an address `hf://OWNER/NAME` on the Hugging Face hub, a file,
            or a folder with `model.safetensors`. A name goes before a file that is called so.

    Raises:
        CheckpointError: There is no such name or file, or it is damaged or cannot be fetched.
    """
    name = str(name_or_path)
    if name in SPECS:
        return fetch(SPECS[name])
    if name.startswith(ADDRESS):
        return fetch_address(name)
    try:
        path = Path(name).expanduser()
    except RuntimeError as error:
        raise CheckpointError(f"no such weights file: {name}; there is no home folder for ~") from error
    if path.is_dir():
        if (path / MODEL_FILE).is_file():
            return path / MODEL_FILE
        raise CheckpointError(f"{path} is a folder without {MODEL_FILE}; name a weights file in it")
    if path.is_file():
        return path
    if path.suffix in SUFFIXES or path.name != name:
        raise CheckpointError(f"no such weights file: {path}")
    raise CheckpointError(
        f"no weights are called {name!r}; there are {', '.join(SPECS)}, and a file is accepted as well"
    )


def load_network(path: Path) -> AnyNetwork:
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
    check_size(path, path.stat().st_size)
    config, state = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    network = _build(config, state, path)
    network.load_state_dict(state, strict=True)
    return network.float().eval()


def describe(path: Path) -> WeightsSummary:
    """Load weights and tell what they are.

    Raises:
        CheckpointError: As for `load_network`.
    """
    network = load_network(path)
    state = network.state_dict()
    return WeightsSummary(
        path=path,
        num_bytes=path.stat().st_size,
        sha256=file_digest(path),
        config=network.config,
        preset=next((name for name, config in PRESETS.items() if config == network.config), None),
        num_entries=len(state),
        num_parameters=sum(parameter.numel() for parameter in network.parameters()),
        card=card_of(path),
    )


def card_of(path: Path) -> str | None:
    """Read the model card of a file of weights; None if it has none."""
    card = path.with_name(CARD_FILE) if path.name == MODEL_FILE else path.with_suffix(".md")
    return card.read_text(encoding="utf-8") if card.is_file() else None


def save_weights(
    state: Mapping[str, Tensor], config: AnyConfig, path: Path, *, dtype: torch.dtype = torch.float16
) -> None:
    """Write weights and their configuration as safetensors, under a temporary name first.

    Raises:
        CheckpointError: The file cannot be written; what was there before still is.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    tensors = {name: value.detach().to("cpu", dtype).contiguous() for name, value in state.items()}
    try:
        save_file(tensors, temporary, metadata={CONFIG_KEY: json.dumps(dataclasses.asdict(config))})
        with temporary.open("rb") as file:
            os.fsync(file.fileno())  # a full disk says so here at the latest
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be written: {error}") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def save_folder(network: AnyNetwork, folder: Path, card: str) -> None:
    """Write a folder as the Hugging Face hub has repositories: weights, configuration and card.

    Weights are written in 16 bits where that loses nothing, as with weights that were read from such a file.

    Args:
        network: In float32.
        folder: Made if it is not there; the three files are replaced.
        card: As Markdown.

    Raises:
        CheckpointError: A file cannot be written.
    """
    state = network.state_dict()
    is_half = all(torch.equal(value, value.half().to(value.dtype)) for value in state.values())
    config = {"library_name": "medsam2", CONFIG_ENTRY: dataclasses.asdict(network.config)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CARD_FILE).write_text(card, encoding="utf-8")
        (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise CheckpointError(f"{folder}: cannot be written: {error.strerror or error}") from error
    dtype = torch.float16 if is_half else torch.float32
    save_weights(state, network.config, folder / MODEL_FILE, dtype=dtype)


def _read_safetensors(path: Path) -> tuple[AnyConfig, dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is not a complete safetensors file") from error
    try:
        table = json.loads(metadata[CONFIG_KEY]) if CONFIG_KEY in metadata else _config_beside(path)
        if table is None:
            return TINY_512, state
        if table.pop("carries_mask", False):  # a field of earlier versions
            raise _of_before(path)
        return config_from(table), state
    except CheckpointError as error:
        raise (error if str(path) in str(error) else _unknown(path, error)) from error
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise _unknown(path, error) from error


def _config_beside(path: Path) -> dict[str, Any] | None:
    """The configuration in config.json beside a model.safetensors, None if there is none."""
    beside = path.with_name(CONFIG_FILE)
    if path.name != MODEL_FILE or not beside.is_file():
        return None
    content: dict[str, Any] = json.loads(beside.read_text(encoding="utf-8"))
    if CONFIG_ENTRY not in content and "architectures" in content:
        raise CheckpointError(
            f"{path} is a model of the library transformers ({', '.join(content['architectures'])}), whose "
            "entries have other names; weights as SAM 2 and MedSAM2 publish them are read"
        )
    return content.get(CONFIG_ENTRY)


def _unknown(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(f"{path} carries a configuration this version does not know ({error})")


def _of_before(path: Path) -> CheckpointError:
    return CheckpointError(
        f"{path} holds weights of the former compact network (compact-256), which this version does not run; "
        "use the weights 'compact' that come with it, or train these anew with `medsam2 train`"
    )


def config_from(table: dict[str, Any]) -> AnyConfig:
    """Turn a stored table into a configuration; JSON has lists where we have tuples."""
    zoom = table.pop("zoom", None)
    if not isinstance(zoom, bool | None):
        raise ValueError(f"zoom cannot be {zoom!r}")
    fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in table.items()}
    for name, value in fields.items():
        lowest = 0 if name == "global_attention_blocks" else 1
        for number in value if isinstance(value, tuple) else (value,):
            if type(number) is not int or not lowest <= number <= MAX_CONFIG_NUMBER:
                raise ValueError(f"{name} cannot be {value!r}")
    config = CompactConfig(**fields) if "channels" in fields else ModelConfig(**fields, zoom=False)
    # Files of earlier versions do not say it: only the official network was trained on whole slices.
    return dataclasses.replace(config, zoom=config != TINY_512 if zoom is None else zoom)


def _read_torch(path: Path) -> tuple[AnyConfig, dict[str, Tensor]]:
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                check_size(path, sum(entry.file_size for entry in archive.infolist()))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's advice about what it then refuses
            content = torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except Exception as error:  # a damaged pickle fails in whatever way its bytes say
        raise CheckpointError(
            f"{path} is not a checkpoint that can be read safely (a .pt file of plain tensors)"
        ) from error
    state = content.get("model", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()
    ):
        raise CheckpointError(f"{path} holds no table of tensors, nor one under the name 'model'")
    return TINY_512, state


def build_network(config: AnyConfig) -> AnyNetwork:
    """Make a network of a configuration, its weights drawn by chance."""
    return CompactNetwork(config) if isinstance(config, CompactConfig) else Network(config)


def _build(config: AnyConfig, state: Mapping[str, Tensor], path: Path) -> AnyNetwork:
    """Build the network that the entries belong to."""
    # Of an unknown configuration only the shapes are built at first: it must not fill the memory before
    # its entries are seen to be there. Presets are spared that, since it costs a second.
    is_known = config in PRESETS.values()
    try:
        with torch.device("cpu" if is_known else "meta"):
            network = build_network(config)
    except (ValueError, TypeError, RuntimeError, ArithmeticError, LookupError, AssertionError) as error:
        raise CheckpointError(f"{path} carries a configuration that no network has: {config}") from error
    _check_entries(state, network.state_dict(), path)
    return network if is_known else build_network(config)


def _check_entries(state: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: Path) -> None:
    missing = [name for name in expected if name not in state]
    unknown = [name for name in state if name not in expected]
    misshapen = [n for n in expected if n in state and state[n].shape != expected[n].shape]
    for names, what in ((missing, "lacks"), (unknown, "also has"), (misshapen, "has other shapes for")):
        if names:
            listed = ", ".join(names[:MAX_NAMED_KEYS])
            more = f" and {len(names) - MAX_NAMED_KEYS} more" if len(names) > MAX_NAMED_KEYS else ""
            guess = guess_network({name: tuple(value.shape) for name, value in state.items()})
            likely = f", {guess} by its entries" if guess not in (None, TINY) else ""
            raise CheckpointError(
                f"{path} is a checkpoint of another network{likely}: it {what} {listed}{more}"
            )
