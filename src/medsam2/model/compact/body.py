"""The U-shaped body of the compact network: convolutions down to a stride of 32 and up to the full view."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from medsam2.model.compact.config import NUM_GROUPS, CompactConfig


@dataclass(frozen=True, kw_only=True)
class CompactFeatures:
    """One slice on its way down, with all that it was shown beside."""

    fine: Tensor
    """`(B, fine, S, S)`."""
    levels: Sequence[Tensor]
    """`(B, C, S/2, S/2)`, `(B, C, S/4, S/4)` and `(B, C, S/8, S/8)`."""
    level2: Tensor
    """`(B, C, S/16, S/16)`, before memory; named as in the official network."""


class Residual(nn.Module):
    """Two convolutions beside a shortcut, normalised once: a second normalisation cost time and no loss."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.norm = nn.GroupNorm(NUM_GROUPS, out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.shortcut = (
            nn.Identity()
            if in_channels == out_channels
            else nn.Conv2d(in_channels, out_channels, 1, bias=False)
        )

    def forward(self, maps: Tensor) -> Tensor:
        changed = self.conv2(F.silu(self.norm(self.conv1(maps))))
        return F.silu(changed + self.shortcut(maps))


class Encoder(nn.Module):
    """From input planes down to a stride of 16."""

    def __init__(self, config: CompactConfig, num_planes: int) -> None:
        super().__init__()
        widths = config.channels
        self.fine = nn.Conv2d(num_planes, config.fine_channels, 3, padding=1)
        self.stem = nn.Conv2d(num_planes, widths[0], 4, stride=2, padding=1)
        self.levels = nn.ModuleList(
            nn.Sequential(
                Residual(widths[max(i - 1, 0)], widths[i]),
                *(Residual(widths[i], widths[i]) for _ in range(config.blocks[i] - 1)),
            )
            for i in range(4)
        )

    def forward(self, planes: Tensor) -> CompactFeatures:
        maps = F.silu(self.stem(planes))
        found = []
        for number, level in enumerate(self.levels):
            maps = level(F.max_pool2d(maps, 2) if number else maps)
            found.append(maps)
        return CompactFeatures(fine=F.silu(self.fine(planes)), levels=found[:3], level2=found[3])


class Decoder(nn.Module):
    """From a stride of 16, once more down and then up to the full view."""

    def __init__(self, config: CompactConfig) -> None:
        super().__init__()
        c2, c4, c8, c16, c32 = config.channels
        self.deepest = nn.Sequential(
            Residual(c16, c32), *(Residual(c32, c32) for _ in range(config.blocks[4]))
        )
        self.up16 = Residual(c32 + c16, c16)
        self.up8 = Residual(c16 + c8, c8)
        self.up4 = Residual(c8 + c4, c4)
        self.up2 = Residual(c4 + c2, c2)
        self.narrow = nn.Conv2d(c2, config.fine_channels, 1)
        self.last = nn.Sequential(
            nn.Conv2d(2 * config.fine_channels, config.fine_channels, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(config.fine_channels, 1, 3, padding=1),
        )

    def forward(
        self, features: CompactFeatures, conditioned: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return mask logits `(B, 1, S, S)` and maps at strides 8, 16 and 32.

        Args:
            features: Of the slice.
            conditioned: Its level of stride 16 after memory.
        """
        c2, c4, c8 = features.levels
        at32 = self.deepest(F.max_pool2d(conditioned, 2))
        at16 = self.up16(_beside(at32, conditioned))
        at8 = self.up8(_beside(at16, c8))
        at4 = self.up4(_beside(at8, c4))
        at2 = self.narrow(self.up2(_beside(at4, c2)))
        fine = F.interpolate(at2, scale_factor=2.0, mode="bilinear", align_corners=False)
        return self.last(torch.cat((fine, features.fine), dim=1)), at8, at16, at32


def _beside(deeper: Tensor, skip: Tensor) -> Tensor:
    return torch.cat((F.interpolate(deeper, scale_factor=2.0, mode="nearest"), skip), dim=1)
