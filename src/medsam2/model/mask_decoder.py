"""Mask decoder: image features and prompt tokens become masks, their quality and presence."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from medsam2.model.config import HIGH_RES_DIVISORS, NUM_MASK_TOKENS, ModelConfig
from medsam2.model.layers import MLP, Attention, LayerNorm2d

NUM_LAYERS = 2
NUM_HEADS = 8
CROSS_ATTENTION_DIVISOR = 2  # cross-attention works on half the channels
MLP_RATIO = 8


class TwoWayLayer(nn.Module):
    """Tokens attend to themselves and to the image, then the image to the tokens.

    Args:
        dim: Channels of tokens and image.
        is_first: The first layer's self-attention neither sees positions nor keeps its input.
    """

    def __init__(self, dim: int, *, is_first: bool) -> None:
        super().__init__()
        self.is_first = is_first
        cross_dim = dim // CROSS_ATTENTION_DIVISOR
        self.self_attn = Attention(dim, NUM_HEADS)
        self.norm1 = nn.LayerNorm(dim)
        self.cross_attn_token_to_image = Attention(dim, NUM_HEADS, inner_dim=cross_dim)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = MLP(dim, MLP_RATIO * dim, dim, activation=F.relu)
        self.norm3 = nn.LayerNorm(dim)
        self.norm4 = nn.LayerNorm(dim)
        self.cross_attn_image_to_token = Attention(dim, NUM_HEADS, inner_dim=cross_dim)

    def forward(
        self, tokens: Tensor, image: Tensor, token_position: Tensor, image_position: Tensor
    ) -> tuple[Tensor, Tensor]:
        if self.is_first:
            tokens = self.self_attn(tokens, tokens, tokens)
        else:
            placed = tokens + token_position
            tokens = tokens + self.self_attn(placed, placed, tokens)
        tokens = self.norm1(tokens)

        placed_image = image + image_position
        attended = self.cross_attn_token_to_image(tokens + token_position, placed_image, image)
        tokens = self.norm2(tokens + attended)
        tokens = self.norm3(tokens + self.mlp(tokens))

        attended = self.cross_attn_image_to_token(placed_image, tokens + token_position, tokens)
        return tokens, self.norm4(image + attended)


class TwoWayTransformer(nn.Module):
    """The layers and a last look of the tokens at the image."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(TwoWayLayer(dim, is_first=index == 0) for index in range(NUM_LAYERS))
        self.final_attn_token_to_image = Attention(dim, NUM_HEADS, inner_dim=dim // CROSS_ATTENTION_DIVISOR)
        self.norm_final_attn = nn.LayerNorm(dim)

    def forward(self, tokens: Tensor, image: Tensor, image_position: Tensor) -> tuple[Tensor, Tensor]:
        """Mix `(B, T, C)` tokens with `(B, N, C)` image tokens; both come back in their shapes."""
        token_position = tokens
        for layer in self.layers:
            tokens, image = layer(tokens, image, token_position, image_position)
        attended = self.final_attn_token_to_image(tokens + token_position, image + image_position, image)
        return self.norm_final_attn(tokens + attended), image


STABILITY_DELTA = 0.05  # logits around the threshold that a stable mask hardly uses
STABILITY_THRESHOLD = 0.98


@dataclass(frozen=True, kw_only=True)
class DecodedMasks:
    """What the decoder says; candidates are ambiguous readings of the same prompt."""

    mask_logits: Tensor
    """`(B, M, S/4, S/4)`, M = 1 or 3 candidates; 4 before they are chosen from."""
    iou: Tensor
    """`(B, M)` predicted overlap of each candidate with the truth, 0..1."""
    tokens: Tensor
    """`(B, M, C)` the candidates' output tokens, from which object pointers are made."""
    object_logits: Tensor
    """`(B, 1)` above 0 when the object is in the slice."""


class MaskDecoder(nn.Module):
    """Decode masks from features at strides 16, 8 and 4."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dim = config.hidden_dim
        channels0, channels1 = (dim // divisor for divisor in HIGH_RES_DIVISORS)
        self.transformer = TwoWayTransformer(dim)
        self.iou_token = nn.Embedding(1, dim)
        self.mask_tokens = nn.Embedding(NUM_MASK_TOKENS, dim)
        self.obj_score_token = nn.Embedding(1, dim)
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose2d(dim, channels1, kernel_size=2, stride=2),
            LayerNorm2d(channels1),
            nn.GELU(),
            nn.ConvTranspose2d(channels1, channels0, kernel_size=2, stride=2),
            nn.GELU(),
        )
        self.conv_s0 = nn.Conv2d(dim, channels0, kernel_size=1)
        self.conv_s1 = nn.Conv2d(dim, channels1, kernel_size=1)
        self.output_hypernetworks_mlps = nn.ModuleList(
            MLP(dim, dim, dim, channels0, activation=F.relu) for _ in range(NUM_MASK_TOKENS)
        )
        self.iou_prediction_head = MLP(dim, dim, dim, NUM_MASK_TOKENS, activation=F.relu)
        self.pred_obj_score_head = MLP(dim, dim, dim, 1, activation=F.relu)

    def forward(
        self,
        features: tuple[Tensor, Tensor, Tensor],
        grid_position: Tensor,
        sparse: Tensor,
        dense: Tensor,
    ) -> DecodedMasks:
        """Decode all four candidates: the mask for clear prompts and, after it, the three for ambiguous ones.

        Args:
            features: `(B, C/8, S/4, S/4)`, `(B, C/4, S/8, S/8)`, `(B, C, S/16, S/16)`.
            grid_position: `(1, C, S/16, S/16)` encoding of the grid's places.
            sparse: `(B, T, C)` prompt tokens.
            dense: `(B, C, S/16, S/16)` prompt map.
        """
        level0, level1, level2 = features
        own = torch.cat((self.obj_score_token.weight, self.iou_token.weight, self.mask_tokens.weight))
        tokens = torch.cat((own.expand(sparse.shape[0], -1, -1), sparse), dim=1)
        image = level2 + dense
        tokens, mixed = self.transformer(
            tokens, image.flatten(2).transpose(1, 2), grid_position.flatten(2).transpose(1, 2)
        )
        image = mixed.transpose(1, 2).unflatten(2, image.shape[-2:])

        mask_tokens = tokens[:, 2 : 2 + NUM_MASK_TOKENS]
        mask_logits = self._render(image, level1, level0, mask_tokens)
        iou = self.iou_prediction_head(tokens[:, 1]).sigmoid()
        object_logits = self.pred_obj_score_head(tokens[:, 0])
        return DecodedMasks(mask_logits=mask_logits, iou=iou, tokens=mask_tokens, object_logits=object_logits)

    def _render(self, image: Tensor, level1: Tensor, level0: Tensor, mask_tokens: Tensor) -> Tensor:
        """Logits of every mask token: upscaled features times the token's weights."""
        upscale1, norm, activation, upscale2, last_activation = self.output_upscaling
        upscaled = activation(norm(upscale1(image) + level1))
        upscaled = last_activation(upscale2(upscaled) + level0)
        weights = torch.stack(
            [mlp(mask_tokens[:, i]) for i, mlp in enumerate(self.output_hypernetworks_mlps)], dim=1
        )
        return (weights @ upscaled.flatten(2)).unflatten(2, upscaled.shape[-2:])


def choose(candidates: DecodedMasks, *, multimask: bool, stability_fallback: bool) -> DecodedMasks:
    """Choose from all four candidates: the last three, or one.

    Args:
        candidates: Of `MaskDecoder`.
        multimask: Keep three candidates instead of one.
        stability_fallback: With one candidate, take the best of the three where it is unstable.
    """
    chosen = slice(1, None) if multimask else slice(0, 1)
    mask_logits, iou = candidates.mask_logits, candidates.iou
    if stability_fallback and not multimask:
        choice = stable_candidate(mask_logits, iou)
        batch = torch.arange(len(choice), device=choice.device)
        mask_logits, iou = mask_logits[batch, choice][:, None], iou[batch, choice][:, None]
    else:
        mask_logits, iou = mask_logits[:, chosen], iou[:, chosen]
    return DecodedMasks(
        mask_logits=mask_logits,
        iou=iou,
        # The pointer's token stays the first one even where the fallback replaces the mask.
        tokens=candidates.tokens[:, chosen],
        object_logits=candidates.object_logits,
    )


def stable_candidate(mask_logits: Tensor, iou: Tensor) -> Tensor:
    """Index `(B,)` of mask 0 where a shift of the threshold hardly changes it, else of the best other one.

    Args:
        mask_logits: `(B, 4, H, W)`.
        iou: `(B, 4)`.
    """
    single = mask_logits[:, 0].flatten(1)
    inner = (single > STABILITY_DELTA).sum(dim=1)
    outer = (single > -STABILITY_DELTA).sum(dim=1)
    is_stable = (inner >= STABILITY_THRESHOLD * outer) | (outer == 0)
    best = iou[:, 1:].argmax(dim=1) + 1
    return torch.where(is_stable, torch.zeros_like(best), best)
