"""The layers every part of the network is made of: norms, position encodings, attention."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

NORM2D_EPS = 1e-6


class LayerNorm2d(nn.Module):
    """Normalise the channels of each pixel of a `(B, C, H, W)` map."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        channels_last = x.permute(0, 2, 3, 1)
        normalised = F.layer_norm(channels_last, (x.shape[1],), self.weight, self.bias, NORM2D_EPS)
        return normalised.permute(0, 3, 1, 2)


class MLP(nn.Module):
    """Linear layers with an activation between them.

    Args:
        dims: Channels before, between and after the layers.
        activation: Applied after every layer but the last.
    """

    def __init__(self, *dims: int, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(i, o) for i, o in pairwise(dims))
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        for index, layer in enumerate(self.layers):
            x = layer(x) if index == 0 else layer(self.activation(x))
        return x


TEMPERATURE = 10000.0


def _sine_wavelengths(count: int, device: torch.device | None = None) -> Tensor:
    """Wavelengths `10000^(2 floor(i/2) / count)`, i = 0..count-1 (Vaswani et al. 2017)."""
    index = torch.arange(count, dtype=torch.float32, device=device)
    return torch.pow(TEMPERATURE, 2 * torch.div(index, 2, rounding_mode="floor") / count)


def sine_map(channels: int, size: int) -> Tensor:
    """Fixed encoding of a square grid, as DETR normalises it.

    Args:
        channels: Channels of the result; the first half encodes rows, the second columns.
        size: Side of the grid.

    Returns:
        float32 `(channels, size, size)`.
    """
    half = channels // 2
    coordinate = 2 * math.pi * torch.arange(1, size + 1, dtype=torch.float32) / (size + 1e-6)
    phase = coordinate[:, None] / _sine_wavelengths(half)  # (size, half)
    encoded = torch.stack((phase[:, 0::2].sin(), phase[:, 1::2].cos()), dim=2).flatten(1)
    rows = encoded.T[:, :, None].expand(half, size, size)
    columns = encoded.T[:, None, :].expand(half, size, size)
    return torch.cat((rows, columns), dim=0)


def distance_encoding(distance: Tensor, channels: int) -> Tensor:
    """Encode relative distances `(P,)` as `(P, channels)`: sines first, then cosines."""
    phase = distance[:, None] / _sine_wavelengths(channels // 2, distance.device)
    return torch.cat((phase.sin(), phase.cos()), dim=1)


class RandomFourierEncoding(nn.Module):
    """Encode points of the unit square by random frequencies (Tancik et al. 2020)."""

    positional_encoding_gaussian_matrix: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        # Saved with the weights: the network is trained for these very frequencies.
        self.register_buffer("positional_encoding_gaussian_matrix", torch.randn(2, channels // 2))

    def forward(self, xy: Tensor) -> Tensor:
        """Encode `(..., 2)` coordinates (x, y) in 0..1 as `(..., channels)`."""
        # In float32 even under autocast: a phase of many turns loses its meaning in bfloat16.
        with torch.autocast(xy.device.type, enabled=False):
            phase = 2 * math.pi * ((2 * xy.float() - 1) @ self.positional_encoding_gaussian_matrix)
            return torch.cat((phase.sin(), phase.cos()), dim=-1)

    def grid(self, size: int) -> Tensor:
        """Encode the pixel centres of a square grid as `(channels, size, size)`."""
        device = self.positional_encoding_gaussian_matrix.device
        centre = (torch.arange(size, dtype=torch.float32, device=device) + 0.5) / size
        y, x = torch.meshgrid(centre, centre, indexing="ij")
        return self(torch.stack((x, y), dim=-1)).permute(2, 0, 1)


def axial_rotation(channels: int, size: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines that rotate channel pairs by their token's column and row.

    The first half of the pairs turns with x, the second with y (axial RoPE, Heo et al. 2024).

    Args:
        channels: Channels per head, a multiple of 4.
        size: Side of the token grid.

    Returns:
        Two float32 tensors `(size * size, channels / 2)`, tokens in row-major order.
    """
    frequency = TEMPERATURE ** (-torch.arange(0, channels, 4, dtype=torch.float32) / channels)
    token = torch.arange(size * size)
    x = (token % size).float()[:, None] * frequency
    y = torch.div(token, size, rounding_mode="floor").float()[:, None] * frequency
    angle = torch.cat((x, y), dim=1)
    return angle.cos(), angle.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate adjacent channel pairs of `(B, N, C)` by tables whose rows repeat over N.

    N may be a multiple of the table's rows: every memory has the same grid.
    """
    repeats = x.shape[1] // cos.shape[0]
    pairs = x.float().unflatten(-1, (-1, 2)).unflatten(1, (repeats, cos.shape[0]))  # (B, r, n, C/2, 2)
    even, odd = pairs[..., 0], pairs[..., 1]
    turned = torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1)
    return turned.flatten(-2).flatten(1, 2).to(x.dtype)


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
