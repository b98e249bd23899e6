"""Our network against the Sam2Video model of Hugging Face `transformers`, with the same random weights.

Written by others from the same reference; float32, one thread, tolerance 1e-4 of the outputs' spread. The
grids are so small and the windows such that padding, pooling and global attention all happen.

Mask prompts are left out: there that model takes the pointer from the best of three candidates and remembers
the mask before it is reduced, where SAM 2 takes the first token and the reduced mask.
"""

from __future__ import annotations

import pytest
import torch

from medsam2.model.config import ModelConfig
from medsam2.model.network import ImageFeatures, MemoryTokens, Network
from medsam2.tracking.memory import MemoryBank
from medsam2.tracking.policies import recent
from medsam2.tracking.step import PromptTensors, remember, track_frame

pytest.importorskip("transformers", reason="the second oracle is the transformers package")
oracle = pytest.importorskip("transformers.models.sam2_video.modeling_sam2_video")

from peer import build_peer  # noqa: E402

TOLERANCE = 1e-4
# Memories are rounded to bfloat16: a last digit that differs before may move one by 2^-8 of its value.
TRACKING_TOLERANCE = 1e-3
SIZE, GRID, DIM = 96, 6, 128  # 128: a pointer is split into two tokens
CONFIG = ModelConfig(
    image_size=SIZE,
    embed_dim=16,
    num_heads=1,
    stages=(1, 1, 3, 2),
    global_attention_blocks=(4,),
    window_pos_embed_size=(7, 7),
    window_spec=(8, 4, 4, 2),
    hidden_dim=DIM,
    memory_attention_layers=2,
)


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """Sums in one order; other tests keep their threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def pair(_one_thread):
    """Our network and theirs with the same weights, every parameter away from 0."""
    torch.manual_seed(1)
    ours = Network(CONFIG).eval()
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
        ours.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.fill_(2.0)
    return ours, build_peer(ours)


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _agree(ours: torch.Tensor, theirs: torch.Tensor, tolerance: float = TOLERANCE) -> None:
    assert ours.shape == theirs.shape
    assert ours.std() > 1e-2, "a constant output would agree with anything"
    atol = tolerance * max(1.0, float(theirs.float().std()))
    torch.testing.assert_close(ours.float(), theirs.float(), atol=atol, rtol=0)


def _features(seed: int = 0) -> ImageFeatures:
    return ImageFeatures(
        level0=_random(2, DIM // 8, SIZE // 4, SIZE // 4, seed=seed),
        level1=_random(2, DIM // 4, SIZE // 8, SIZE // 8, seed=seed + 1),
        level2=_random(2, DIM, GRID, GRID, seed=seed + 2),
    )


def _sequence(maps: torch.Tensor) -> torch.Tensor:
    """`(B, C, H, W)` to their `(N, B, C)`."""
    return maps.flatten(2).permute(2, 0, 1)


def test_image_encoder(pair) -> None:
    ours, theirs = pair
    images = _random(2, 3, SIZE, SIZE)
    levels = theirs.vision_encoder(images).fpn_hidden_states
    features = ours.encode_image(images)
    _agree(features.level0, theirs.mask_decoder.conv_s0(levels[0]))
    _agree(features.level1, theirs.mask_decoder.conv_s1(levels[1]))
    _agree(features.level2, levels[2])


def test_prompt_encoder(pair) -> None:
    ours, theirs = pair
    points = torch.tensor(
        [[[10.0, 20.5], [70.0, 90.0], [33.0, 1.0]], [[0.0, 95.0], [7.0, 8.0], [50.0, 3.25]]]
    )
    labels = torch.tensor([[2, 3, 0], [1, 0, 1]])
    mask = _random(2, 1, SIZE // 4, SIZE // 4)
    sparse, dense = theirs.prompt_encoder(points[:, None], labels[:, None], None, mask)
    embedding = ours.encode_prompts(points, labels, mask_logits=mask, batch=2)
    _agree(embedding.sparse, sparse[:, 0])
    _agree(embedding.dense, dense)
    _agree(ours.sam_prompt_encoder.grid_encoding(), theirs.get_image_wide_positional_embeddings())


@pytest.mark.parametrize("multimask", [True, False])
def test_mask_decoder(pair, multimask: bool) -> None:
    ours, theirs = pair
    features, conditioned = _features(), _random(2, DIM, GRID, GRID, seed=9)
    box = torch.tensor([[[10.0, 20.0], [70.0, 90.0]], [[5.0, 6.0], [40.0, 30.0]]])
    prompts = ours.encode_prompts(box, torch.tensor([[2, 3], [2, 3]]), batch=2)
    decoded = ours.decode_masks(features, conditioned, prompts, multimask=multimask, stability_fallback=True)
    masks, iou, tokens, object_logits = theirs.mask_decoder(
        conditioned,
        theirs.get_image_wide_positional_embeddings().expand(2, -1, -1, -1),
        prompts.sparse[:, None],
        prompts.dense,
        multimask,
        [features.level0, features.level1],
    )
    _agree(decoded.mask_logits, masks[:, 0])
    torch.testing.assert_close(decoded.iou, iou[:, 0], atol=TOLERANCE, rtol=0)
    _agree(decoded.tokens, tokens[:, 0])
    torch.testing.assert_close(decoded.object_logits, object_logits[:, 0], atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("binarise", [True, False])
@pytest.mark.parametrize("object_logit", [3.0, -3.0])
def test_memory_encoder(pair, binarise: bool, object_logit: float) -> None:
    ours, theirs = pair
    level2, mask = _random(1, DIM, GRID, GRID), _random(1, 1, SIZE, SIZE, seed=4)
    features = ImageFeatures(level0=level2, level1=level2, level2=level2)  # only the last is read
    present = torch.tensor([[object_logit]])
    memory = ours.encode_memory(features, mask, present, binarise=binarise)
    expected, position = theirs._encode_new_memory(
        _sequence(level2), mask, present, is_mask_from_pts=binarise
    )
    # Theirs comes back rounded to bfloat16; ours is compared before, to within that rounding.
    torch.testing.assert_close(_sequence(memory), expected.float(), atol=1e-6, rtol=2**-8)
    _agree(_sequence(ours.memory_position[None]), position)
    # And the layers themselves, which do not round.
    inside = (mask > 0).float() if binarise else mask.sigmoid()
    _agree(ours.memory_encoder(level2, 20 * inside - 10), theirs.memory_encoder(level2, 20 * inside - 10)[0])


def test_memory_attention(pair) -> None:
    ours, theirs = pair
    features = _features()
    spatial = [_random(2, 64, GRID, GRID, seed=20 + i) for i in range(3)]
    pointers = [_random(2, DIM, seed=30 + i) for i in range(4)]
    distances = [1.0, 2.0, 5.0, 9.0]
    tokens = MemoryTokens(
        spatial=spatial, codes=[6, 2, 0], pointers=pointers, distances=[d / 15 for d in distances]
    )
    grid = theirs.memory_encoder.position_encoding(spatial[0].shape, torch.device("cpu"), torch.float32)
    outputs = [
        (offset, {"maskmem_features": _sequence(memory), "maskmem_pos_enc": _sequence(grid)})
        for offset, memory in zip((7, 3, 1), spatial, strict=True)
    ]
    memories, positions = theirs._build_memory_attention_inputs(outputs, torch.device("cpu"))
    pointer_tokens, pointer_positions = theirs._process_object_pointers(
        distances, pointers, 16, 2, DIM, torch.device("cpu")
    )
    place = theirs.vision_encoder.neck.position_encoding(
        features.level2.shape, torch.device("cpu"), torch.float32
    )
    expected = theirs.memory_attention(
        _sequence(features.level2),
        torch.cat([*memories, pointer_tokens]),
        _sequence(place),
        torch.cat([*positions, pointer_positions]),
        len(pointer_tokens),
    )
    conditioned = ours.attend_memory(features, tokens)
    _agree(conditioned.flatten(2).transpose(1, 2), expected[0])


@pytest.mark.parametrize("kind", ["box", "click"])
@pytest.mark.parametrize("step", [1, -1])
def test_tracking_through_nine_slices(pair, step: int, kind: str) -> None:
    """Their session and our recurrence: which memories a slice sees, and all that is made of them."""
    ours, theirs = pair
    images = _random(9, 3, SIZE, SIZE, seed=7)
    key = 0 if step == 1 else 8
    prompt = {
        "box": PromptTensors(
            points=torch.tensor([[[20.0, 24.0], [70.0, 66.0]]]), labels=torch.tensor([[2, 3]])
        ),
        "click": PromptTensors(points=torch.tensor([[[40.0, 44.0]]]), labels=torch.tensor([[1]])),
    }[kind]
    session = oracle.Sam2VideoInferenceSession(
        video=images, video_height=SIZE, video_width=SIZE, dtype=torch.float32
    )
    number = session.obj_id_to_idx(1)
    clicks = {"point_coords": prompt.points[:, None], "point_labels": prompt.labels[:, None]}
    session.add_point_inputs(number, key, clicks)
    session.obj_with_new_inputs = [1]
    theirs(session, frame_idx=key)
    expected = {
        output.frame_idx: output.pred_masks
        for output in theirs.propagate_in_video_iterator(session, key, reverse=step == -1)
    }
    assert sorted(expected) == list(range(9))

    bank = MemoryBank()
    for z in range(key, key + 9 * step, step):
        features = ours.encode_image(images[z : z + 1])
        is_key = z == key
        result = track_frame(
            ours,
            features,
            prompt=prompt if is_key else None,
            memory=None if is_key else recent(bank, z, step=step, num_slices=9),
        )
        slot = bank.conditioning if is_key else bank.tracked
        slot[z] = remember(ours, features, result, slice_index=z, binarise=is_key)
        _agree(result.low_res_logits, expected[z], TRACKING_TOLERANCE)
