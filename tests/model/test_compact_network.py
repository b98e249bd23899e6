"""The compact network: its size, its shapes at any view, and what memories do to an answer."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor

from medsam2.checkpoints import save_weights
from medsam2.errors import CheckpointError
from medsam2.model.compact.config import COMPACT, CompactConfig
from medsam2.model.compact.memory import HERE, CompactMemories, Square, cell_shares, positions
from medsam2.model.compact.network import PLANES, CompactAnswer, CompactNetwork

CLOSE = {"atol": 1e-4, "rtol": 0}


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(1)


def _planes(batch: int, size: int = 64) -> Tensor:
    return torch.rand(batch, len(PLANES), size, size)


def _memories(batch: int, side: int = 4, squares: tuple[Square, Square] = (HERE, HERE)) -> CompactMemories:
    generator = torch.Generator().manual_seed(2)
    return CompactMemories(
        spatial=[torch.randn(batch, 64, side, side, generator=generator) for _ in range(2)],
        codes=[6, 0],
        squares=squares,
        pointers=[torch.randn(batch, 64, generator=generator) for _ in range(2)],
        distances=[0.4, 0.1],
    )


def _answer(network: CompactNetwork, planes: Tensor, memories: CompactMemories | None) -> CompactAnswer:
    with torch.no_grad():
        return network.answer(network.encode_image(planes), memories)


def _farthest(first: CompactAnswer, second: CompactAnswer) -> float:
    return float((first.mask_logits - second.mask_logits).abs().max())


def test_the_network_that_ships_is_small(tmp_path: Path) -> None:
    network = CompactNetwork(COMPACT)
    assert sum(parameter.numel() for parameter in network.parameters()) <= 6_000_000
    path = tmp_path / "compact.safetensors"
    save_weights(network.state_dict(), COMPACT, path)
    assert path.stat().st_size <= 12_000_000


def test_one_state_serves_views_of_any_size(compact_network: CompactNetwork) -> None:
    config = compact_network.config
    for size in (128, 192):
        network = CompactNetwork(dataclasses.replace(config, image_size=size)).eval()
        network.load_state_dict(compact_network.state_dict(), strict=True)
        assert (network.config.grid_size, network.config.mask_size) == (size // 16, size)
        features = network.encode_image(_planes(2, size))
        assert features.fine.shape == (2, 8, size, size)
        assert [tuple(level.shape) for level in features.levels] == [
            (2, 8, size // 2, size // 2),
            (2, 8, size // 4, size // 4),
            (2, 16, size // 8, size // 8),
        ]
        assert features.level2.shape == (2, 16, size // 16, size // 16)
        answer = network.answer(features, _memories(2, size // 16))
        assert answer.mask_logits.shape == (2, 1, size, size)
        assert answer.overlap.shape == answer.object_logits.shape == (2, 1)
        assert ((answer.overlap > 0) & (answer.overlap < 1)).all()
        assert answer.seen.shape == (2, 16, size // 16, size // 16)
        shares = cell_shares(answer.mask_logits.sigmoid(), size // 16)
        assert network.encode_memory(answer.seen, shares).shape == (2, 64, size // 16, size // 16)
        assert network.point_at(answer.pooled).shape == (2, 64)


@pytest.mark.parametrize("remembers", [False, True])
def test_a_batch_of_two_is_two_batches_of_one(compact_network: CompactNetwork, remembers: bool) -> None:
    planes, memories = _planes(2), _memories(2) if remembers else None
    both = _answer(compact_network, planes, memories)
    for index in range(2):
        part = slice(index, index + 1)
        own = memories and dataclasses.replace(
            memories,
            spatial=[memory[part] for memory in memories.spatial],
            pointers=[pointer[part] for pointer in memories.pointers],
        )
        alone = _answer(compact_network, planes[part], own)
        for field in dataclasses.fields(CompactAnswer):
            torch.testing.assert_close(
                getattr(both, field.name)[part], getattr(alone, field.name), **CLOSE, msg=field.name
            )
    assert (both.mask_logits[0] - both.mask_logits[1]).abs().max() > 0.01


def test_each_plane_is_looked_at(compact_network: CompactNetwork) -> None:
    planes = _planes(1)
    usual = _answer(compact_network, planes, None)
    for index, name in enumerate(PLANES):
        changed = planes.clone()
        changed[:, index] = 1 - changed[:, index]
        assert _farthest(usual, _answer(compact_network, changed, None)) > 1e-3, name


def test_memories_are_told_by_their_place_their_code_and_their_distance(
    compact_network: CompactNetwork,
) -> None:
    planes = _planes(1)
    usual, again = (_answer(compact_network, planes, _memories(1)) for _ in range(2))
    assert torch.equal(usual.mask_logits, again.mask_logits)
    moved: Square = (0.5, -0.25, 1.0)
    smaller: Square = (0.25, 0.25, 0.5)
    others = {
        "moved": _memories(1, squares=(moved, HERE)),
        "smaller": _memories(1, squares=(HERE, smaller)),
        "recoded": dataclasses.replace(_memories(1), codes=[6, 3]),
        "farther": dataclasses.replace(_memories(1), distances=[0.4, 1.4]),
        "without pointers": dataclasses.replace(_memories(1), pointers=[], distances=[]),
        "none": None,
    }
    for name, memories in others.items():
        assert _farthest(usual, _answer(compact_network, planes, memories)) > 1e-5, name


def test_neither_the_order_of_memories_matters_nor_that_one_is_listed_twice(
    compact_network: CompactNetwork,
) -> None:
    planes, memories = _planes(1), _memories(1, squares=(HERE, (0.5, 0.0, 1.0)))
    usual = _answer(compact_network, planes, memories)

    def listed(order: list[int]) -> CompactMemories:
        return CompactMemories(
            **{
                field.name: [getattr(memories, field.name)[index] for index in order]
                for field in dataclasses.fields(CompactMemories)
            }
        )

    for order in ([1, 0], [0, 1, 0, 1]):
        other = _answer(compact_network, planes, listed(order))
        torch.testing.assert_close(other.mask_logits, usual.mask_logits, **CLOSE)


def test_positions_are_those_of_places_in_the_view() -> None:
    side = 4
    here = positions(torch.tensor([HERE]), side).unflatten(0, (side, side))
    moved = torch.tensor([(0.25, 0, 1), (0, 0.25, 1)])
    right, down = positions(moved, side).unflatten(0, (2, side, side))
    torch.testing.assert_close(right[:, :-1], here[:, 1:])
    torch.testing.assert_close(down[:-1], here[1:])
    assert here.flatten(0, 1).unique(dim=0).shape == (side * side, 64), "no two cells look alike"
    # A memory from a view twice as wide: its middle cells lie where today's corners are.
    wide = positions(torch.tensor([(-0.5, -0.5, 2.0)]), 2)
    corners = positions(torch.tensor([(-0.25, -0.25, 0.5), (0.75, 0.75, 0.5)]), 1)
    torch.testing.assert_close(wide[[0, 3]], corners)


def test_shares_of_a_mask_in_cells() -> None:
    inside = torch.zeros(1, 1, 8, 8)
    inside[..., :4, :2] = 0.5
    shares = cell_shares(inside, 2)
    assert shares[0, 0].tolist() == [[0.25, 0.0], [0.0, 0.0]]
    assert shares[0, 1].tolist() == [[0.5, 0.0], [0.0, 0.0]]


def test_without_memories_the_cells_are_marked_and_nothing_else(compact_network: CompactNetwork) -> None:
    level2 = torch.randn(2, 16, 4, 4)
    with torch.no_grad():
        marked = compact_network.attend_memory(level2, None)
    added = compact_network.memory_reader.absent[None, :, None, None].expand(2, -1, 4, 4)
    torch.testing.assert_close(marked - level2, added, atol=1e-6, rtol=0)


def test_gradients_reach_every_parameter(compact_network: CompactNetwork) -> None:
    first = compact_network.answer(compact_network.encode_image(_planes(2)), None)
    shares = cell_shares(first.mask_logits.sigmoid(), 4)
    memories = CompactMemories(
        spatial=[compact_network.encode_memory(first.seen, shares)],
        codes=[6],
        squares=[HERE],
        pointers=[compact_network.point_at(first.pooled)],
        distances=[0.1],
    )
    second = compact_network.answer(compact_network.encode_image(_planes(2)), memories)
    (second.mask_logits.square().mean() + second.overlap.sum() + second.object_logits.sum()).backward()
    untouched = {n for n, p in compact_network.named_parameters() if p.grad is None or not p.grad.any()}
    assert untouched == set()
    used = compact_network.memory_reader.codes.grad.any(dim=1)
    assert used.nonzero().flatten().tolist() == [6]


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ({"image_size": 100}, "image_size must be a multiple of 32, not 100"),
        ({"channels": (8, 8, 12, 16, 16)}, r"channels must be multiples of 8, not \[8, 8, 12, 16, 16\]"),
        ({"blocks": (1, 1, 0, 1, 1)}, r"each level needs a block at least, not \[1, 1, 0, 1, 1\]"),
    ],
)
def test_impossible_shapes_of_a_compact_network_are_refused(
    setting: dict[str, object], sentence: str
) -> None:
    with pytest.raises(CheckpointError, match=sentence):
        CompactConfig(**{**dataclasses.asdict(COMPACT), **setting})
