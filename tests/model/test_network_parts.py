"""Windows, prompts, decoder and memory attention on their own, and the published sizes."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from medsam2.errors import CheckpointError
from medsam2.model.config import TINY_512
from medsam2.model.image_encoder import from_windows, to_windows
from medsam2.model.mask_decoder import DecodedMasks, choose
from medsam2.model.network import ImageFeatures, MemoryTokens, Network, PromptEmbedding

CLOSE = {"atol": 1e-5, "rtol": 0}


@pytest.fixture(autouse=True)
def _seeded():
    with torch.no_grad():
        torch.manual_seed(0)
        yield


def _features(network: Network, batch: int) -> ImageFeatures:
    return network.encode_image(torch.randn(batch, 3, 64, 64))


def _one(features: ImageFeatures, index: int) -> ImageFeatures:
    part = slice(index, index + 1)
    return ImageFeatures(
        level0=features.level0[part], level1=features.level1[part], level2=features.level2[part]
    )


@pytest.mark.parametrize(("height", "width", "window"), [(8, 8, 4), (7, 5, 4), (3, 10, 7), (2, 2, 8)])
def test_windows_round_trip(height: int, width: int, window: int) -> None:
    x = torch.randn(2, height, width, 3)
    windows = to_windows(x, window)
    rows, columns = -(-height // window), -(-width // window)
    assert windows.shape == (2 * rows * columns, window, window, 3)
    assert torch.equal(from_windows(windows, height, width), x)
    assert torch.isclose(windows.sum(), x.sum(), atol=1e-4), "padding is zero"


def test_windows_run_along_rows_first() -> None:
    x = torch.arange(16.0).reshape(1, 4, 4, 1)
    assert to_windows(x, 2)[1, :, :, 0].tolist() == [[2.0, 3.0], [6.0, 7.0]]


@pytest.mark.parametrize(("num_points", "num_tokens"), [(1, 2), (2, 3), (5, 6)])
def test_padding_follows_every_prompt(network: Network, num_points: int, num_tokens: int) -> None:
    prompts = network.encode_prompts(
        torch.rand(3, num_points, 2) * 64, torch.ones(3, num_points, dtype=torch.long), batch=3
    )
    assert prompts.sparse.shape == (3, num_tokens, 64)
    padding = network.sam_prompt_encoder.not_a_point_embed.weight
    assert torch.equal(prompts.sparse[:, -1], padding.expand(3, -1))


def test_no_prompt_is_two_equal_tokens_and_one_dense_vector(network: Network) -> None:
    prompts = network.encode_prompts(None, None, batch=2)
    padding = network.sam_prompt_encoder.not_a_point_embed.weight
    assert torch.equal(prompts.sparse, padding.expand(2, 2, -1))
    no_mask = network.sam_prompt_encoder.no_mask_embed.weight[:, :, None, None]
    assert torch.equal(prompts.dense, no_mask.expand(2, -1, 4, 4))


def test_a_point_is_its_pixel_centre_and_its_kind(network: Network) -> None:
    encoder = network.sam_prompt_encoder
    for label in range(4):
        tokens = encoder.encode_points(torch.tensor([[[31.5, 15.5]]]), torch.tensor([[label]]))
        expected = encoder.pe_layer(torch.tensor([0.5, 0.25])) + encoder.point_embeddings[label].weight[0]
        torch.testing.assert_close(tokens[0, 0], expected, **CLOSE)


def test_tiny_is_sam_to_the_element() -> None:
    with torch.device("meta"):
        state = Network(TINY_512).state_dict()
    assert len(state) == 471
    assert sum(value.numel() for value in state.values()) == 38_962_754


def test_no_entry_of_the_state_depends_on_the_input_size(network: Network) -> None:
    larger = Network(dataclasses.replace(network.config, image_size=96))
    larger.load_state_dict(network.state_dict(), strict=True)


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ({"image_size": 500}, "image_size must be a multiple of 32, not 500"),
        ({"hidden_dim": 100}, "hidden_dim must be a multiple of 64, not 100"),
    ],
)
def test_impossible_shapes_are_refused(setting: dict[str, int], sentence: str) -> None:
    with pytest.raises(CheckpointError, match=sentence):
        dataclasses.replace(TINY_512, **setting)


def _candidates(*singles: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Four masks each, the first given, the others constant 1, 2 and 3; the third is thought best."""
    logits = torch.stack([torch.stack((s, *(torch.full_like(s, i) for i in (1, 2, 3)))) for s in singles])
    return logits, torch.tensor([[0.99, 0.3, 0.8, 0.5]]).repeat(len(singles), 1)


