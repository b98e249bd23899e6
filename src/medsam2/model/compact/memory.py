"""How the compact network remembers a slice, and how it looks back at what it remembers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from medsam2.model.compact.config import CompactConfig
from medsam2.model.config import MEMORY_DIM, NUM_MEMORY_CODES

NUM_HEADS = 4
NUM_FREQUENCIES = MEMORY_DIM // 4
LOWEST, HIGHEST = 0.25, 8.0  # waves across a view

Square = tuple[float, float, float]
HERE: Square = (0.0, 0.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class CompactMemories:
    """What a slice may look back at; the lists are the same for the whole batch."""

    spatial: Sequence[Tensor]
    """`(B, 64, S/16, S/16)` each."""
    codes: Sequence[int]
    """Temporal code of each: 0 the slice before ... 5, and 6 for a prompted slice."""
    squares: Sequence[Square]
    """Where each lies in today's view: left, top and side, in sides of today's view."""
    pointers: Sequence[Tensor]
    """Object pointers, `(B, 64)` each."""
    distances: Sequence[float]
    """Distance of each pointer's slice, in units of the longest one remembered."""


class MemoryWriter(nn.Module):
    """Turn what was seen and found in a slice into its memory."""

    def __init__(self, config: CompactConfig) -> None:
        super().__init__()
        dim = config.channels[3]
        self.join = nn.Conv2d(dim + 2, dim, 3, padding=1)
        self.project = nn.Conv2d(dim, MEMORY_DIM, 1)

    def forward(self, seen: Tensor, shares: Tensor) -> Tensor:
        """Return `(B, 64, S/16, S/16)`.

        Args:
            seen: Maps of the decoder at stride 16.
            shares: What `cell_shares` says of the mask.
        """
        memory: Tensor = self.project(F.silu(self.join(torch.cat((seen, shares.to(seen.dtype)), dim=1))))
        return memory


def cell_shares(inside: Tensor, side: int) -> Tensor:
    """Mean and largest probability of a mask `(B, 1, S, S)` in each of the cells, `(B, 2, side, side)`."""
    return torch.cat((F.adaptive_avg_pool2d(inside, side), F.adaptive_max_pool2d(inside, side)), dim=1)


class MemoryReader(nn.Module):
    """Attention of a slice's cells to the cells of remembered slices and to object pointers."""

    def __init__(self, config: CompactConfig) -> None:
        super().__init__()
        dim = config.channels[3]
        self.codes = nn.Parameter(torch.zeros(NUM_MEMORY_CODES, MEMORY_DIM))
        self.absent = nn.Parameter(torch.zeros(dim))
        nn.init.trunc_normal_(self.codes, std=0.02)
        self.distance = nn.Linear(MEMORY_DIM, MEMORY_DIM)
        self.layers = nn.ModuleList(_Layer(dim) for _ in range(config.memory_layers))

    def forward(
        self,
        level2: Tensor,
        spatial: Tensor,
        codes: Tensor,
        squares: Tensor,
        pointers: Tensor,
        distances: Tensor,
    ) -> Tensor:
        """Condition `(B, C, h, w)` on stacked memories.

        Args:
            level2: Of the slice.
            spatial: `(B, M, 64, h, w)`.
            codes: `(M,)`, see `CompactMemories`.
            squares: `(M, 3)`, see `CompactMemories`.
            pointers: `(B, P, 64)`; P may be 0.
            distances: `(P,)`, see `CompactMemories`.
        """
        side = level2.shape[-1]
        times = self.codes[codes.long()][:, None]  # int32 in ONNX files, which look up by int64 alone
        places = positions(squares, side).unflatten(0, (-1, side * side)) + times
        marks = torch.cat((places.flatten(0, 1), self.distance(waves(distances))))
        tokens = torch.cat((spatial.flatten(3).transpose(2, 3).flatten(1, 2), pointers), dim=1)
        here = positions(torch.tensor([HERE], device=level2.device), side)
        cells = level2.flatten(2).transpose(1, 2)  # (B, hw, C)
        for layer in self.layers:
            cells = layer(cells, here, tokens, marks)
        return cells.transpose(1, 2).unflatten(2, level2.shape[-2:])


class _Layer(nn.Module):
    """Cross-attention and a perceptron, each beside a shortcut."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        inner = NUM_HEADS * 32
        self.norm1 = nn.LayerNorm(dim)
        self.query = nn.Linear(dim, inner)
        self.here = nn.Linear(MEMORY_DIM, inner, bias=False)
        self.key = nn.Linear(MEMORY_DIM, inner)
        self.value = nn.Linear(MEMORY_DIM, inner)
        self.out = nn.Linear(inner, dim)
        self.norm2 = nn.LayerNorm(dim)
        self.wide = nn.Linear(dim, 2 * dim)
        self.narrow = nn.Linear(2 * dim, dim)

    def forward(self, cells: Tensor, here: Tensor, tokens: Tensor, marks: Tensor) -> Tensor:
        query = self.query(self.norm1(cells)) + self.here(here)
        key, value = self.key(tokens + marks.to(tokens.dtype)), self.value(tokens)
        read = F.scaled_dot_product_attention(_split(query), _split(key), _split(value))
        read = read.transpose(1, 2).flatten(2)
        cells = cells + self.out(read)
        changed: Tensor = cells + self.narrow(F.silu(self.wide(self.norm2(cells))))
        return changed


def _split(tokens: Tensor) -> Tensor:
    return tokens.unflatten(2, (NUM_HEADS, -1)).transpose(1, 2)


def waves(values: Tensor) -> Tensor:
    """Encode numbers around 0 to 1, `(N,)`, as sines and cosines `(N, 64)`."""
    return _waves(values, MEMORY_DIM // 2)


def positions(squares: Tensor, side: int) -> Tensor:
    """Encode the middles of the cells of squares `(N, 3)` by where they lie, `(N * side * side, 64)`."""
    middle = (torch.arange(side, device=squares.device) + 0.5) / side
    left, top, size = squares[:, :, None].unbind(1)  # (N, 1) each
    across = _waves(left + size * middle, NUM_FREQUENCIES)[:, None].expand(-1, side, -1, -1)
    down = _waves(top + size * middle, NUM_FREQUENCIES)[:, :, None].expand(-1, -1, side, -1)
    return torch.cat((across, down), dim=-1).flatten(0, 2)


def _waves(values: Tensor, count: int) -> Tensor:
    cycles = LOWEST * (HIGHEST / LOWEST) ** (torch.arange(count, device=values.device) / (count - 1))
    angles = 2 * math.pi * values[..., None] * cycles
    return torch.cat((angles.sin(), angles.cos()), dim=-1)
