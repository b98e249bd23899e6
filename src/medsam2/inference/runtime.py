"""What a caller may choose about inference, and the network on its device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from medsam2.errors import InputError
from medsam2.inference.fast.network import FastNetwork
from medsam2.model.compact.network import CompactNetwork
from medsam2.model.network import Network
from medsam2.tracking.policies import POLICIES, Policy


@dataclass(frozen=True, kw_only=True)
class InferenceOptions:
    """Behaviour of a session; the network's shapes and the device are chosen elsewhere."""

    zoom: bool | None = None
    """Look at a square around the prompt instead of whole slices; None as the network was trained."""
    memory: str | Policy = "recent"
    """The memory policy: a name in `tracking.policies.POLICIES`, or one's own."""
    keep_component: bool | None = None
    """Keep only the connected part that holds the prompt; None does so with the compact network, and with an
    official one for an object of one box."""
    stop_after: int | None = None
    """End a direction after so many slices without the object, 0 never. None ends at the first one where
    `keep_component` applies, which loses nothing, and never elsewhere."""
    fill_hole_area: int = 0
    """Fill holes of up to so many pixels of the network's mask (SAM 2 on CUDA: 8), 0 fills none."""
    stability_fallback: bool = True
    """Replace an unstable mask by the best of three candidates, as SAM 2 does."""

    def __post_init__(self) -> None:
        if isinstance(self.memory, str) and self.memory not in POLICIES:
            raise InputError(f"memory is one of {', '.join(POLICIES)}, not {self.memory!r}")
        if self.stop_after is not None and self.stop_after < 0:
            raise InputError(f"stop_after is 0 or more slices, not {self.stop_after}")
        if self.fill_hole_area < 0:
            raise InputError(f"fill_hole_area is 0 or more pixels, not {self.fill_hole_area}")

    @property
    def policy(self) -> Policy:
        """The memory policy itself."""
        return POLICIES[self.memory] if isinstance(self.memory, str) else self.memory


DEVICES = ("auto", "cpu", "cuda", "mps")
PRECISIONS = ("auto", "float32", "float32-fast", "bfloat16")


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """Immutable; safe to share between sessions."""

    network: Network | CompactNetwork
    device: torch.device
    precision: torch.dtype

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Compute without gradients in the chosen precision."""
        # A fast network knows the precision of each of its parts.
        mixes = self.precision != torch.float32 and not isinstance(self.network, FastNetwork)
        with torch.inference_mode(), torch.autocast(self.device.type, self.precision, enabled=mixes):
            yield


def start_runtime(
    network: Network | CompactNetwork, *, device: str = "auto", precision: str = "auto"
) -> Runtime:
    """Put a network on a device.

    Args:
        network: In float32.
        device: One of `DEVICES`, or a CUDA device such as `cuda:1`; auto takes CUDA where there is one.
        precision: One of `PRECISIONS`. float32 is the published network operation for operation,
            float32-fast the same numbers, but for rounding, in an order that takes less time, bfloat16 that
            order with products of bfloat16. On a CPU auto is bfloat16, if the processor multiplies in it, or
            else float32-fast; elsewhere float32. The compact network has one order alone.

    Raises:
        InputError: There is no such device or precision here.
    """
    if precision not in PRECISIONS:
        raise InputError(f"precision is one of {', '.join(PRECISIONS)}, not {precision!r}")
    chosen = _find_device(device)
    if precision == "auto":
        precision = _choose_precision(chosen)
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    network = network.to(chosen).eval()
    if isinstance(network, CompactNetwork):
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    elif chosen.type == "cpu" and precision != "float32":
        network = FastNetwork(network, dtype).eval()
    return Runtime(network=network, device=chosen, precision=dtype)


def _choose_precision(device: torch.device) -> str:
    if device.type != "cpu":
        return "float32"
    return "bfloat16" if multiplies_bfloat16() else "float32-fast"


def multiplies_bfloat16() -> bool:
    """Whether this processor has instructions for bfloat16, without which it is slower than float32."""
    found = torch.cpu.get_capabilities()
    return bool(found.get("avx512_bf16") or found.get("amx_bf16"))


def _find_device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, index = name.partition(":")
    if kind not in DEVICES or (index and not index.isdigit()):
        raise InputError(f"device is one of {', '.join(DEVICES)} or cuda:N, not {name!r}")
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        raise InputError(f"device {name} is not there: PyTorch sees {torch.cuda.device_count()} CUDA devices")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise InputError("device mps is not there: it needs a Mac with Apple silicon")
    return torch.device(name)
