"""A clip followed slice by slice: what is learnt from, what is kept, and what the simulated user adds."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from medsam2.tracking.planes import PromptPlanes, Sight, as_planes
from medsam2.training.clip_workers import chance_of_step
from medsam2.training.compact_clips import CompactClips
from medsam2.training.compact_learner import Unroll, Unrolled
from medsam2.training.config import PromptConfig

SIZE = 64
BOXES = PromptConfig(point_share=0, mask_share=0, correction_share=0, late_correction_share=0)


def make_clips(length: int, batch: int = 2) -> CompactClips:
    """A bright block in noise that moves by a pixel a slice."""
    images = torch.rand(batch, length + 2, SIZE, SIZE, generator=torch.Generator().manual_seed(0)) * 0.3
    targets = torch.zeros(batch, length, SIZE, SIZE)
    for index in range(length):
        targets[:, index, 20:40, 12 + index : 36 + index] = 1
    images[:, 1:-1] += 0.6 * targets
    return CompactClips(images=images, targets=targets, counts=torch.ones(batch, length))


def unroll(
    learner: nn.Module,
    clips: CompactClips,
    prompts: PromptConfig = BOXES,
    *,
    step: int = 0,
    learns: bool = True,
) -> Unrolled:
    """Follow clips to their end, and go back from each loss."""
    backward: Callable[[Tensor], None] | None = (lambda terms: terms.sum().backward()) if learns else None
    return Unroll(learner, clips, prompts, chance_of_step(7, step, range(len(clips.counts))), backward).run()


def test_each_slice_gives_a_result(noted) -> None:
    clips = make_clips(4)
    unrolled = unroll(noted, clips)
    assert unrolled.terms.shape == (4, 4)
    assert unrolled.logits.shape == (2, 4, SIZE, SIZE)
    assert bool(unrolled.terms.isfinite().all())
    for call in range(4):
        assert torch.equal(noted.planes(call, "slice"), clips.images[:, call + 1])
        assert torch.equal(noted.given[call][1], clips.targets[:, call])
        assert bool(noted.planes(call, "is_prompted").all()) == (call == 0)
        assert (noted.given[call][3] is None) == (call == 0), "a first prompt looks back at nothing"
    for call in (1, 2, 3):
        assert torch.equal(noted.planes(call, "before"), clips.images[:, call])
        assert torch.equal(noted.planes(call, "beyond"), clips.images[:, call + 2])
        assert torch.equal(noted.planes(call, "key_slice"), clips.images[:, 1])
        assert torch.equal(noted.planes(call, "prior"), unrolled.logits[:, call - 1].sigmoid())


def test_a_box_is_shown_as_in_use(noted) -> None:
    clips = make_clips(1)
    unroll(noted, clips, learns=False)
    nothing = torch.zeros(2, SIZE, SIZE)
    prompt = PromptPlanes(box=noted.planes(0, "box"), inside=nothing, outside=nothing)
    grey, before, beyond = (noted.planes(0, name) for name in ("slice", "before", "beyond"))
    in_use = as_planes(Sight(grey=grey, before=before, beyond=beyond, prompt=prompt))
    assert torch.equal(noted.given[0][0], in_use)
    for name in ("grey_like_key", "context_like_key"):  # the box is a first, rough mask
        assert noted.planes(0, name).std() > 0


def test_no_gradient_flows_from_a_slice_to_the_one_before(noted) -> None:
    clips = make_clips(4)
    last = torch.zeros(2, 4)
    last[:, 3] = 1
    unroll(noted, CompactClips(images=clips.images, targets=clips.targets, counts=last))
    found = {name: parameter.grad.clone() for name, parameter in noted.named_parameters()}  # type: ignore[union-attr]
    for planes, _, _, recalled in noted.given:
        kept = [] if recalled is None else [*recalled.seen, *recalled.shares, *recalled.pooled]
        assert not any(tensor.requires_grad for tensor in (planes, *kept))
    # The same gradients as from the last slice alone, of which nothing is known but numbers.
    noted.zero_grad()
    noted.learner(*noted.given[3])[0].sum().backward()
    for name, parameter in noted.named_parameters():
        alone = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        torch.testing.assert_close(alone, found[name], msg=name)
    for name in ("memory_writer.project.weight", "pointer.0.weight", "encoder.stem.weight"):
        assert found[f"learner.network.{name}"].any(), "memories are made anew, so that they are taught"


@contextmanager
def saved_bytes() -> Iterator[Callable[[], tuple[int, int]]]:
    """Count what graphs keep for the way back: at the same time at most, and in all."""
    count = {"now": 0, "most": 0, "all": 0}

    class Held:
        def __init__(self, tensor: Tensor) -> None:
            self.tensor = tensor

    def release(size: int) -> None:
        count["now"] -= size

    def pack(tensor: Tensor) -> Held:
        held, size = Held(tensor), tensor.numel() * tensor.element_size()
        weakref.finalize(held, release, size)
        count["now"] += size
        count["all"] += size
        count["most"] = max(count["most"], count["now"])
        return held

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda held: held.tensor):
        yield lambda: (count["most"], count["all"])


def test_a_long_clip_keeps_no_more_graph_than_a_short_one(noted) -> None:
    found = {}
    for length in (3, 12):
        with saved_bytes() as count:
            unroll(noted.learner, make_clips(length))
        found[length] = count()
    assert found[12][0] < 1.2 * found[3][0], "a few memories more are looked back at"
    assert found[12][1] > 3 * found[3][1]


def test_corrections_add_results(noted) -> None:
    prompts = PromptConfig(
        point_share=0, mask_share=0, correction_share=1.0, max_corrections=2, late_correction_share=1.0
    )
    counts = set()
    for step in range(6):
        noted.given.clear()
        unrolled = unroll(noted, make_clips(3), prompts, step=step, learns=False)
        num_first = len(unrolled.terms) - 4  # two tracked slices with a click each
        counts.add(num_first - 1)
        assert len(noted.given) == len(unrolled.terms)
        clicks = [
            float(noted.planes(call, "clicks_inside").sum() + noted.planes(call, "clicks_outside").sum())
            for call in range(len(noted.given))
        ]
        assert clicks[0] == 0 < clicks[1] <= clicks[num_first - 1]
        box = noted.planes(0, "box")
        assert all(torch.equal(noted.planes(call, "box"), box) for call in range(num_first))
        assert [clicks[num_first + call] > 0 for call in range(4)] == [False, True, False, True]
        assert not noted.planes(num_first + 1, "box").any()
        recalled = noted.given[-1][3]
        assert recalled is not None
        assert len(recalled.seen) == 2, "of a slice, its last result is remembered"
    assert counts == {1, 2}


def test_a_correction_begins_from_the_mask_that_it_corrects(noted) -> None:
    prompts = PromptConfig(point_share=0, mask_share=0, correction_share=1.0, max_corrections=1)
    found: list[Tensor] = []
    noted.learner.register_forward_hook(lambda _module, _inputs, outputs: found.append(outputs[1].detach()))
    unroll(noted, make_clips(1), prompts)
    assert torch.equal(noted.planes(1, "prior"), found[0][:, 0].sigmoid())


def test_a_drawn_mask_is_taken_as_drawn(noted) -> None:
    clips = make_clips(2)
    drawn = PromptConfig(point_share=0, mask_share=1.0, correction_share=0, late_correction_share=0)
    unrolled = unroll(noted, clips, drawn)
    assert torch.equal(unrolled.logits[:, 0], 20 * clips.targets[:, 0] - 10)
    assert torch.equal(noted.planes(0, "prior"), clips.targets[:, 0])
    assert not noted.planes(0, "box").any()
    for name in ("prior", "key_mask"):
        torch.testing.assert_close(noted.planes(1, name), clips.targets[:, 0], atol=1e-4, rtol=0)


def test_what_a_slice_looks_back_at(noted) -> None:
    spread = nearest = 0
    for step in range(3):
        noted.given.clear()
        unroll(noted, make_clips(12, batch=1), step=step, learns=False)
        for index, (_, _, _, recalled) in enumerate(noted.given):
            if recalled is None:
                assert index == 0
                continue
            slices = [index - round(15 * distance) for distance in recalled.distances]
            assert slices[0] == 0, "the prompted slice is always looked back at"
            assert slices[1:] == sorted(set(slices[1:]), reverse=True)
            assert set(slices[1:]) <= set(range(1, index))
            assert recalled.codes == [6, *range(len(slices) - 1)]
            assert len(recalled.seen) == len(recalled.shares) == len(recalled.pooled) == len(slices) <= 7
            if slices[1:] == list(range(index - 1, max(0, index - 7), -1)):
                nearest += 1
            else:
                spread += 1
    assert nearest > spread > 0


def test_what_lies_beyond_the_end_teaches_nothing(noted) -> None:
    clips = make_clips(4)
    counts = torch.tensor([[1.0, 1.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]])
    others = clips.targets.clone()
    others[0, 2:] = 1 - others[0, 2:]
    terms = [
        unroll(noted, CompactClips(images=clips.images, targets=targets, counts=counts), learns=False).terms
        for targets in (clips.targets, others)
    ]
    assert torch.equal(*terms)


def test_nothing_is_disturbed_where_nothing_is_learnt(noted) -> None:
    clips = make_clips(3)
    disturbing = PromptConfig(
        point_share=0, mask_share=0, correction_share=0, late_correction_share=0, lost_share=1.0
    )
    unrolled = unroll(noted, clips, disturbing, learns=False)
    assert torch.equal(noted.planes(2, "prior"), unrolled.logits[:, 1].sigmoid())
    noted.given.clear()
    unroll(noted, clips, disturbing)
    assert not noted.planes(1, "prior").any()
    assert not noted.planes(2, "prior").any()


def test_the_key_is_now_and_then_remembered_as_it_is(noted) -> None:
    clips = make_clips(2, batch=40)
    unrolled = unroll(noted, clips)
    is_true = [
        bool(torch.equal(mask, target))
        for mask, target in zip(noted.planes(1, "key_mask"), clips.targets[:, 0], strict=True)
    ]
    assert 0 < sum(is_true) < 15
    others = ~torch.tensor(is_true)
    assert torch.equal(noted.planes(1, "key_mask")[others], unrolled.logits[:, 0].sigmoid()[others])
