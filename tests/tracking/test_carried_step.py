"""One step of the compact network's recurrence: what it gives, what is remembered, what is looked back at."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from medsam2.model.compact.memory import HERE, CompactMemories, Square, cell_shares
from medsam2.model.compact.network import CompactNetwork
from medsam2.tracking.carried import Answer, answer_slice, as_drawn, recall
from medsam2.tracking.memory import FrameMemory, MemoryBank
from medsam2.tracking.planes import Known, PromptPlanes, Sight, as_planes
from medsam2.tracking.policies import Place, Recent, Selection, describe

SIZE = 64


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.inference_mode():
        yield


def _maps(seed: int, batch: int = 1) -> Tensor:
    return torch.rand(batch, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))


def _drawn(batch: int = 1) -> Tensor:
    mask = torch.zeros(batch, 1, SIZE, SIZE)
    mask[:, :, 20:41, 12:45] = 1
    return mask


def _prompted(batch: int = 1) -> Sight:
    nothing = torch.zeros(batch, SIZE, SIZE)
    box = PromptPlanes(box=_drawn(batch)[:, 0], inside=nothing, outside=nothing)
    return Sight(grey=_maps(0, batch), before=_maps(1, batch), beyond=_maps(2, batch), prompt=box)


def _followed(batch: int = 1) -> Sight:
    before = Known(grey=_maps(0, batch), inside=_drawn(batch)[:, 0])
    return Sight(
        grey=_maps(2, batch), before=before.grey, beyond=_maps(3, batch),
        prior=before.inside, carried=before, key=before,
    )  # fmt: skip


def test_an_answer_is_the_networks(compact_network: CompactNetwork) -> None:
    sight = _prompted(batch=2)
    answer = answer_slice(compact_network, sight, None)
    features = compact_network.encode_image(as_planes(sight))
    expected = compact_network.answer(features, None)
    frame = answer.frame
    assert torch.equal(frame.low_res_logits, expected.mask_logits)
    assert torch.equal(frame.candidate_logits, expected.mask_logits)
    assert torch.equal(frame.iou, expected.overlap)
    assert torch.equal(frame.object_logits, expected.object_logits)
    assert torch.equal(frame.pointer, compact_network.point_at(expected.pooled))
    assert torch.equal(answer.seen, expected.seen)
    assert torch.equal(answer.level2, features.level2)


def test_memories_may_be_chosen_by_what_the_slice_shows(compact_network: CompactNetwork) -> None:
    key = answer_slice(compact_network, _prompted(), None).remembered(compact_network, 4)
    memories = CompactMemories(
        spatial=[key.spatial], codes=[6], squares=[HERE], pointers=[key.pointer], distances=[1 / 15]
    )
    given: list[Tensor] = []

    def choose(level2: Tensor) -> CompactMemories:
        given.append(level2)
        return memories

    by_choice = answer_slice(compact_network, _followed(), choose)
    at_hand = answer_slice(compact_network, _followed(), memories)
    without = answer_slice(compact_network, _followed(), None)
    assert torch.equal(by_choice.frame.low_res_logits, at_hand.frame.low_res_logits)
    assert torch.equal(given[0], at_hand.level2)
    assert (without.frame.low_res_logits - at_hand.frame.low_res_logits).abs().max() > 1e-3


def test_a_memory_is_made_of_the_mask_that_was_kept(compact_network: CompactNetwork) -> None:
    answer = answer_slice(compact_network, _prompted(), None)
    memory = answer.remembered(compact_network, 7)
    assert memory.slice_index == 7
    assert memory.spatial is not None
    assert memory.spatial.dtype == torch.bfloat16
    assert memory.spatial.shape == (1, 64, 4, 4)
    assert memory.pointer.dtype == torch.float32
    assert memory.pointer.shape == (1, 64)
    shares = cell_shares(answer.frame.low_res_logits.sigmoid(), 4)
    exact = compact_network.encode_memory(answer.seen, shares)
    assert torch.equal(memory.spatial, exact.bfloat16())
    other = answer.with_logits(-answer.frame.low_res_logits)
    assert torch.equal(other.frame.low_res_logits, -answer.frame.low_res_logits)
    assert torch.equal(other.frame.candidate_logits, other.frame.low_res_logits)
    assert torch.equal(other.frame.iou, answer.frame.iou)
    changed = other.remembered(compact_network, 7)
    assert changed.spatial is not None
    assert not torch.equal(changed.spatial, memory.spatial)
    assert torch.equal(changed.pointer, memory.pointer)


def test_the_mask_of_the_best_dice_is_that_of_trying_all(compact_network: CompactNetwork) -> None:
    answer = answer_slice(compact_network, _prompted(), None)
    chance = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(answer.frame.low_res_logits.shape, generator=chance) - 2
    chances = logits.sigmoid().flatten().sort(descending=True).values.double()
    sizes = torch.arange(1, len(chances) + 1)
    dice = 2 * chances.cumsum(0) / (sizes + chances.sum())  # expected, of the likeliest 1, 2, 3 ... pixels
    overlap = (dice.max() / (2 - dice.max())).float()
    frame = dataclasses.replace(answer.frame, iou=overlap[None, None])
    found = dataclasses.replace(answer, frame=frame).with_logits(logits).at_best_dice()
    assert int((found.frame.low_res_logits > 0).sum()) == int(dice.argmax()) + 1
    assert int((logits > 0).sum()) < int(dice.argmax()) + 1


def test_a_drawn_mask_is_the_result(compact_network: CompactNetwork) -> None:
    masks = torch.cat((_drawn(), torch.zeros(1, 1, SIZE, SIZE)))
    drawn = as_drawn(
        answer_slice(compact_network, dataclasses.replace(_prompted(2), prior=masks[:, 0]), None), masks
    )
    assert torch.equal(drawn.frame.low_res_logits, 20 * masks - 10)
    assert torch.equal(drawn.frame.candidate_logits, drawn.frame.low_res_logits)
    assert drawn.frame.object_logits[:, 0].tolist() == [10.0, -10.0]
    assert drawn.frame.iou[:, 0].tolist() == drawn.frame.candidate_iou[:, 0].tolist() == [1.0, 1.0]
    remembered = drawn.remembered(compact_network, 0)
    shares = cell_shares(drawn.frame.low_res_logits.sigmoid(), 4)
    torch.testing.assert_close(
        shares[0, 1] > 0.5, torch.nn.functional.max_pool2d(masks[0, 0][None], 16)[0] > 0
    )
    assert remembered.spatial is not None
    assert torch.equal(remembered.spatial, compact_network.encode_memory(drawn.seen, shares).bfloat16())


def _memory(z: int) -> FrameMemory:
    """A memory that carries its slice's number in every value."""
    return FrameMemory(
        slice_index=z, spatial=torch.full((1, 64, 4, 4), z), pointer=torch.full((1, 64), 100 + z)
    )


