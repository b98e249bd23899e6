"""Memory attention: the features of a slice look at what is remembered of other slices."""

from __future__ import annotations

import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from medsam2.model.attention import RotaryAttention
from medsam2.model.config import MEMORY_DIM, ModelConfig

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
