"""The Sam2Video model of Hugging Face `transformers` with our weights: written by others from the same paper.

Tests hold our numbers against its numbers, benchmarks our seconds against its seconds.
"""

from __future__ import annotations

import re

import torch
from transformers.models.sam2.configuration_sam2 import Sam2HieraDetConfig, Sam2VisionConfig
from transformers.models.sam2_video.configuration_sam2_video import (
    Sam2VideoConfig,
    Sam2VideoMaskDecoderConfig,
    Sam2VideoPromptEncoderConfig,
)
from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoModel

from medsam2.model.config import PATCH_STRIDE, ModelConfig
from medsam2.model.network import Network

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


def build_peer(network: Network) -> Sam2VideoModel:
    """Their model with the weights of our network, which every one of its parameters is given."""
    model = Sam2VideoModel(_their_config(network.config)).eval()
    model.load_state_dict(_their_state(network), strict=True)
    return model


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


def _their_config(config: ModelConfig) -> Sam2VideoConfig:
    size, dim = config.image_size, config.hidden_dim
    widths = [config.embed_dim * 2**stage for stage in range(4)]
    sides = [[size // (PATCH_STRIDE * scale)] * 2 for scale in (1, 2, 4)]
    backbone = Sam2HieraDetConfig(
        hidden_size=config.embed_dim,
        image_size=[size, size],
        blocks_per_stage=list(config.stages),
        embed_dim_per_stage=widths,
        num_attention_heads_per_stage=[config.num_heads * 2**stage for stage in range(4)],
        window_size_per_stage=list(config.window_spec),
        global_attention_blocks=list(config.global_attention_blocks),
    )
    return Sam2VideoConfig(
        vision_config=Sam2VisionConfig(
            backbone_config=backbone,
            backbone_channel_list=widths[::-1],
            backbone_feature_sizes=sides,
            fpn_hidden_size=dim,
        ),
        prompt_encoder_config=Sam2VideoPromptEncoderConfig(hidden_size=dim, image_size=size),
        mask_decoder_config=Sam2VideoMaskDecoderConfig(
            hidden_size=dim, mlp_dim=8 * dim, iou_head_hidden_dim=dim
        ),
        image_size=size,
        memory_attention_hidden_size=dim,
        memory_attention_num_layers=config.memory_attention_layers,
        memory_attention_feed_forward_hidden_size=8 * dim,
        memory_attention_rope_feat_sizes=[config.grid_size, config.grid_size],
        memory_encoder_hidden_size=dim,
        mask_downsampler_embed_dim=dim,
        memory_fuser_embed_dim=dim,
        memory_fuser_intermediate_dim=4 * dim,
    )