def _square(z: int) -> Square:
    return (z / 100, -z / 100, 1 + z / 100)


def test_recall_takes_what_was_selected_with_its_pointer_its_distance_and_its_place() -> None:
    bank = MemoryBank(conditioning={3: _memory(3)}, tracked={z: _memory(z) for z in range(4, 20)})
    selection = Selection(spatial=[(3, 6), (9, 2), (12, 1), (19, 0)], pointers=[(5, 0.3)])
    memories = recall(bank, selection, 20, _square)
    assert [int(spatial[0, 0, 0, 0]) for spatial in memories.spatial] == [3, 9, 12, 19]
    assert memories.codes == [6, 2, 1, 0]
    assert memories.squares == [_square(z) for z in (3, 9, 12, 19)]
    assert [int(pointer[0, 0]) for pointer in memories.pointers] == [103, 109, 112, 119]
    assert memories.distances == pytest.approx([17 / 15, 11 / 15, 8 / 15, 1 / 15])


def test_recall_leaves_out_slices_that_the_bank_has_not() -> None:
    bank = MemoryBank(conditioning={3: _memory(3)}, tracked={4: _memory(4)})
    memories = recall(bank, Selection(spatial=[(3, 6), (5, 1), (4, 0)], pointers=[]), 2, _square)
    assert [int(spatial[0, 0, 0, 0]) for spatial in memories.spatial] == [3, 4]
    assert (memories.codes, len(memories.pointers)) == ([6, 0], 2)
    assert memories.distances == pytest.approx([1 / 15, 2 / 15])


@pytest.mark.parametrize("step", [1, -1])
def test_the_official_choice_is_the_prompted_slice_and_the_six_just_passed(step: int) -> None:
    passed = [20 + step * k for k in range(1, 10)]
    bank = MemoryBank(conditioning={20: _memory(20)}, tracked={z: _memory(z) for z in passed})
    here = 20 + 10 * step
    place = Place(slice_index=here, step=step, num_slices=41)
    memories = recall(bank, Recent().choose(bank, place), here, _square)
    assert [int(spatial[0, 0, 0, 0]) for spatial in memories.spatial] == [20, *passed[3:]]
    assert memories.codes == [6, 5, 4, 3, 2, 1, 0]


def test_traits_of_a_compact_memory(compact_network: CompactNetwork) -> None:
    answer: Answer = as_drawn(answer_slice(compact_network, _prompted(), None), _drawn())
    traits = describe(answer.remembered(compact_network, 0), answer.level2, answer.frame)
    assert traits.confidence == pytest.approx(1 / (1 + torch.tensor(-10.0).exp().item()))
    assert traits.region.shape == (4, 4)
    assert float(traits.region.sum()) * 256 == pytest.approx(21 * 33)
    for vector, length in ((traits.descriptor, 64), (traits.appearance, 16)):
        assert vector.shape == (length,)
        assert float(vector.norm()) == pytest.approx(1, abs=1e-5)
