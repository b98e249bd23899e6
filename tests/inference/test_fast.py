"""The rearranged network against the network it takes its weights from."""

from __future__ import annotations

import gc

import pytest
import torch

from medsam2.inference.fast import products
from medsam2.inference.fast.network import FastNetwork
from medsam2.inference.fast.trunk import window_layout
from medsam2.model.config import TINY_512, ModelConfig
from medsam2.model.network import ImageFeatures, MemoryTokens, Network

# Windows that fit and that are padded, a global block, pooling from either: 24, 12, 6 and 3 tokens a side.
PADDED = ModelConfig(
    image_size=96,
    embed_dim=16,
    num_heads=1,
    stages=(1, 2, 3, 2),
    global_attention_blocks=(4,),
    window_pos_embed_size=(7, 7),
    window_spec=(8, 4, 4, 2),
    hidden_dim=128,
    memory_attention_layers=2,
)
CONFIGS = {"padded": PADDED, "tiny": TINY_512}
RELATIVE = {torch.float32: 1e-5, torch.bfloat16: 0.03}


def _network(config: ModelConfig) -> Network:
    torch.manual_seed(2)
    network = Network(config).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.03)
    return network


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module", params=list(CONFIGS))
def network(request: pytest.FixtureRequest) -> Network:
    return _network(CONFIGS[request.param])


def _agree(found: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype) -> None:
    assert found.shape == expected.shape
    assert found.dtype == torch.float32
    spread = expected.std()
    assert spread > 1e-2, "a constant output would agree with anything"
    assert (found - expected).std() < RELATIVE[dtype] * spread
    if dtype == torch.float32:
        assert (found - expected).abs().max() < 20 * RELATIVE[dtype] * spread


def _memory(config: ModelConfig, batch: int, num: int, num_pointers: int) -> MemoryTokens:
    grid = config.grid_size
    return MemoryTokens(
        spatial=[torch.randn(batch, 64, grid, grid).bfloat16() for _ in range(num)],
        codes=[6, *range(num - 1)],
        pointers=[torch.randn(batch, config.hidden_dim) for _ in range(num_pointers)],
        distances=[index / 15 for index in range(num_pointers)],
    )


@pytest.mark.parametrize("dtype", list(RELATIVE))
@pytest.mark.parametrize("batch", [1, 2])
def test_encoded_images(network: Network, dtype: torch.dtype, batch: int) -> None:
    size = network.config.image_size
    images = torch.randn(batch, 3, size, size)
    expected = network.encode_image(images)
    found = FastNetwork(network, dtype).encode_image(images)
    for level in ("level0", "level1", "level2"):
        _agree(getattr(found, level), getattr(expected, level), dtype)


@pytest.mark.parametrize("dtype", list(RELATIVE))
@pytest.mark.parametrize(("batch", "num", "num_pointers"), [(1, 7, 16), (2, 3, 1), (1, 1, 0)])
def test_attention_to_memory(
    network: Network, dtype: torch.dtype, batch: int, num: int, num_pointers: int
) -> None:
    config = network.config
    level2 = torch.randn(batch, config.hidden_dim, config.grid_size, config.grid_size)
    features = ImageFeatures(level0=level2, level1=level2, level2=level2)
    memory = _memory(config, batch, num, num_pointers)
    fast = FastNetwork(network, dtype)
    expected = network.attend_memory(features, memory)
    _agree(fast.attend_memory(features, memory), expected, dtype)
    _agree(fast.attend_memory(features, memory), expected, dtype)  # from the keys that were kept
    assert torch.equal(fast.attend_memory(features, None), network.attend_memory(features, None))


def test_keys_follow_codes_and_go_with_their_memories() -> None:
    network = _network(PADDED)
    fast = FastNetwork(network, torch.float32)
    level2 = torch.randn(1, 128, 6, 6)
    features = ImageFeatures(level0=level2, level1=level2, level2=level2)
    memory = _memory(PADDED, 1, 4, 2)
    fast.attend_memory(features, memory)
    later = MemoryTokens(
        spatial=memory.spatial, codes=[6, 3, 4, 5], pointers=memory.pointers, distances=memory.distances
    )
    _agree(fast.attend_memory(features, later), network.attend_memory(features, later), torch.float32)
    kept = fast._attend._keys
    assert len(kept) == 4
    del memory, later
    gc.collect()
    assert len(kept) == 0


def test_kept_keys_are_bounded() -> None:
    fast = FastNetwork(_network(PADDED), torch.float32)
    level2 = torch.randn(1, 128, 6, 6)
    features = ImageFeatures(level0=level2, level1=level2, level2=level2)
    memories = [_memory(PADDED, 1, 7, 0) for _ in range(8)]
    for memory in memories:
        fast.attend_memory(features, memory)
    assert len(fast._attend._keys) == 32


@pytest.mark.parametrize("dtype", list(RELATIVE))
@pytest.mark.parametrize("activation", ["none", "relu", "gelu"])
def test_products_without_the_fused_kernel(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, activation: str
) -> None:
    x = torch.randn(5, 7, 24)
    product = products.Product(torch.randn(10, 24), torch.randn(10), dtype, activation)
    found = product(x)
    monkeypatch.setitem(products._known, dtype, False)
    torch.testing.assert_close(product(x), found, atol=RELATIVE[dtype], rtol=RELATIVE[dtype])


@pytest.mark.parametrize(("side", "window"), [(16, 8), (6, 4), (32, 14), (16, 7), (8, 16), (3, 2), (12, 12)])
def test_windows_and_their_squares_are_contiguous(side: int, window: int) -> None:
    layout = window_layout(side, window)
    assert sorted(layout.order.tolist()) == list(range(side * side))
    assert torch.equal(layout.order[layout.inverse()], torch.arange(side * side))
    size = min(window, side)
    y, x = layout.order // side, layout.order % side
    start = 0
    for group in layout.groups:
        for _ in range(group.count):
            end = start + group.num_tokens
            rows, columns = y[start:end] // size, x[start:end] // size
            assert (rows == rows[0]).all()
            assert (columns == columns[0]).all(), "tokens of one window, and all of them"
            assert group.num_tokens + group.num_padded == size * size
            start = end
    assert start == side * side
    if size % 2 == 0 and side % 2 == 0:
        squares = torch.stack((y // 2, x // 2)).unflatten(1, (-1, 4))
        assert (squares == squares[:, :, :1]).all()
        pooled = (squares[0, :, 0] * (side // 2)) + squares[1, :, 0]
        assert torch.equal(pooled, layout.pooled().order)
