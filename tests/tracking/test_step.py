"""One step of the recurrence with a tiny network: absence, drawn masks, memories, gradients."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from medsam2.model.network import ABSENT_LOGIT, ImageFeatures, Network
from medsam2.tracking.memory import MemoryBank
from medsam2.tracking.policies import recent
from medsam2.tracking.step import PromptTensors, remember, track_frame

BOX = PromptTensors(points=torch.tensor([[[16.0, 20.0], [44.0, 40.0]]]), labels=torch.tensor([[2, 3]]))


def _features(network: Network, seed: int = 0, batch: int = 1) -> ImageFeatures:
    images = torch.randn(batch, 3, 64, 64, generator=torch.Generator().manual_seed(seed))
    return network.encode_image(images)


def _drawn(batch: int = 1) -> torch.Tensor:
    mask = torch.zeros(batch, 1, 64, 64)
    mask[:, :, 20:41, 12:45] = 1
    return mask


@torch.no_grad()
def test_an_absent_object_has_the_absent_logit_and_the_shared_pointer(network: Network) -> None:
    nn.init.constant_(network.sam_mask_decoder.pred_obj_score_head.layers[-1].bias, -50.0)
    result = track_frame(network, _features(network), prompt=BOX)
    assert float(result.object_logits) < 0
    assert torch.equal(result.low_res_logits, torch.full((1, 1, 16, 16), ABSENT_LOGIT))
    assert torch.equal(result.pointer, network.no_obj_ptr)
    assert result.candidate_logits.abs().max() < 1000, "candidates are not silenced: training needs them"


@torch.no_grad()
def test_the_best_candidate_is_chosen_with_its_own_pointer(network: Network) -> None:
    click = PromptTensors(points=torch.tensor([[[30.0, 30.0]]]), labels=torch.tensor([[1]]))
    features = _features(network)
    result = track_frame(network, features, prompt=click)
    assert result.candidate_logits.shape == (1, 3, 16, 16)
    best = int(result.candidate_iou[0].argmax())
    assert torch.equal(result.low_res_logits[0, 0], result.candidate_logits[0, best])
    assert float(result.iou) == float(result.candidate_iou[0].max())
    embedding = network.encode_prompts(click.points, click.labels, batch=1)
    decoded = network.decode_masks(features, network.attend_memory(features, None), embedding, multimask=True)
    torch.testing.assert_close(result.pointer, network.obj_ptr_proj(decoded.tokens[:, best]))


@torch.no_grad()
def test_more_than_one_point_leaves_one_candidate(network: Network) -> None:
    assert track_frame(network, _features(network), prompt=BOX).candidate_logits.shape == (1, 1, 16, 16)


@torch.no_grad()
def test_a_drawn_mask_is_taken_as_it_is(network: Network) -> None:
    mask = _drawn()
    result = track_frame(network, _features(network), prompt=PromptTensors(mask=mask))
    expected = F.interpolate(20 * mask - 10, size=(16, 16), mode="bilinear", antialias=True)
    torch.testing.assert_close(result.low_res_logits, expected)
    assert float(result.object_logits) == 10.0
    assert float(result.iou) == 1.0
    assert not torch.equal(result.pointer, network.no_obj_ptr)


@torch.no_grad()
def test_an_empty_mask_says_that_the_object_is_absent(network: Network) -> None:
    masks = torch.cat((_drawn(), torch.zeros(1, 1, 64, 64)))
    result = track_frame(network, _features(network, batch=2), prompt=PromptTensors(mask=masks))
    assert result.object_logits[:, 0].tolist() == [10.0, -10.0]
    assert torch.equal(result.pointer[1:], network.no_obj_ptr)
    torch.testing.assert_close(result.low_res_logits[1], torch.full((1, 16, 16), -10.0))


@torch.no_grad()
def test_earlier_logits_are_limited_before_they_are_fed_back(network: Network) -> None:
    features = _features(network)
    huge = torch.full((1, 1, 16, 16), ABSENT_LOGIT)
    results = [
        track_frame(network, features, prompt=BOX, previous_logits=logits).low_res_logits
        for logits in (huge, torch.full((1, 1, 16, 16), -32.0), torch.full((1, 1, 16, 16), 8.0))
    ]
    assert torch.equal(results[0], results[1])
    assert not torch.allclose(results[0], results[2])


@torch.no_grad()
def test_memories_are_stored_in_bfloat16(network: Network) -> None:
    features = _features(network)
    result = track_frame(network, features, prompt=BOX)
    memory = remember(network, features, result, slice_index=4, binarise=True)
    assert memory.slice_index == 4
    assert memory.spatial.dtype == torch.bfloat16
    assert memory.spatial.shape == (1, 64, 4, 4)
    assert memory.pointer.dtype == torch.float32
    mask = F.interpolate(result.low_res_logits, size=(64, 64), mode="bilinear", align_corners=False)
    exact = network.encode_memory(features, mask, result.object_logits, binarise=True)
    assert torch.equal(memory.spatial, exact.bfloat16())
    by_probability = remember(network, features, result, slice_index=4, binarise=False)
    assert not torch.equal(by_probability.spatial, memory.spatial)


def _clip_loss(network: Network, prompt: PromptTensors) -> torch.Tensor:
    """Two objects through three slices, the second slice corrected."""
    bank, loss = MemoryBank(), torch.zeros(())
    clicks = PromptTensors(points=torch.full((2, 2, 2), 9.0), labels=torch.tensor([[0, 1]] * 2))
    for z in range(3):
        features = _features(network, seed=z, batch=2)
        memory = recent(bank, z, step=1, num_slices=3) if z else None
        results = [
            track_frame(
                network,
                features,
                prompt=None if z else prompt,
                memory=memory,
                stability_fallback=False,
            )
        ]
        if z == 1:
            previous = results[0].low_res_logits.detach()
            results.append(
                track_frame(network, features, prompt=clicks, memory=memory, previous_logits=previous)
            )
        for result in results:
            loss = loss + result.candidate_logits.square().mean() + result.candidate_iou.sum()
            loss = loss + result.object_logits.square().sum()
        entry = remember(network, features, results[-1], slice_index=z, binarise=False)
        (bank.tracked if z else bank.conditioning)[z] = entry
    return loss


def test_gradients_reach_every_parameter_but_the_spare_one(network: Network) -> None:
    box = PromptTensors(points=BOX.points.expand(2, -1, -1), labels=BOX.labels.expand(2, -1))
    # One object is drawn, the other is drawn absent, so that the embeddings of absence learn as well.
    mask = PromptTensors(mask=torch.cat((_drawn(), torch.zeros(1, 1, 64, 64))))
    (_clip_loss(network, box) + _clip_loss(network, mask)).backward()
    untouched = {n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()}
    assert untouched == {"no_mem_pos_enc"}
    assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())
    # The prompted slice has code 6, the slice before code 0; no other is used in three slices.
    used = network.maskmem_tpos_enc.grad.flatten(1).any(dim=1)
    assert used.nonzero().flatten().tolist() == [0, 6]


def test_gradients_flow_back_through_memory_to_the_first_slice(network: Network) -> None:
    """Only the second slice is taught; what prepared its memory learns from it."""
    first, second = _features(network), _features(network, seed=1)
    entry = remember(network, first, track_frame(network, first, prompt=BOX), slice_index=0, binarise=False)
    memory = recent(MemoryBank(conditioning={0: entry}), 1, step=1, num_slices=2)
    track_frame(network, second, memory=memory).candidate_logits.square().mean().backward()
    for name in ("memory_encoder.out_proj.weight", "obj_ptr_proj.layers.0.weight", "no_mem_embed"):
        assert network.get_parameter(name).grad.any(), name