def test_the_fallback_keeps_stable_and_empty_masks_and_replaces_unstable_ones() -> None:
    stable = torch.full((10, 10), -5.0)
    stable[:5] = 5.0
    empty = torch.full((10, 10), -5.0)
    unstable = stable.clone()
    unstable[5, :2] = 0.01  # 2 of 52 pixels lie between the thresholds: 50 / 52 < 0.98
    at_limit = torch.full((10, 10), 5.0)
    at_limit[0, :2] = 0.01  # 98 / 100 is just enough
    logits, iou = _candidates(stable, unstable, empty, at_limit)
    candidates = DecodedMasks(
        mask_logits=logits, iou=iou, tokens=torch.zeros(4, 4, 1), object_logits=torch.ones(4, 1)
    )
    found = choose(candidates, multimask=False, stability_fallback=True)
    chosen, chosen_iou = found.mask_logits, found.iou
    assert chosen.shape == (4, 1, 10, 10)
    for index, single in ((0, stable), (2, empty), (3, at_limit)):
        assert torch.equal(chosen[index, 0], single)
    assert torch.equal(chosen[1, 0], torch.full((10, 10), 2.0))
    torch.testing.assert_close(chosen_iou[:, 0], torch.tensor([0.99, 0.8, 0.99, 0.99]))


@pytest.mark.parametrize("multimask", [True, False])
def test_one_object_does_not_influence_another(network: Network, multimask: bool) -> None:
    features = _features(network, 2)
    points, labels = torch.rand(2, 2, 2) * 64, torch.tensor([[2, 3], [2, 3]])
    prompts = network.encode_prompts(points, labels, batch=2)

    def decode(features: ImageFeatures, prompts: PromptEmbedding):
        return network.decode_masks(
            features, features.level2, prompts, multimask=multimask, stability_fallback=True
        )

    both = decode(features, prompts)
    assert not torch.allclose(both.mask_logits[0], both.mask_logits[1])
    for index in range(2):
        part = slice(index, index + 1)
        alone = decode(
            _one(features, index), PromptEmbedding(sparse=prompts.sparse[part], dense=prompts.dense[part])
        )
        for name in ("mask_logits", "iou", "tokens", "object_logits"):
            torch.testing.assert_close(getattr(both, name)[part], getattr(alone, name), **CLOSE)


def _tokens(batch: int) -> MemoryTokens:
    return MemoryTokens(
        spatial=[torch.randn(batch, 64, 4, 4) for _ in range(3)],
        codes=[6, 1, 0],
        pointers=[torch.randn(batch, 64) for _ in range(3)],
        distances=[0.2, 0.4, 1.0],
    )


def test_the_order_of_memories_does_not_matter_but_their_distances_do(network: Network) -> None:
    features, tokens = _features(network, 1), _tokens(1)
    conditioned = network.attend_memory(features, tokens)
    shuffled = MemoryTokens(
        spatial=[tokens.spatial[i] for i in (2, 0, 1)],
        codes=[tokens.codes[i] for i in (2, 0, 1)],
        pointers=[tokens.pointers[i] for i in (1, 2, 0)],
        distances=[tokens.distances[i] for i in (1, 2, 0)],
    )
    torch.testing.assert_close(network.attend_memory(features, shuffled), conditioned, **CLOSE)
    swapped = dataclasses.replace(tokens, distances=[1.0, 0.4, 0.2])
    assert (network.attend_memory(features, swapped) - conditioned).abs().max() > 1e-4
    recoded = dataclasses.replace(tokens, codes=[0, 1, 6])
    assert (network.attend_memory(features, recoded) - conditioned).abs().max() > 1e-4


def test_a_batch_of_two_is_two_batches_of_one(network: Network) -> None:
    images = torch.randn(2, 3, 64, 64)
    features, tokens = network.encode_image(images), _tokens(2)
    conditioned = network.attend_memory(features, tokens)
    mask, present = torch.randn(2, 1, 64, 64), torch.tensor([[2.0], [-2.0]])
    memory = network.encode_memory(features, mask, present, binarise=False)
    for index in range(2):
        part = slice(index, index + 1)
        alone = network.encode_image(images[part])
        torch.testing.assert_close(alone.level0, features.level0[part], **CLOSE)
        torch.testing.assert_close(alone.level2, features.level2[part], **CLOSE)
        own = MemoryTokens(
            spatial=[m[part] for m in tokens.spatial],
            codes=tokens.codes,
            pointers=[p[part] for p in tokens.pointers],
            distances=tokens.distances,
        )
        torch.testing.assert_close(network.attend_memory(alone, own), conditioned[part], **CLOSE)
        encoded = network.encode_memory(alone, mask[part], present[part], binarise=False)
        torch.testing.assert_close(encoded, memory[part], **CLOSE)


def test_an_absent_object_adds_its_embedding_to_the_whole_memory(network: Network) -> None:
    features, mask = _features(network, 1), torch.randn(1, 1, 64, 64)
    there, gone = (
        network.encode_memory(features, mask, torch.tensor([[logit]]), binarise=True) for logit in (1.0, 0.0)
    )
    added = network.no_obj_embed_spatial[0][None, :, None, None].expand(1, -1, 4, 4)
    torch.testing.assert_close(gone - there, added, **CLOSE)


def test_no_memory_adds_its_embedding(network: Network) -> None:
    features = _features(network, 1)
    added = network.attend_memory(features, None) - features.level2
    expected = network.no_mem_embed[0, 0, :, None, None].expand_as(features.level2[0])
    torch.testing.assert_close(added[0], expected, **CLOSE)
