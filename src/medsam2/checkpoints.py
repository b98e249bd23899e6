"""Files and weights: the only door through which weights come in and go out."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import re
import warnings
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import huggingface_hub
import torch
from huggingface_hub.errors import OfflineModeIsEnabled
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from medsam2.errors import CheckpointError
from medsam2.model.compact.config import CompactConfig
from medsam2.model.compact.network import CompactNetwork
from medsam2.model.config import PRESETS, TINY_512, ModelConfig
from medsam2.model.network import Network
from medsam2.weights import SHIPPED_NAME, SPECS, TINY, WeightsSpec, guess_network

CONFIG_KEY = "medsam2.config"  # entry of the safetensors header
HOME_VARIABLE = "MEDSAM2_HOME"
DEFAULT_HOME = "~/.medsam2"
SUFFIXES = (".safetensors", ".pt", ".pth")
MAX_NAMED_KEYS = 3
# SAM 2.1 Large with its optimiser is under 3 GB: what is larger is no checkpoint of these networks.
MAX_BYTES = 4 << 30
MAX_CONFIG_NUMBER = 2048  # a header must not make us build a network that fills the memory

_SHA256 = re.compile(r"[0-9a-f]{64}")

logger = logging.getLogger(__name__)

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
    """The model card that lies beside the file under the same name, as Markdown."""


def shipped_path() -> Path:
    """Where the weights that come with the package lie."""
    return Path(str(resources.files("medsam2") / "shipped" / f"{SHIPPED_NAME}.safetensors"))


def weights_folder() -> Path:
    """Where fetched weights are kept: `weights` in MEDSAM2_HOME, which is `~/.medsam2` if not set.

    Raises:
        CheckpointError: There is no home: an unknown user without HOME, as in some containers.
    """
    named = os.environ.get(HOME_VARIABLE)
    try:
        return Path(named or DEFAULT_HOME).expanduser() / "weights"
    except RuntimeError as error:
        whose = f"{HOME_VARIABLE}={named} names no" if named else "this user has no"
        raise CheckpointError(
            f"{whose} home folder, so there is no place for weights; set {HOME_VARIABLE} to a folder for them"
        ) from error


def resolve(name_or_path: str | Path) -> Path:
    """Find the file of weights, fetching it once if it has an official name and is not here.

    Args:
        name_or_path: A name of `weights.SPECS`, or a file. A name goes before a file that is called so.

    Raises:
        CheckpointError: There is no such name or file, or it is damaged or cannot be fetched.
    """
    name = str(name_or_path)
    if name in SPECS:
        return fetch(SPECS[name])
    try:
        path = Path(name).expanduser()
    except RuntimeError as error:
        raise CheckpointError(f"no such weights file: {name}; there is no home folder for ~") from error
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder, not a weights file")
    if path.is_file():
        return path
    if path.suffix in SUFFIXES or path.name != name:
        raise CheckpointError(f"no such weights file: {path}")
    raise CheckpointError(
        f"no weights are called {name!r}; there are {', '.join(SPECS)}, and a file is accepted as well"
    )


def locate(spec: WeightsSpec) -> Path | None:
    """Find weights on this machine: in the package, in our folder or in the Hugging Face hub's cache.

    Raises:
        CheckpointError: There is no folder of ours, or it may not be looked into.
    """
    if spec.repository is None:
        return shipped_path() if shipped_path().is_file() else None
    kept = weights_folder() / spec.filename
    try:
        if kept.is_file():
            return kept
    except PermissionError as error:
        raise CheckpointError(
            f"{kept.parent} may not be looked into; set {HOME_VARIABLE} to another folder for weights"
        ) from error
    cached = huggingface_hub.try_to_load_from_cache(spec.repository, spec.filename)
    return Path(cached) if isinstance(cached, str) else None


def fetch(spec: WeightsSpec) -> Path:
    """Find weights on this machine or download them, and verify them where a digest is known.

    Raises:
        CheckpointError: They are damaged, or they are not here and cannot be had.
    """
    path = locate(spec)
    if path is None:
        return _download(spec)
    expected = spec.sha256 or _recorded_digest(path)
    if expected is not None and (digest := file_digest(path)) != expected:
        raise CheckpointError(
            f"{path} is damaged: its SHA-256 is {digest}, not {expected}; delete it and fetch it again"
        )
    return path


def file_digest(path: Path) -> str:
    """Give the SHA-256 of a file in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
    _check_size(path, path.stat().st_size)
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
    card = path.with_suffix(".md")
    return WeightsSummary(
        path=path,
        num_bytes=path.stat().st_size,
        sha256=file_digest(path),
        config=network.config,
        preset=next((name for name, config in PRESETS.items() if config == network.config), None),
        num_entries=len(state),
        num_parameters=sum(parameter.numel() for parameter in network.parameters()),
        card=card.read_text(encoding="utf-8") if card.is_file() else None,
    )


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


