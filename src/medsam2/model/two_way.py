"""Two-way transformer: prompt tokens and image tokens attend to each other."""

from __future__ import annotations

import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from medsam2.model.attention import Attention
from medsam2.model.layers import MLP

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
