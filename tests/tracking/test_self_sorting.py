"""The self-sorting memory: what it admits, drops and recalls, and when it is SAM 2's own choice."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from medsam2.imaging.volume import Volume
from medsam2.inference.predictor import Predictor
from medsam2.inference.runtime import InferenceOptions, Runtime
from medsam2.inference.session import Session
from medsam2.tracking.memory import FrameMemory, MemoryBank, Traits
from medsam2.tracking.policies import Place, Policy, SelfSorting, describe, pool

SIDE = 4
OFFICIAL = SelfSorting(capacity=None, least_confidence=-math.inf, num_recent=6)


def _memory(z: int, confidence: float, descriptor: list[float], appearance: list[float]) -> FrameMemory:
    return FrameMemory(
        slice_index=z,
        spatial=torch.full((1, 64, SIDE, SIDE), float(z)),
        pointer=torch.zeros(1, 8),
        traits=Traits(
            confidence=confidence,
            descriptor=F.normalize(torch.tensor(descriptor, dtype=torch.float32), dim=0),
            appearance=F.normalize(torch.tensor(appearance, dtype=torch.float32), dim=0),
            region=torch.ones(SIDE, SIDE),
        ),
    )


def _bank(policy: Policy, memories: list[FrameMemory]) -> MemoryBank:
    bank = MemoryBank(conditioning={0: _memory(0, 1.0, [1, 0, 0], [1, 0, 0])})
    for memory in memories:
        bank.tracked[memory.slice_index] = memory
        policy.admit(bank, memory.slice_index)
    return bank


def _features(direction: list[float]) -> Tensor:
    return torch.tensor(direction, dtype=torch.float32)[None, :, None, None].expand(1, 3, SIDE, SIDE)


def _at(z: int, features: Tensor) -> Place:
    return Place(slice_index=z, step=1, num_slices=40, features=features)


def test_slices_that_are_not_sure_do_not_compete() -> None:
    policy = SelfSorting(least_confidence=0.5)
    bank = _bank(policy, [_memory(z, c, [1, z, 0], [1, 0, 0]) for z, c in ((1, 0.9), (2, 0.49), (3, 0.5))])
    assert bank.pool == [1, 3]


def test_a_full_pool_drops_the_least_sure_and_most_alike() -> None:
    policy = SelfSorting(capacity=2, least_confidence=0.0)
    alike = [_memory(1, 0.8, [1, 1, 0], [1, 0, 0]), _memory(2, 0.8, [1, 1.01, 0], [1, 0, 0])]
    bank = _bank(policy, [*alike, _memory(3, 0.7, [0, 0, 1], [1, 0, 0])])
    # 1 and 2 are equally sure; 1 is the nearer to the prompted slice's (1, 0, 0).
    assert bank.pool == [2, 3]
    equal = [_memory(z, 0.8, [0, 1, 0], [1, 0, 0]) for z in (1, 2, 3)]
    assert _bank(policy, equal).pool == [2, 3], "of equals the farthest goes"


def test_the_most_alike_slice_is_recalled_and_codes_follow_the_distance() -> None:
    policy = SelfSorting(num_recent=1, likeness=1.0, dissimilarity=0.0, confidence=0.0)
    looks = {1: [0, 1, 0], 2: [1, 0, 0], 3: [0, 1, 0], 4: [1, 0, 0], 5: [0, 1, 0], 6: [1, 0, 0]}
    looks |= {7: [1, 0, 0], 8: [1, 0, 0], 9: [0, 0, 1]}
    bank = _bank(policy, [_memory(z, 0.9, [z, 1, 0], look) for z, look in looks.items()])
    chosen = policy.choose(bank, _at(10, _features([0.9, 0.1, 0.0])))
    # 9 is the last one; 2, 4, 6, 7 and 8 look like the slice at hand.
    assert chosen.spatial == [(0, 6), (2, 5), (4, 4), (6, 3), (7, 2), (8, 1), (9, 0)]
    assert [z for z, _ in chosen.pointers] == [0, *range(9, 0, -1)], "pointers stay SAM 2's"


def test_memories_unlike_each_other_come_first_where_that_counts() -> None:
    policy = SelfSorting(num_recent=1, likeness=0.0, dissimilarity=1.0, confidence=0.0)
    same = [_memory(z, 0.9, [1, 0, 0], [1, 0, 0]) for z in range(1, 8)]
    bank = _bank(policy, [_memory(20, 0.9, [0, 1, 0], [1, 0, 0]), *same])
    chosen = policy.choose(bank, _at(8, _features([1, 0, 0])))
    assert (20, 0) not in chosen.spatial, "a slice ahead is not looked back at"
    bank = _bank(
        policy, [_memory(1, 0.9, [0, 1, 0], [1, 0, 0]), *same[1:], _memory(8, 0.9, [1, 0, 0], [1, 0, 0])]
    )
    chosen = policy.choose(bank, _at(9, _features([1, 0, 0])))
    assert chosen.spatial[1] == (1, 5), "the one that is unlike the rest, though the farthest"
    assert [z for z, _ in chosen.spatial[2:]] == [4, 5, 6, 7, 8], "among equals the nearest"


def test_recalled_memories_are_kept_and_the_rest_let_go() -> None:
    policy = SelfSorting(capacity=3, least_confidence=0.5)
    bank = MemoryBank(conditioning={0: _memory(0, 1.0, [1, 0, 0], [1, 0, 0])})
    for z in range(1, 20):
        bank.tracked[z] = _memory(z, 0.9 if z < 5 else 0.1, [z, 1, 0], [1, 0, 0])
        bank.release_others(policy.admit(bank, z))
    held = {z for z, memory in bank.tracked.items() if memory.spatial is not None}
    assert held == {*bank.pool, *range(14, 20)}
    assert len(bank.pool) == 3
    assert max(bank.pool) < 5


@pytest.mark.parametrize("num_slices", [9])
@pytest.mark.parametrize("zoom", [False, True])
def test_without_limit_and_threshold_it_is_the_official_choice(
    runtime: Runtime, num_slices: int, zoom: bool
) -> None:
    rng = np.random.default_rng(0)
    volume = Volume.from_array(
        rng.integers(0, 255, (num_slices, 40, 56)).astype(np.int16), (1, 1, 1), (0, 0, 0)
    )
    frames = []
    for memory in ("recent", OFFICIAL):
        options = InferenceOptions(zoom=zoom, keep_component=False, stop_after=0, memory=memory)
        session = Predictor(runtime).session(volume, window=(0, 255), options=options)
        session.add(1, slice=2, box=(10, 8, 40, 30))
        for _ in session.propagate():
            pass
        session.add(1, slice=5, points=[(20, 20)])
        for _ in session.propagate():
            pass
        frames.append([session.frame(1, z).low_res_logits for z in range(num_slices)])
    for official, sorting in zip(*frames, strict=True):
        assert torch.equal(official, sorting)


def test_another_choice_changes_the_masks(runtime: Runtime) -> None:
    """The identity above would hold as well if the policy were not asked at all."""
    rng = np.random.default_rng(0)
    volume = Volume.from_array(rng.integers(0, 255, (12, 40, 56)).astype(np.int16), (1, 1, 1), (0, 0, 0))
    logits = []
    for memory in ("recent", SelfSorting(num_recent=0, capacity=2, least_confidence=-1.0)):
        options = InferenceOptions(zoom=False, keep_component=False, stop_after=0, memory=memory)
        session: Session = Predictor(runtime).session(volume, window=(0, 255), options=options)
        session.add(1, slice=0, box=(10, 8, 40, 30))
        list(session.propagate())
        logits.append(session.frame(1, 11).low_res_logits)
    assert not torch.equal(*logits)


def test_pooling_is_a_mean_over_the_object() -> None:
    maps = torch.zeros(1, 2, 2, 2)
    maps[0, 0] = torch.tensor([[3.0, 0.0], [0.0, 0.0]])
    maps[0, 1] = torch.tensor([[4.0, 9.0], [9.0, 9.0]])
    region = torch.tensor([[0.5, 0.0], [0.0, 0.0]])
    torch.testing.assert_close(pool(maps, region), torch.tensor([0.6, 0.8]))
    everywhere = pool(maps, torch.zeros(2, 2))
    torch.testing.assert_close(everywhere, F.normalize(torch.tensor([0.75, 7.75]), dim=0))


@torch.no_grad()
def test_an_absent_object_has_no_confidence(runtime: Runtime, scan: Volume) -> None:
    session = Predictor(runtime).session(scan, options=InferenceOptions(zoom=False))
    session.add(1, slice=4, mask=np.ones((40, 56), bool))
    frame = session.frame(1, 4)
    features = _features([1, 0, 0])
    memory = _memory(4, 0.0, [1, 0, 0], [1, 0, 0])
    assert describe(memory, features, frame).confidence == pytest.approx(1 / (1 + math.exp(-10)))
    gone = dataclasses.replace(frame, object_logits=torch.full((1, 1), -1.0))
    assert describe(memory, features, gone).confidence == 0