def _download(spec: WeightsSpec) -> Path:
    """Download into our folder; what is broken off is taken up again at the next try."""
    if spec.repository is None:
        raise CheckpointError(f"the weights {spec.name!r} are missing from this installation of medsam2")
    path = weights_folder() / spec.filename
    try:
        url = huggingface_hub.hf_hub_url(spec.repository, spec.filename)
        metadata = huggingface_hub.get_hf_file_metadata(url)
        _check_size(path, metadata.size or 0)
        _make_folder(path.parent)
        # A warning, so that the licence is seen by whoever did not ask for log lines.
        logger.warning("fetching the weights %s from %s (licence: %s)", spec.name, spec.origin, spec.licence)
        # The same commit as the metadata's, so that the digest is this file's.
        huggingface_hub.hf_hub_download(
            spec.repository, spec.filename, revision=metadata.commit_hash, local_dir=path.parent
        )
    except CheckpointError:
        raise
    except Exception as error:  # the hub's client raises its HTTP library's errors, and that library changes
        raise CheckpointError(_how_to_copy(spec, path, error)) from error
    digest = file_digest(path)
    expected = spec.sha256 or _as_digest(metadata.etag or "")
    if expected is not None and digest != expected:
        path.unlink()
        raise CheckpointError(
            f"what came from {spec.origin} is damaged: its SHA-256 is {digest}, not {expected}; try again"
        )
    if expected is None:
        logger.warning("the hub gives no SHA-256 of %s, so it could not be verified", spec.origin)
    _record_path(path).write_text(f"{digest}  {path.name}\n", encoding="utf-8")
    return path


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(
            f"cannot keep weights in {folder} ({error.strerror}); set {HOME_VARIABLE} to another folder"
        ) from error


def _how_to_copy(spec: WeightsSpec, path: Path, error: Exception) -> str:
    detail = next(iter(str(error).splitlines()), "") or type(error).__name__
    reason = "HF_HUB_OFFLINE is set" if isinstance(error, OfflineModeIsEnabled) else detail.rstrip(".")
    return (
        f"the weights {spec.name!r} are not on this machine and cannot be fetched ({reason}); "
        f"copy {spec.filename} from the repository {spec.repository} on the Hugging Face hub to {path}"
    )


def _record_path(path: Path) -> Path:
    """Where a digest is kept, in the format of `sha256sum --check`."""
    return path.with_name(f"{path.name}.sha256")


def _recorded_digest(path: Path) -> str | None:
    try:
        return _as_digest(_record_path(path).read_text(encoding="utf-8").partition(" ")[0])
    except (OSError, UnicodeDecodeError):
        # In the hub's own cache the file is a link to a blob that is called by its digest.
        return _as_digest(path.resolve().name)


def _as_digest(text: str) -> str | None:
    return text if _SHA256.fullmatch(text) else None


def _check_size(path: Path, num_bytes: int) -> None:
    if num_bytes > MAX_BYTES:
        raise CheckpointError(
            f"{path} has {num_bytes:,} bytes and is no checkpoint of these networks, "
            f"which have at most {MAX_BYTES:,}"
        )


def _read_safetensors(path: Path) -> tuple[AnyConfig, dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is not a complete safetensors file") from error
    if CONFIG_KEY not in metadata:
        return TINY_512, state
    try:
        table = json.loads(metadata[CONFIG_KEY])
        if table.pop("carries_mask", False):  # a field of earlier versions
            raise _of_before(path)
        return config_from(table), state
    except CheckpointError as error:
        raise (error if str(path) in str(error) else _unknown(path, error)) from error
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise _unknown(path, error) from error


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
                _check_size(path, sum(entry.file_size for entry in archive.infolist()))
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
