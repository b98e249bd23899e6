"""The precision that `auto` stands for, and the path that a GPU takes, walked on the CPU."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch.overrides import TorchFunctionMode

from medsam2.imaging.volume import Volume
from medsam2.inference.features import normalise, upload
from medsam2.inference.options import PRECISIONS, InferenceOptions
from medsam2.inference.precision import FEATURES, Machine, choose, processor_name, this_machine
from medsam2.inference.predictor import Predictor
from medsam2.inference.runtime import Runtime
from medsam2.model.compact.network import CompactNetwork
from medsam2.model.network import Network

AVX2 = ("avx2",)
AVX512 = (*AVX2, "avx512_f", "avx512_vnni")


def _cpu(*features: str, level: str = "DEFAULT", has_onednn: bool = True) -> Machine:
    return Machine(device="cpu", features=frozenset(features), level=level, has_onednn=has_onednn)


@pytest.mark.parametrize(
    ("machine", "precision", "why"),
    [
        (_cpu(*AVX512, "avx512_bf16", "amx_bf16", level="AVX512"), "bfloat16", "AMX"),
        (_cpu(*AVX512, "avx512_bf16", "amx_bf16", level="AVX512_VNNI"), "bfloat16", "AMX"),
        (_cpu(*AVX512, "avx512_bf16", level="AVX512"), "bfloat16", "AVX-512"),
        (_cpu(*AVX512, level="AVX512"), "float32-fast", "AVX-512 without products of bfloat16"),
        (_cpu(*AVX512, "avx512_bf16", level="AVX2"), "float32-fast", "AVX2"),
        (_cpu(*AVX2, level="AVX2"), "float32-fast", "AVX2"),
        (_cpu(), "float32-fast", "neither AVX2 nor AVX-512"),
        (_cpu(*AVX512, "avx512_bf16", level="AVX512", has_onednn=False), "float32-fast", "no oneDNN"),
        (_cpu("neon", "bf16", "i8mm", "sve", level="SVE256"), "float32-fast", "ARM"),
        (_cpu("neon", has_onednn=False), "float32-fast", "no oneDNN"),
        (Machine(device="cuda", cuda_capability=(9, 0)), "bfloat16", "compute capability 9.0"),
        (Machine(device="cuda", cuda_capability=(8, 0)), "bfloat16", "compute capability 8.0"),
        (Machine(device="cuda", cuda_capability=(7, 5)), "float16", "older than Ampere"),
        (Machine(device="mps", features=frozenset(("neon",))), "float32", "not been measured"),
    ],
)
def test_a_precision_for_each_machine(machine: Machine, precision: str, why: str) -> None:
    choice = choose(machine)
    assert choice.precision == precision
    assert precision in PRECISIONS
    assert choice.reason.startswith(f"{precision}: ")
    assert why in choice.reason
    assert choice.reason.endswith(".")


def test_this_processor_is_seen_as_it_is() -> None:
    machine = this_machine(torch.device("cpu"))
    assert machine.device == "cpu"
    assert machine.cuda_capability is None
    assert machine.level == torch.backends.cpu.get_cpu_capability()
    assert machine.features <= set(FEATURES)
    assert machine.features, "a processor of the last ten years has one of them"
    assert processor_name()
    info = Path("/proc/cpuinfo")
    if info.is_file() and "avx2" in machine.features:  # the system names them without underscores
        flags = next(line for line in info.read_text().splitlines() if line.startswith("flags")).split()
        for ours, theirs in (("avx2", "avx2"), ("avx512_bf16", "avx512_bf16"), ("amx_bf16", "amx_bf16")):
            assert (ours in machine.features) == (theirs in flags)


@pytest.mark.skipif("avx2" not in this_machine(torch.device("cpu")).features, reason="no x86 processor")
def test_a_processor_that_is_told_to_be_older() -> None:
    code = (
        "from medsam2.inference.precision import choose, this_machine\n"
        "from medsam2.inference.runtime import find_device\n"
        "print(choose(this_machine(find_device('auto'))).precision)"
    )
    environment = {**os.environ, "ATEN_CPU_CAPABILITY": "avx2", "CUDA_VISIBLE_DEVICES": ""}
    found = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "float32-fast"


class Attentions(TorchFunctionMode):
    """Notes every call of PyTorch's attention while it computes."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[torch.dtype, int, bool, bool]] = []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            q, k, v = args[:3]
            dense = all(t.stride(-1) == 1 for t in (q, k, v))
            self.calls.append((q.dtype, q.shape[-1], kwargs.get("attn_mask") is None, dense))
            assert q.dtype == k.dtype == v.dtype
        return func(*args, **kwargs)


def _walk(runtime: Runtime) -> np.ndarray:
    array = np.random.default_rng(0).integers(0, 100, (7, 64, 64)).astype(np.int16)
    array[:, 20:40, 24:44] += 100
    options = InferenceOptions(keep_component=False, stop_after=0)
    session = Predictor(runtime).session(Volume.from_array(array), window=(0, 200), options=options)
    session.add(1, slice=3, box=(24, 20, 43, 39))
    session.add(2, slice=3, box=(10, 8, 30, 30))
    for _ in session.propagate():
        pass
    session.add(1, slice=5, points=[(30, 30)], labels=[1])
    return np.asarray(session.result().array)


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["official", "compact"])
def test_the_path_of_a_gpu_may_use_its_flash_kernels(
    kind: str, half: torch.dtype, network: Network, compact_network: CompactNetwork
) -> None:
    plain = (network if kind == "official" else compact_network).eval()
    # What `start_runtime` gives on CUDA: the network in its published order, under autocast.
    runtime = Runtime(network=plain, device=torch.device("cpu"), precision=half)
    with Attentions() as seen:
        mask = _walk(runtime)
    assert mask.shape == (7, 64, 64)
    assert seen.calls
    for dtype, channels, has_no_mask, is_dense in seen.calls:
        assert dtype == half, "flash kernels take half precision alone"
        assert channels <= 256, "flash kernels take heads of up to 256 channels"
        assert has_no_mask
        assert is_dense


def test_uploading_changes_no_value() -> None:
    greys = torch.arange(256, dtype=torch.uint8).view(1, 16, 16)
    assert torch.equal(upload(greys, torch.device("cpu")), greys)
    mean, std = np.float32((0.485, 0.456, 0.406)), np.float32((0.229, 0.224, 0.225))
    expected = (greys.numpy()[:, None].astype(np.float32) / 255 - mean[:, None, None]) / std[:, None, None]
    np.testing.assert_allclose(normalise(greys).numpy(), expected, atol=1e-6)
    with torch.inference_mode():
        normalise(greys)
    assert not normalise(greys).is_inference(), "what is kept serves training too"
