"""Memory encoder: the features of a slice and its mask become one spatial memory."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from medsam2.model.config import MEMORY_DIM, ModelConfig
from medsam2.model.layers import LayerNorm2d

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
