"""Devices and precisions: the ones that are there, and words for the ones that are not."""

from __future__ import annotations

import pytest
import torch

from medsam2.errors import InputError
from medsam2.inference.fast.network import FastNetwork
from medsam2.inference.precision import choose, this_machine
from medsam2.inference.runtime import InferenceOptions, start_runtime
from medsam2.model.compact.network import CompactNetwork
from medsam2.model.network import Network


@pytest.mark.parametrize("device", ["gpu", "mps:x", "cuda:x", "", "CUDA", "cuda:-1"])
def test_unknown_devices(network: Network, device: str) -> None:
    with pytest.raises(InputError) as refused:
        start_runtime(network, device=device)
    assert str(refused.value) == f"device is one of auto, cpu, cuda, mps or cuda:N, not {device!r}"


def test_a_cuda_device_that_is_not_there(network: Network) -> None:
    count = torch.cuda.device_count()
    with pytest.raises(InputError) as refused:
        start_runtime(network, device=f"cuda:{count}")
    assert str(refused.value) == f"device cuda:{count} is not there: PyTorch sees {count} CUDA devices"


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="this machine has it")
def test_an_apple_gpu_that_is_not_there(network: Network) -> None:
    with pytest.raises(InputError, match="device mps is not there: it needs a Mac with Apple silicon"):
        start_runtime(network, device="mps")


@pytest.mark.parametrize("precision", ["half", "bf16", "", "Float32"])
def test_unknown_precisions(network: Network, precision: str) -> None:
    with pytest.raises(InputError) as refused:
        start_runtime(network, device="cpu", precision=precision)
    names = "auto, float32, float32-fast, bfloat16, float16"
    assert str(refused.value) == f"precision is one of {names}, not {precision!r}"


def test_float16_is_for_gpus(network: Network) -> None:
    with pytest.raises(InputError) as refused:
        start_runtime(network, device="cpu", precision="float16")
    assert str(refused.value) == (
        "float16 is for GPUs; on a CPU precision is float32, float32-fast or bfloat16"
    )


def test_auto_is_what_was_chosen_for_this_processor(
    network: Network, compact_network: CompactNetwork
) -> None:
    chosen = choose(this_machine(torch.device("cpu")))
    official = start_runtime(network.train(), device="cpu")
    compact = start_runtime(compact_network.train(), device="cpu")
    assert isinstance(official.network, FastNetwork)
    assert compact.network is compact_network, "it has one order alone"
    for runtime in (official, compact):
        name = str(runtime.precision).removeprefix("torch.")
        assert name == chosen.precision.removesuffix("-fast")
        assert runtime.device == torch.device("cpu")
        assert runtime.reason.startswith(f"{name}: " if runtime is compact else f"{chosen.precision}: ")
        assert not runtime.network.training


def test_float32_is_the_network_itself(network: Network) -> None:
    runtime = start_runtime(network, device="cpu", precision="float32")
    assert runtime.network is network
    assert runtime.reason == "float32: the caller chose it."


def test_computing_takes_no_gradients_and_gives_them_back(network: Network) -> None:
    runtime = start_runtime(network, device="cpu", precision="bfloat16")
    layer = network.obj_ptr_tpos_proj
    with runtime.computing():
        result = layer(torch.ones(1, 64))
        assert result.dtype == torch.float32, "the small parts keep their precision"
        assert not result.requires_grad
    assert layer(torch.ones(1, 64)).requires_grad


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"memory": "all"}, "memory is one of recent, self-sorting, not 'all'"),
        ({"stop_after": -1}, "stop_after is 0 or more slices, not -1"),
        ({"fill_hole_area": -8}, "fill_hole_area is 0 or more pixels, not -8"),
    ],
)
def test_options_that_are_not_there(options: dict[str, object], sentence: str) -> None:
    with pytest.raises(InputError) as refused:
        InferenceOptions(**options)
    assert str(refused.value) == sentence
