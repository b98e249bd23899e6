"""Attention between two token sequences, plain or with rotary positions."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from medsam2.model.position import axial_rotation, rotate


class Attention(nn.Module):
    """Multi-head attention with separate projections.

    Args:
        dim: Channels of queries and of the result.
        num_heads: Heads that `inner_dim` is split into.
        inner_dim: Channels inside; `dim` if not given.
        key_dim: Channels of keys and values; `dim` if not given.
    """

    def __init__(
        self, dim: int, num_heads: int, *, inner_dim: int | None = None, key_dim: int | None = None
    ) -> None:
        super().__init__()
        inner_dim = inner_dim or dim
        key_dim = key_dim or dim
        self.num_heads = num_heads
        self.q_proj = nn.Linear(dim, inner_dim)
        self.k_proj = nn.Linear(key_dim, inner_dim)
        self.v_proj = nn.Linear(key_dim, inner_dim)
        self.out_proj = nn.Linear(inner_dim, dim)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend from `(B, N, dim)` to `(B, M, key_dim)`; the result is `(B, N, dim)`."""
        queries, keys, values = (self._split(p) for p in (self.q_proj(q), self.k_proj(k), self.v_proj(v)))
        attended = _attend(queries, keys, values)  # (B, heads, N, inner / heads)
        return self.out_proj(attended.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Scaled dot-product attention in the order of operations of PyTorch's plain kernel.

    The reference decodes with that kernel on a CPU. A fused one differs in the last digits, which is
    enough to move pixels across the threshold at which a prompted mask enters memory.
    """
    scale = q.shape[-1] ** -0.25
    weights = ((q * scale) @ (k * scale).transpose(-2, -1)).softmax(dim=-1)
    return weights @ v


class RotaryAttention(Attention):
    """One-head attention whose queries and keys are rotated by their place on a square grid.

    Args:
        dim: Channels of queries, of the result and inside.
        grid_size: Side of the grid that queries, and each stretch of keys, lie on.
        dropout: Probability of dropping an attention weight in training.
        key_dim: Channels of keys and values; `dim` if not given.
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, dim: int, grid_size: int, *, dropout: float, key_dim: int | None = None) -> None:
        super().__init__(dim, num_heads=1, key_dim=key_dim)
        self.dropout = dropout
        cos, sin = axial_rotation(dim, grid_size)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, *, num_unplaced: int = 0) -> Tensor:
        """Attend as `Attention` does.

        Args:
            q: `(B, N, dim)`, N the number of grid places.
            k: `(B, M, key_dim)`; M is a multiple of N, plus `num_unplaced`.
            v: Like `k`.
            num_unplaced: Keys at the end (object pointers) that lie nowhere on the grid.
        """
        queries = rotate(self.q_proj(q), self.cos, self.sin)
        keys, values = self.k_proj(k), self.v_proj(v)
        num_placed = keys.shape[1] - num_unplaced
        placed = rotate(keys[:, :num_placed], self.cos, self.sin)
        keys = torch.cat((placed, keys[:, num_placed:]), dim=1) if num_unplaced else placed
        dropout = self.dropout if self.training else 0.0
        attended = F.scaled_dot_product_attention(
            queries[:, None], keys[:, None], values[:, None], dropout_p=dropout
        )
        return self.out_proj(attended[:, 0])
