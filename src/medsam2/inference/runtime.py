"""A network on a device, in a precision: what every session of a predictor shares."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from medsam2.errors import InputError
from medsam2.model.network import Network

DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = ("auto", "float32", "bfloat16")


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """Immutable; safe to share between sessions."""

    network: Network
    device: torch.device
    precision: torch.dtype

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Compute without gradients in the chosen precision."""
        is_reduced = self.precision != torch.float32
        with torch.inference_mode(), torch.autocast(self.device.type, self.precision, enabled=is_reduced):
            yield


def start_runtime(network: Network, *, device: str = "auto", precision: str = "auto") -> Runtime:
    """Put a network on a device.

    Args:
        network: In float32.
        device: One of `DEVICES`, or a CUDA device such as `cuda:1`; auto takes CUDA where there is one.
        precision: One of `PRECISIONS`; auto is float32.

    Raises:
        InputError: There is no such device or precision here.
    """
    if precision not in PRECISIONS:
        raise InputError(f"precision is one of {', '.join(PRECISIONS)}, not {precision!r}")
    chosen = _find_device(device)
    return Runtime(
        network=network.to(chosen).eval(),
        device=chosen,
        precision=torch.bfloat16 if precision == "bfloat16" else torch.float32,
    )


def _find_device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, index = name.partition(":")
    if kind not in DEVICES or (index and not index.isdigit()):
        raise InputError(f"device is one of {', '.join(DEVICES)} or cuda:N, not {name!r}")
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        raise InputError(f"device {name} is not there: PyTorch sees {torch.cuda.device_count()} CUDA devices")
    return torch.device(name)
