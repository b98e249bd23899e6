"""Memory: a slice and its mask become one spatial memory, and other slices look at it."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from medsam2.model.config import MEMORY_DIM, ModelConfig
from medsam2.model.layers import LayerNorm2d, RotaryAttention

DROPOUT = 0.1  # SAM 2.1; training only
FEED_FORWARD_RATIO = 8
POSITION_WEIGHT = 0.1  # of the sine map that is added to the slice's features
# Equal biases of queries and keys, once rotated, are most alike at the same place: an untrained
# layer then looks where the object was in the other slice, instead of everywhere.
SAME_PLACE_BIAS = 0.8


class MemoryAttentionLayer(nn.Module):
    """Self-attention, attention to the memories, feed-forward; each after a norm."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dim, grid = config.hidden_dim, config.grid_size
        self.self_attn = RotaryAttention(dim, grid, dropout=DROPOUT)
        self.cross_attn_image = RotaryAttention(dim, grid, dropout=DROPOUT, key_dim=MEMORY_DIM)
        self.linear1 = nn.Linear(dim, FEED_FORWARD_RATIO * dim)
        self.linear2 = nn.Linear(FEED_FORWARD_RATIO * dim, dim)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.norm3 = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(DROPOUT)
        for projection in (self.cross_attn_image.q_proj, self.cross_attn_image.k_proj):
            nn.init.constant_(projection.bias, SAME_PLACE_BIAS)

    def forward(self, x: Tensor, keys: Tensor, values: Tensor, num_unplaced: int) -> Tensor:
        y = self.norm1(x)
        x = x + self.dropout(self.self_attn(y, y, y))
        y = self.norm2(x)
        x = x + self.dropout(self.cross_attn_image(y, keys, values, num_unplaced=num_unplaced))
        y = self.linear2(self.dropout(F.relu(self.linear1(self.norm3(x)))))
        return x + self.dropout(y)


class MemoryAttention(nn.Module):
    """A stack of layers that condition a slice on memory tokens."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            MemoryAttentionLayer(config) for _ in range(config.memory_attention_layers)
        )
        self.norm = nn.LayerNorm(config.hidden_dim)

    def forward(
        self, x: Tensor, position: Tensor, memory: Tensor, memory_position: Tensor, num_pointer_tokens: int
    ) -> Tensor:
        """Condition a slice on memory.

        Args:
            x: `(B, N, C)` features of the slice, N grid places in row-major order.
            position: `(1, N, C)` sine encoding of the grid.
            memory: `(B, M, 64)` tokens: whole grids first, object pointers last.
            memory_position: `(B or 1, M, 64)` their encodings, added to keys only.
            num_pointer_tokens: How many tokens at the end are object pointers.

        Returns:
            `(B, N, C)`.
        """
        x = x + POSITION_WEIGHT * position
        keys = memory + memory_position
        for layer in self.layers:
            x = layer(x, keys, memory, num_pointer_tokens)
        conditioned: Tensor = self.norm(x)
        return conditioned


MASK_CHANNELS = (1, 4, 16, 64, 256)
NUM_FUSER_LAYERS = 2
LAYER_SCALE = 1e-6  # ConvNeXt's initial value


class MaskDownsampler(nn.Module):
    """Bring a full-size mask to the feature grid by four strided convolutions."""

    def __init__(self, hidden_dim: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for channels_in, channels_out in pairwise(MASK_CHANNELS):
            layers += [
                nn.Conv2d(channels_in, channels_out, kernel_size=3, stride=2, padding=1),
                LayerNorm2d(channels_out),
                nn.GELU(),
            ]
        layers.append(nn.Conv2d(MASK_CHANNELS[-1], hidden_dim, kernel_size=1))
        self.encoder = nn.Sequential(*layers)

    def forward(self, mask: Tensor) -> Tensor:
        encoded: Tensor = self.encoder(mask)
        return encoded


class ConvNextBlock(nn.Module):
    """Depthwise 7 x 7 convolution and a pointwise MLP (Liu et al. 2022)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, kernel_size=7, padding=3, groups=dim)
        self.norm = LayerNorm2d(dim)
        self.pwconv1 = nn.Linear(dim, 4 * dim)
        self.pwconv2 = nn.Linear(4 * dim, dim)
        self.gamma = nn.Parameter(torch.full((dim,), LAYER_SCALE))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.dwconv(x)).permute(0, 2, 3, 1)
        y = self.gamma * self.pwconv2(F.gelu(self.pwconv1(y)))
        return x + y.permute(0, 3, 1, 2)


class Fuser(nn.Module):
    """The blocks that mix mask and image."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(ConvNextBlock(dim) for _ in range(NUM_FUSER_LAYERS))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class MemoryEncoder(nn.Module):
    """Fuse a slice's features with its mask."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dim = config.hidden_dim
        self.mask_downsampler = MaskDownsampler(dim)
        self.pix_feat_proj = nn.Conv2d(dim, dim, kernel_size=1)
        self.fuser = Fuser(dim)
        self.out_proj = nn.Conv2d(dim, MEMORY_DIM, kernel_size=1)

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        """Encode one memory.

        Args:
            features: `(B, C, S/16, S/16)`, before any memory attention.
            mask: `(B, 1, S, S)` values between -10 (outside) and 10 (inside).

        Returns:
            `(B, 64, S/16, S/16)`.
        """
        memory: Tensor = self.out_proj(self.fuser(self.pix_feat_proj(features) + self.mask_downsampler(mask)))
        return memory
