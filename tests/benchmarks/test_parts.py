"""The table of parts: times without those within, operations counted, and nothing left changed."""

from __future__ import annotations

import time

import pytest
import torch
from parts import FUNCTION_PARTS, MORE_OPERATIONS, NETWORK_PARTS, Clock, make_scan, watching
from torch.utils.flop_counter import FlopCounterMode

from medsam2.inference.fast.products import multiply
from medsam2.model.compact.network import CompactNetwork


def test_a_part_within_a_part_is_counted_once() -> None:
    clock = Clock()
    inner = clock.around("inner", lambda: time.sleep(0.05))

    def work() -> None:
        inner()
        time.sleep(0.02)

    clock.around("outer", work)()
    assert clock.seconds["inner"] >= 0.05
    assert 0.02 <= clock.seconds["outer"] < 0.05


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_operations_of_products_and_attention_are_counted(dtype: torch.dtype) -> None:
    x, weight = torch.randn(5, 7).to(dtype), torch.randn(3, 7).to(dtype)
    q, k = torch.randn(2, 4, 6, 8).to(dtype), torch.randn(2, 4, 9, 8).to(dtype)
    with torch.inference_mode():
        multiply(x, weight)  # the first product checks the fused ones
        with FlopCounterMode(display=False, custom_mapping=MORE_OPERATIONS) as counter:
            multiply(x, weight, activation="gelu")
        assert counter.get_total_flops() == 2 * 5 * 7 * 3
        with FlopCounterMode(display=False, custom_mapping=MORE_OPERATIONS) as counter:
            torch.nn.functional.scaled_dot_product_attention(q, k, k)
        assert counter.get_total_flops() == 2 * 2 * 4 * 6 * 9 * (8 + 8)


def test_watching_leaves_everything_as_it_was(compact_network: CompactNetwork) -> None:
    before = [vars(owner)[name] for places in FUNCTION_PARTS.values() for owner, name in places]
    with watching(compact_network, Clock()):
        during = [vars(owner)[name] for places in FUNCTION_PARTS.values() for owner, name in places]
        assert "encode_image" in vars(compact_network)
    after = [vars(owner)[name] for places in FUNCTION_PARTS.values() for owner, name in places]
    assert all(one is other for one, other in zip(before, after, strict=True))
    assert not any(one is other for one, other in zip(before, during, strict=True))
    assert not {name for names in NETWORK_PARTS.values() for name in names} & set(vars(compact_network))


def test_a_scan_of_any_length_has_prompts_in_it() -> None:
    volume, prompts = make_scan(5)
    assert volume.array.shape == (5, 512, 512)
    assert len(prompts) >= 4
    assert all(0 <= prompt.slice_index < 5 for prompt in prompts)
