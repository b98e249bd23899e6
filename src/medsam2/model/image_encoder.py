"""Image encoder: the Hiera trunk (Ryali et al. 2023) and the pyramid that brings its stages to one width."""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from medsam2.model.config import ModelConfig
from medsam2.model.layers import MLP

TRUNK_NORM_EPS = 1e-6
MLP_RATIO = 4


def to_windows(x: Tensor, window: int) -> Tensor:
    """Cut `(B, H, W, C)` into `(B * windows, window, window, C)`, zero-padded at bottom and right."""
    height, width = x.shape[1:3]
    x = F.pad(x, (0, 0, 0, -width % window, 0, -height % window))
    x = x.unflatten(2, (-1, window)).unflatten(1, (-1, window))  # (B, rows, window, columns, window, C)
    return x.transpose(2, 3).flatten(0, 2)


def from_windows(x: Tensor, height: int, width: int) -> Tensor:
    """Undo `to_windows` and cut the padding off, giving `(B, height, width, C)`."""
    window = x.shape[1]
    rows, columns = -(-height // window), -(-width // window)
    x = x.unflatten(0, (-1, rows, columns)).transpose(2, 3)
    return x.flatten(3, 4).flatten(1, 2)[:, :height, :width]


def pool(x: Tensor) -> Tensor:
    """Halve `(B, H, W, C)` to `(B, H/2, W/2, C)` by the maximum of each 2 x 2 square."""
    return F.max_pool2d(x.permute(0, 3, 1, 2), kernel_size=2, stride=2).permute(0, 2, 3, 1)


class MultiScaleAttention(nn.Module):
    """Self-attention inside each grid of a batch, with queries pooled 2 x 2 where a stage begins."""

    def __init__(self, dim_in: int, dim_out: int, num_heads: int, *, pools_queries: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.pools_queries = pools_queries
        self.qkv = nn.Linear(dim_in, 3 * dim_out)
        self.proj = nn.Linear(dim_out, dim_out)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, dim=-1)  # (B, H, W, dim_out)
        if self.pools_queries:
            q = pool(q)
        height, width = q.shape[1:3]
        q, k, v = (t.flatten(1, 2).unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for t in (q, k, v))
        attended = F.scaled_dot_product_attention(q, k, v)  # (B, heads, H * W, dim_out / heads)
        return self.proj(attended.transpose(1, 2).flatten(2).unflatten(1, (height, width)))


class Block(nn.Module):
    """A transformer block; the first of a stage doubles the channels and halves the grid.

    Args:
        dim_in: Channels of the input.
        dim_out: Channels of the output.
        num_heads: Attention heads.
        window: Window side on the input grid, 0 for the whole grid.
        pools_queries: Whether the grid is halved.
    """

    def __init__(
        self, dim_in: int, dim_out: int, num_heads: int, *, window: int, pools_queries: bool
    ) -> None:
        super().__init__()
        self.window = window
        self.pools_queries = pools_queries
        self.norm1 = nn.LayerNorm(dim_in, eps=TRUNK_NORM_EPS)
        self.attn = MultiScaleAttention(dim_in, dim_out, num_heads, pools_queries=pools_queries)
        self.norm2 = nn.LayerNorm(dim_out, eps=TRUNK_NORM_EPS)
        self.mlp = MLP(dim_out, MLP_RATIO * dim_out, dim_out, activation=F.gelu)
        self.proj = nn.Linear(dim_in, dim_out) if dim_in != dim_out else None

    def forward(self, x: Tensor) -> Tensor:
        normalised = self.norm1(x)
        # The shortcut of a stage's first block starts from the normalised input, not from x.
        shortcut = x if self.proj is None else pool(self.proj(normalised))
        x = shortcut + self._attend(normalised, *shortcut.shape[1:3])
        return x + self.mlp(self.norm2(x))

    def _attend(self, x: Tensor, height: int, width: int) -> Tensor:
        if self.window == 0:
            return self.attn(x)
        # A grid that is smaller than a window is one window, not a window full of padding.
        window = min(self.window, max(x.shape[1:3]))
        # Padding stays unmasked: the padded tokens take part as keys, as the weights expect.
        return from_windows(self.attn(to_windows(x, window)), height, width)


class PatchEmbedding(nn.Module):
    """Overlapping 7 x 7 patches at stride 4, channels last."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, kernel_size=7, stride=4, padding=3)

    def forward(self, images: Tensor) -> Tensor:
        return self.proj(images).permute(0, 2, 3, 1)


class Hiera(nn.Module):
    """Trunk of the image encoder: the output of each of its four stages."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.patch_embed = PatchEmbedding(config.embed_dim)
        window = config.window_spec[0]
        self.pos_embed = nn.Parameter(torch.zeros(1, config.embed_dim, *config.window_pos_embed_size))
        self.pos_embed_window = nn.Parameter(torch.zeros(1, config.embed_dim, window, window))
        self.blocks, self.stage_ends = _build_blocks(config)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Encode `(B, 3, S, S)` as four maps `(B, C, S/4 .. S/32)`, finest first."""
        x = self.patch_embed(images)
        x = x + self.table(x.shape[1], x.shape[2])
        outputs = []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in self.stage_ends:
                outputs.append(x.permute(0, 3, 1, 2))
        return outputs

    def table(self, height: int, width: int) -> Tensor:
        """Learned positions `(1, H, W, C)`: one stretched over the image, one repeated per window."""
        stretched = F.interpolate(self.pos_embed, size=(height, width), mode="bicubic", align_corners=False)
        window = self.pos_embed_window.shape[-1]
        repeated = self.pos_embed_window.tile(1, 1, height // window, width // window)
        return (stretched + repeated).permute(0, 2, 3, 1)


def _build_blocks(config: ModelConfig) -> tuple[nn.ModuleList, tuple[int, ...]]:
    """Blocks of all stages and the index of each stage's last one."""
    blocks: list[Block] = []
    stage_ends = []
    dim, num_heads = config.embed_dim, config.num_heads
    for stage, depth in enumerate(config.stages):
        for position in range(depth):
            starts_stage = stage > 0 and position == 0
            dim_out = dim * 2 if starts_stage else dim
            num_heads = num_heads * 2 if starts_stage else num_heads
            # The block that halves the grid still sees it in the windows of the stage before.
            window = config.window_spec[stage - 1 if starts_stage else stage]
            if len(blocks) in config.global_attention_blocks:
                window = 0
            blocks.append(Block(dim, dim_out, num_heads, window=window, pools_queries=starts_stage))
            dim = dim_out
        stage_ends.append(len(blocks) - 1)
    return nn.ModuleList(blocks), tuple(stage_ends)


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
