"""Devices and precisions: the ones that are there, and words for the ones that are not."""

from __future__ import annotations

import pytest
import torch

from medsam2.errors import InputError
from medsam2.inference.options import InferenceOptions
from medsam2.inference.runtime import start_runtime
from medsam2.model.network import Network


@pytest.mark.parametrize("device", ["gpu", "mps", "cuda:x", "", "CUDA", "cuda:-1"])
def test_unknown_devices(network: Network, device: str) -> None:
    with pytest.raises(InputError) as refused:
        start_runtime(network, device=device)
    assert str(refused.value) == f"device is one of auto, cpu, cuda or cuda:N, not {device!r}"


def test_a_cuda_device_that_is_not_there(network: Network) -> None:
    count = torch.cuda.device_count()
    with pytest.raises(InputError) as refused:
        start_runtime(network, device=f"cuda:{count}")
    assert str(refused.value) == f"device cuda:{count} is not there: PyTorch sees {count} CUDA devices"


@pytest.mark.parametrize("precision", ["float16", "bf16", "", "Float32"])
def test_unknown_precisions(network: Network, precision: str) -> None:
    with pytest.raises(InputError) as refused:
        start_runtime(network, device="cpu", precision=precision)
    assert str(refused.value) == f"precision is one of auto, float32, bfloat16, not {precision!r}"


def test_auto_is_float32_in_evaluation_mode(network: Network) -> None:
    runtime = start_runtime(network.train(), device="cpu")
    assert runtime.precision == torch.float32
    assert runtime.device == torch.device("cpu")
    assert not runtime.network.training


@pytest.mark.parametrize(("precision", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_computing_sets_precision_and_gradients_and_takes_them_back(
    network: Network, precision: str, dtype: torch.dtype
) -> None:
    runtime = start_runtime(network, device="cpu", precision=precision)
    layer = network.obj_ptr_tpos_proj
    with runtime.computing():
        result = layer(torch.ones(1, 64))
        assert result.dtype == dtype
        assert not result.requires_grad
    outside = layer(torch.ones(1, 64))
    assert outside.dtype == torch.float32
    assert outside.requires_grad


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
