"""The precision that `auto` stands for: chosen by what the processor or the GPU multiplies fast."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path

import torch

AMPERE = (8, 0)
"""Compute capability of the first NVIDIA GPUs that multiply bfloat16."""
CPUINFO = Path("/proc/cpuinfo")
FEATURES = (
    "avx2",
    "avx512_f",
    "avx512_vnni",
    "avx512_bf16",
    "amx_bf16",
    "neon",
    "bf16",
    "i8mm",
    "sve",
    "sve_bf16",
    "sme",
)
"""What PyTorch calls the instructions that matter for products; the last six are ARM's."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What a precision is chosen by."""

    device: str
    """"cpu", "cuda" or "mps"."""
    features: frozenset[str] = frozenset()
    """Those of `FEATURES` that the processor has."""
    level: str = "DEFAULT"
    """Instructions that PyTorch's own kernels use, "AVX512" for example; less than the processor has if
    `ATEN_CPU_CAPABILITY` says so."""
    has_onednn: bool = True
    """Whether PyTorch multiplies with oneDNN, without which products of bfloat16 are slow on a CPU."""
    cuda_capability: tuple[int, int] | None = None


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A precision of `PRECISIONS`, and why it was chosen."""

    precision: str
    reason: str
    """A sentence for people."""


def choose(machine: Machine) -> Choice:
    """Choose the fastest precision that changes no mask for the worse; nothing is measured or drawn.

    On a CPU the float32 choice is the rearranged order. It does fewer operations of the same kinds than the
    published order, so that it is not the slower one on any processor.
    """
    if machine.device == "cuda":
        return _choose_on_cuda(machine.cuda_capability or (0, 0))
    if machine.device != "cpu":
        return Choice(
            precision="float32", reason="float32: other precisions have not been measured on this GPU."
        )
    if not machine.has_onednn:
        return _fast("this PyTorch has no oneDNN, which multiplies bfloat16 fast")
    if "neon" in machine.features:
        return _fast("bfloat16 has not been measured on ARM")
    if not machine.level.startswith("AVX512"):
        seen = "AVX2" if "avx2" in machine.features else "neither AVX2 nor AVX-512"
        return _fast(f"PyTorch computes with {seen}, which has no products of bfloat16")
    if "amx_bf16" in machine.features:
        return Choice(precision="bfloat16", reason="bfloat16: this processor multiplies it with AMX.")
    if "avx512_bf16" in machine.features:
        return Choice(precision="bfloat16", reason="bfloat16: this processor multiplies it with AVX-512.")
    return _fast("this processor has AVX-512 without products of bfloat16")


def _choose_on_cuda(capability: tuple[int, int]) -> Choice:
    named = f"compute capability {capability[0]}.{capability[1]}"
    if capability >= AMPERE:
        return Choice(precision="bfloat16", reason=f"bfloat16: this GPU multiplies it ({named}).")
    return Choice(
        precision="float16", reason=f"float16: this GPU is older than Ampere ({named}), without bfloat16."
    )


def _fast(why: str) -> Choice:
    return Choice(precision="float32-fast", reason=f"float32-fast: {why}.")


def this_machine(device: torch.device) -> Machine:
    """Look at the device and at the processor."""
    capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else None
    found = torch.cpu.get_capabilities()
    return Machine(
        device=device.type,
        features=frozenset(name for name in FEATURES if found.get(name)),
        level=torch.backends.cpu.get_cpu_capability(),
        has_onednn=torch.backends.mkldnn.is_available(),
        cuda_capability=capability,
    )


def processor_name() -> str:
    """Name the processor, by PyTorch, or else by the system."""
    name = torch.cpu.get_capabilities().get("cpu_name") or platform.processor()
    if not name and CPUINFO.is_file():
        lines = CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return str(name or platform.machine())
