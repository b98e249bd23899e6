"""Which memories a slice looks back at, slice by slice as the reference chooses them."""

from __future__ import annotations

import pytest
import torch

from medsam2.tracking.memory import FrameMemory, MemoryBank
from medsam2.tracking.policies import recent


def _memory(z: int) -> FrameMemory:
    """A memory that carries its slice's number in every value."""
    return FrameMemory(slice_index=z, spatial=torch.full((1, 1), z), pointer=torch.full((1, 1), 100 + z))


def _bank(conditioning: list[int], tracked: list[int]) -> MemoryBank:
    return MemoryBank(
        conditioning={z: _memory(z) for z in conditioning}, tracked={z: _memory(z) for z in tracked}
    )


def _seen(bank: MemoryBank, z: int, step: int, num_slices: int):
    """Spatial memories as (slice, code), pointers as (slice, distance in slices)."""
    tokens = recent(bank, z, step=step, num_slices=num_slices)
    unit = min(num_slices, 16) - 1
    spatial = [(int(s), code) for s, code in zip(tokens.spatial, tokens.codes, strict=True)]
    pointers = [
        (int(p) - 100, round(d * unit, 6)) for p, d in zip(tokens.pointers, tokens.distances, strict=True)
    ]
    return spatial, pointers


def test_first_slice_after_the_prompt_sees_the_prompt_alone() -> None:
    spatial, pointers = _seen(_bank([10], []), 11, 1, 40)
    assert spatial == [(10, 6)]
    assert pointers == [(10, 1)]


@pytest.mark.parametrize("step", [1, -1])
def test_six_recent_slices_and_fifteen_pointers(step: int) -> None:
    key, z = (5, 30) if step == 1 else (34, 9)
    tracked = list(range(key + step, z, step))
    spatial, pointers = _seen(_bank([key], tracked), z, step, 40)
    assert spatial == [(key, 6)] + [(z - step * r, r - 1) for r in (6, 5, 4, 3, 2, 1)]
    assert pointers == [(key, 25)] + [(z - step * d, d) for d in range(1, 16)]


def test_the_distance_of_a_prompt_far_back_exceeds_the_unit() -> None:
    tokens = recent(_bank([0], []), 39, step=1, num_slices=40)
    assert tokens.distances == [pytest.approx(39 / 15)]


def test_missing_slices_are_not_replaced_by_older_ones() -> None:
    spatial, pointers = _seen(_bank([0], [1, 2, 3, 4, 5, 7, 9]), 10, 1, 40)
    assert spatial == [(0, 6), (4, 5), (5, 4), (7, 2), (9, 0)]
    assert pointers == [(0, 10), (9, 1), (7, 3), (5, 5), (4, 6), (3, 7), (2, 8), (1, 9)]


@pytest.mark.parametrize(
    ("step", "behind", "expected"),
    [(1, [3, 12], [(3, 9), (12, 0)]), (-1, [20, 12], [(12, 0), (20, 8)])],
)
def test_a_prompt_ahead_gives_its_spatial_memory_only(step, behind, expected) -> None:
    spatial, pointers = _seen(_bank([3, 12, 20], []), 12, step, 40)
    assert spatial == [(3, 6), (12, 6), (20, 6)]
    assert sorted(pointers) == sorted(expected)
    assert {z for z, _ in pointers} == set(behind)


def test_slices_beyond_the_border_or_ahead_are_not_asked_for() -> None:
    spatial, pointers = _seen(_bank([0], [1, 2, 4, 5]), 3, 1, 40)
    assert spatial == [(0, 6), (1, 1), (2, 0)]
    assert pointers == [(0, 3), (2, 1), (1, 2)]


def test_few_slices_shorten_reach_and_unit() -> None:
    bank = _bank([0], list(range(1, 5)))
    tokens = recent(bank, 5, step=1, num_slices=4)  # reach of three, wherever the slice claims to lie
    assert tokens.distances == [pytest.approx(d / 3) for d in (5, 1, 2, 3)]
    assert tokens.codes == [6, 3, 2, 1, 0]


def test_a_slice_is_not_counted_twice() -> None:
    """A prompted slice inside the window stands in `conditioning` alone."""
    spatial, _ = _seen(_bank([8], [7, 9]), 10, 1, 40)
    assert spatial == [(8, 6), (7, 2), (9, 0)]
