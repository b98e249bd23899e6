"""Image encoder: the Hiera trunk and the pyramid that brings its stages to one width."""

from __future__ import annotations

from collections import OrderedDict

import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from medsam2.model.config import ModelConfig
from medsam2.model.hiera import Hiera


class FeaturePyramid(nn.Module):
    """Project the trunk's stages to one width; the deepest is added into the one above it only.

    `convs` run from the deepest stage to the finest, as the checkpoints number them.
    """

    def __init__(self, embed_dim: int, hidden_dim: int) -> None:
        super().__init__()
        widths = [embed_dim * 2**stage for stage in (3, 2, 1, 0)]
        self.convs = nn.ModuleList(
            nn.Sequential(OrderedDict(conv=nn.Conv2d(width, hidden_dim, kernel_size=1))) for width in widths
        )

    def forward(self, stages: list[Tensor]) -> list[Tensor]:
        """Turn four stage outputs, finest first, into levels at strides 4, 8 and 16."""
        level0, level1, level2, level3 = (
            conv(stage) for conv, stage in zip(reversed(self.convs), stages, strict=True)
        )
        deepest = F.interpolate(level3.float(), scale_factor=2.0, mode="nearest")
        return [level0, level1, level2 + deepest]


class ImageEncoder(nn.Module):
    """Images to three feature levels."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.trunk = Hiera(config)
        self.neck = FeaturePyramid(config.embed_dim, config.hidden_dim)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Encode `(B, 3, S, S)` as `(B, hidden, S/4)`, `(B, hidden, S/8)`, `(B, hidden, S/16)`."""
        levels: list[Tensor] = self.neck(self.trunk(images))
        return levels
