"""Our network against the Sam2Video model of Hugging Face `transformers`, with the same random weights.

Written by others from the same reference; float32, one thread, tolerance 1e-4 of the outputs' spread. The
grids are so small and the windows such that padding, pooling and global attention all happen.

Mask prompts are left out: there that model takes the pointer from the best of three candidates and remembers
the mask before it is reduced, where SAM 2 takes the first token and the reduced mask.
"""

from __future__ import annotations

import re

import pytest
import torch

from medsam2.model.config import ModelConfig
from medsam2.model.network import ImageFeatures, MemoryTokens, Network
from medsam2.tracking.memory import MemoryBank
from medsam2.tracking.prior import PromptTensors
from medsam2.tracking.select import recent
from medsam2.tracking.step import remember, track_frame

pytest.importorskip("transformers", reason="the second oracle is the transformers package")
oracle = pytest.importorskip("transformers.models.sam2_video.modeling_sam2_video")

from transformers.models.sam2.configuration_sam2 import Sam2HieraDetConfig, Sam2VisionConfig  # noqa: E402
from transformers.models.sam2_video.configuration_sam2_video import (  # noqa: E402
    Sam2VideoConfig,
    Sam2VideoMaskDecoderConfig,
    Sam2VideoPromptEncoderConfig,
)

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

# Our parameter names, which are SAM 2's, to theirs; applied in this order.
RENAMED = (
    (r"^image_encoder\.trunk\.patch_embed\.proj", "vision_encoder.backbone.patch_embed.projection"),
    (r"^image_encoder\.trunk", "vision_encoder.backbone"),
    (r"^image_encoder\.neck\.convs\.(\d)\.conv", r"vision_encoder.neck.convs.\1"),
    (r"^memory_encoder\.mask_downsampler\.encoder\.12", "memory_encoder.mask_downsampler.final_conv"),
    (r"^memory_encoder\.pix_feat_proj", "memory_encoder.feature_projection"),
    (r"^memory_encoder\.out_proj", "memory_encoder.projection"),
    (r"^memory_encoder\.fuser", "memory_encoder.memory_fuser"),
    (r"\.gamma$", ".scale"),
    (r"\.dwconv", ".depthwise_conv"),
    (r"\.pwconv", ".pointwise_conv"),
    (r"^sam_prompt_encoder\.mask_downscaling\.0", "prompt_encoder.mask_embed.conv1"),
    (r"^sam_prompt_encoder\.mask_downscaling\.1", "prompt_encoder.mask_embed.layer_norm1"),
    (r"^sam_prompt_encoder\.mask_downscaling\.3", "prompt_encoder.mask_embed.conv2"),
    (r"^sam_prompt_encoder\.mask_downscaling\.4", "prompt_encoder.mask_embed.layer_norm2"),
    (r"^sam_prompt_encoder\.mask_downscaling\.6", "prompt_encoder.mask_embed.conv3"),
    (r"^sam_prompt_encoder\.pe_layer\.\w+", "prompt_encoder.shared_embedding.positional_embedding"),
    (r"^sam_prompt_encoder", "prompt_encoder"),
    (r"^sam_mask_decoder\.output_upscaling\.0", "mask_decoder.upscale_conv1"),
    (r"^sam_mask_decoder\.output_upscaling\.1", "mask_decoder.upscale_layer_norm"),
    (r"^sam_mask_decoder\.output_upscaling\.3", "mask_decoder.upscale_conv2"),
    (r"^sam_mask_decoder", "mask_decoder"),
    (r"^obj_ptr_proj", "object_pointer_proj"),
    (r"^obj_ptr_tpos_proj", "temporal_positional_encoding_projection_layer"),
    (r"^maskmem_tpos_enc", "memory_temporal_positional_encoding"),
    (r"^no_mem_embed", "no_memory_embedding"),
    (r"^no_mem_pos_enc", "no_memory_positional_encoding"),
    (r"^no_obj_ptr", "no_object_pointer"),
    (r"^no_obj_embed_spatial", "occlusion_spatial_embedding_parameter"),
    (r"(?<!layer_)\bnorm(\d|\b)", r"layer_norm\1"),
    (r"\bnorm_final_attn", "layer_norm_final_attn"),
    (r"(attn\w*)\.out_proj", r"\1.o_proj"),
    (r"(\.mlp)\.layers\.0", r"\1.proj_in"),
    (r"(\.mlp)\.layers\.1", r"\1.proj_out"),
    (r"(_head|_mlps\.\d|pointer_proj)\.layers\.0", r"\1.proj_in"),
    (r"(_head|_mlps\.\d|pointer_proj)\.layers\.2", r"\1.proj_out"),
    (r"(_head|_mlps\.\d|pointer_proj)\.layers\.1", r"\1.layers.0"),
)


def _their_state(network: Network) -> dict[str, torch.Tensor]:
    state = {}
    kinds = []
    for name, value in network.state_dict().items():
        if "point_embeddings" in name:
            kinds.append(value)
            continue
        downsampler = re.match(r"(memory_encoder\.mask_downsampler)\.encoder\.(\d+)\.(\w+)$", name)
        theirs = name
        if downsampler and downsampler[2] != "12":
            stage, is_norm = divmod(int(downsampler[2]), 3)
            part = "layer_norm" if is_norm else "conv"
            theirs = f"{downsampler[1]}.layers.{stage}.{part}.{downsampler[3]}"
        else:
            for pattern, replacement in RENAMED:
                theirs = re.sub(pattern, replacement, theirs)
        state[theirs] = value
    state["prompt_encoder.point_embed.weight"] = torch.cat(kinds)
    frequencies = state["prompt_encoder.shared_embedding.positional_embedding"]
    state["shared_image_embedding.positional_embedding"] = frequencies
    return state


def _their_config() -> Sam2VideoConfig:
    widths = [CONFIG.embed_dim * 2**stage for stage in range(4)]
    sides = [[SIZE // stride] * 2 for stride in (4, 8, 16)]
    backbone = Sam2HieraDetConfig(
        hidden_size=CONFIG.embed_dim,
        image_size=[SIZE, SIZE],
        blocks_per_stage=list(CONFIG.stages),
        embed_dim_per_stage=widths,
        num_attention_heads_per_stage=[1, 2, 4, 8],
        window_size_per_stage=list(CONFIG.window_spec),
        global_attention_blocks=list(CONFIG.global_attention_blocks),
    )
    return Sam2VideoConfig(
        vision_config=Sam2VisionConfig(
            backbone_config=backbone,
            backbone_channel_list=widths[::-1],
            backbone_feature_sizes=sides,
            fpn_hidden_size=DIM,
        ),
        prompt_encoder_config=Sam2VideoPromptEncoderConfig(hidden_size=DIM, image_size=SIZE),
        mask_decoder_config=Sam2VideoMaskDecoderConfig(
            hidden_size=DIM, mlp_dim=8 * DIM, iou_head_hidden_dim=DIM
        ),
        image_size=SIZE,
        memory_attention_hidden_size=DIM,
        memory_attention_num_layers=CONFIG.memory_attention_layers,
        memory_attention_feed_forward_hidden_size=8 * DIM,
        memory_attention_rope_feat_sizes=[GRID, GRID],
        memory_encoder_hidden_size=DIM,
        mask_downsampler_embed_dim=DIM,
        memory_fuser_embed_dim=DIM,
        memory_fuser_intermediate_dim=4 * DIM,
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
    theirs = oracle.Sam2VideoModel(_their_config()).eval()
    theirs.load_state_dict(_their_state(ours), strict=True)
    return ours, theirs


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
