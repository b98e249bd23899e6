"""The prior beside a slice: where the object was, what was drawn, and which slice that is of."""

from __future__ import annotations

import torch

from medsam2.tracking.prior import PromptTensors, with_prior

SIZE = 64
BOX = PromptTensors(points=torch.tensor([[[16.0, 20.0], [43.0, 39.0]]]), labels=torch.tensor([[2, 3]]))


def _slices(seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, 1, SIZE, SIZE, generator=generator).expand(1, 3, SIZE, SIZE)


def test_a_box_is_a_rectangle_of_one_half_in_the_third_channel() -> None:
    slices = _slices(0)
    seen = with_prior(slices, prompt=BOX)
    assert torch.equal(seen[:, :2], slices[:, :2]), "no slice before: both channels are the slice"
    expected = torch.zeros(SIZE, SIZE)
    expected[20:40, 16:44] = 0.5
    assert torch.equal(seen[0, 2], expected)


def test_a_carried_mask_comes_with_its_own_slice() -> None:
    logits = torch.full((1, 1, SIZE // 4, SIZE // 4), -1024.0)
    logits[:, :, 4:8, 4:8] = 20.0
    seen = with_prior(_slices(1), before=_slices(0), previous_logits=logits)
    assert torch.equal(seen[0, 0], _slices(1)[0, 0])
    assert torch.equal(seen[0, 1], _slices(0)[0, 0])
    assert seen[0, 2, 20:28, 20:28].min() == 1
    assert seen[0, 2, :13].max() == 0


def test_an_absent_object_leaves_no_prior() -> None:
    absent = torch.full((1, 1, SIZE // 4, SIZE // 4), -1024.0)
    assert not with_prior(_slices(0), previous_logits=absent)[:, 2].any()


def test_a_drawn_mask_is_its_own_prior() -> None:
    mask = torch.zeros(1, 1, SIZE, SIZE)
    mask[:, :, 7:19, 30:50] = 1
    assert torch.equal(with_prior(_slices(0), prompt=PromptTensors(mask=mask))[:, 2], mask[:, 0])


def test_clicks_are_discs_over_what_they_correct() -> None:
    logits = torch.full((1, 1, SIZE // 4, SIZE // 4), 20.0)
    clicks = PromptTensors(points=torch.tensor([[[10.0, 30.0], [50.0, 8.0]]]), labels=torch.tensor([[0, 1]]))
    prior = with_prior(_slices(0), prompt=clicks, previous_logits=logits)[0, 2]
    assert prior[30, 10] == -1
    assert prior[30, 11] == -1
    assert prior[30, 12] == 1
    assert int((prior == -1).sum()) == 5, "a disc 2 pixels wide, 1/32 of 64"
    empty = with_prior(_slices(0), prompt=clicks)[0, 2]
    assert empty[8, 50] == 1
    assert int((empty > 0).sum()) == 5


def test_a_point_of_padding_draws_nothing() -> None:
    padding = PromptTensors(points=torch.zeros(1, 1, 2), labels=torch.tensor([[-1]]))
    assert not with_prior(_slices(0), prompt=padding)[:, 2].any()
