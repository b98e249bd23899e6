"""The network on its device, in its precision."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from medsam2.errors import InputError
from medsam2.inference.fast.network import FastNetwork
from medsam2.inference.options import DEVICES, PRECISIONS
from medsam2.inference.options import InferenceOptions as InferenceOptions  # its place in earlier versions
from medsam2.inference.precision import Choice, choose, this_machine
from medsam2.model.compact.network import CompactNetwork
from medsam2.model.network import Network


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """Immutable; safe to share between sessions."""

    network: Network | CompactNetwork
    device: torch.device
    precision: torch.dtype
    name: str = "torch"
    """One of `RUNTIMES`."""
    reason: str = ""
    """A sentence that says which precision is used and why; empty where there is no choice."""

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
            order with products of bfloat16. float16 is for GPUs. auto is what `precision.choose` says: on a
            CPU bfloat16, if the processor multiplies in it, or else float32-fast; on CUDA bfloat16, before
            Ampere float16; on an Apple GPU float32. The compact network has one order alone.

    Raises:
        InputError: There is no such device or precision here.
    """
    if precision not in PRECISIONS:
        raise InputError(f"precision is one of {', '.join(PRECISIONS)}, not {precision!r}")
    chosen = find_device(device)
    if precision == "float16" and chosen.type == "cpu":
        raise InputError("float16 is for GPUs; on a CPU precision is float32, float32-fast or bfloat16")
    made = choose(this_machine(chosen)) if precision == "auto" else Choice(precision=precision, reason="")
    dtype = getattr(torch, made.precision.removesuffix("-fast"))
    network = network.to(chosen).eval()
    reason = made.reason or f"{precision}: the caller chose it."
    if isinstance(network, CompactNetwork):
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        reason = reason.replace("float32-fast", "float32")  # which are one order here
    elif chosen.type == "cpu" and made.precision != "float32":
        network = FastNetwork(network, dtype).eval()
    return Runtime(network=network, device=chosen, precision=dtype, reason=reason)


def find_device(name: str) -> torch.device:
    """Find one of `DEVICES`, or a CUDA device such as `cuda:1`.

    Raises:
        InputError: There is no such device here.
    """
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
