"""Position encodings: sine maps, random Fourier features, axial rotations, distances in slices."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

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
