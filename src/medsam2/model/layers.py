"""The two layers every part of the network is made of."""

from __future__ import annotations

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
