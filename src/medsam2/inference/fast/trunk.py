"""The image encoder with its tokens kept in the order of the attention windows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from medsam2.inference.fast.products import Product, attend
from medsam2.model.image_encoder import Block, Hiera
from medsam2.model.network import ImageFeatures, Network


@dataclass(frozen=True, kw_only=True)
class WindowGroup:
    """Windows with equally many tokens, one after the other."""

    count: int
    num_tokens: int
    """Tokens of each window that lie on the grid."""
    num_padded: int
    """Tokens that a whole window would have besides."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """An order of the tokens of a square grid.

    Windows of equal size follow each other; within a window each square of 2 x 2 tokens is contiguous, as
    far as the window's side can be halved squares of such squares too, so that pooling keeps the order.
    """

    side: int
    window: int
    groups: tuple[WindowGroup, ...]
    order: Tensor
    """`(side * side,)` row-major place on the grid of each token."""

    def pooled(self) -> Layout:
        """The layout after pooling 2 x 2."""
        return window_layout(self.side // 2, self.window // 2)

    def inverse(self) -> Tensor:
        """Where the token of each row-major place is."""
        return self.order.argsort()


def window_layout(side: int, window: int) -> Layout:
    """Order the tokens of a `side` x `side` grid by windows of `window` x `window`."""
    window = min(window, side)
    levels = (window & -window).bit_length() - 1
    windows: dict[int, list[Tensor]] = {}
    for top in range(0, side, window):
        for left in range(0, side, window):
            places = _nested(top, left, min(window, side - top), min(window, side - left), levels, side)
            windows.setdefault(len(places), []).append(places)
    sizes = sorted(windows, reverse=True)
    groups = tuple(
        WindowGroup(count=len(windows[size]), num_tokens=size, num_padded=window**2 - size) for size in sizes
    )
    order = torch.cat([places for size in sizes for places in windows[size]])
    return Layout(side=side, window=window, groups=groups, order=order)


def _nested(top: int, left: int, height: int, width: int, levels: int, side: int) -> Tensor:
    """Row-major places of a window's tokens, squares of 2 x 2 together, `levels` times over."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    key = (y >> levels) * side + (x >> levels)
    for level in reversed(range(levels)):
        key = key * 4 + ((y >> level) & 1) * 2 + ((x >> level) & 1)
    places = (y + top) * side + x + left
    return places.flatten()[key.flatten().argsort()]


ROWS = 1024  # tokens that go through a feed-forward layer at once: its inside stays in the cache


class FastEncoder:
    """`Network.encode_image` for square images of the network's own size."""

    def __init__(self, network: Network, dtype: torch.dtype) -> None:
        trunk: Hiera = network.image_encoder.trunk
        self.dtype = dtype
        side = network.config.image_size // trunk.patch_embed.proj.stride[0]
        self.patches = trunk.patch_embed.proj
        blocks = cast("list[Block]", list(trunk.blocks))
        layout = window_layout(side, blocks[0].window or side)
        device = self.patches.weight.device
        self.first_order = layout.order.to(device)
        position = trunk.table(side, side).flatten(1, 2)[0]
        self.position = position.detach()[self.first_order]
        self.stages: list[_Stage] = []
        start = 0
        for end in trunk.stage_ends:
            stage = _Stage(blocks[start : end + 1], layout, dtype, device)
            self.stages.append(stage)
            layout, start = stage.layout, end + 1
        self.laterals = _laterals(network, dtype)

    def __call__(self, images: Tensor) -> ImageFeatures:
        """Encode normalised `(B, 3, S, S)`."""
        x = self.patches(images).flatten(2).transpose(1, 2)[:, self.first_order]
        x = (x + self.position).to(self.dtype)
        maps = []
        for stage, lateral in zip(self.stages, self.laterals, strict=True):
            x = stage(x)
            maps.append(stage.as_map(lateral(x)).float())
        deepest = F.interpolate(maps[3], scale_factor=2.0, mode="nearest")
        return ImageFeatures(level0=maps[0], level1=maps[1], level2=maps[2] + deepest)


def _laterals(network: Network, dtype: torch.dtype) -> list[Product]:
    """The pyramid's products, finest first; the decoder's narrowing of the finest two is folded in."""
    convs = [cast("nn.Conv2d", conv.conv) for conv in reversed(network.image_encoder.neck.convs)]
    narrowing = (network.sam_mask_decoder.conv_s0, network.sam_mask_decoder.conv_s1)
    folded = [_chain(wide, narrow, dtype) for wide, narrow in zip(convs[:2], narrowing, strict=True)]
    return folded + [Product.of(conv, dtype) for conv in convs[2:]]


def _chain(first: nn.Conv2d, second: nn.Conv2d, dtype: torch.dtype) -> Product:
    """Two convolutions of single pixels as one product."""
    assert first.bias is not None
    assert second.bias is not None
    inner, outer = (conv.weight.detach().flatten(1).double() for conv in (first, second))
    bias = outer @ first.bias.detach().double() + second.bias.detach().double()
    return Product((outer @ inner).float(), bias.float(), dtype)


class _Stage:
    """Blocks on one grid; the first may halve it."""

    def __init__(
        self, blocks: Sequence[Block], layout: Layout, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.steps: list[Tensor | _FastBlock] = []
        for block in blocks:
            window = min(block.window, layout.side) or layout.window
            if window != layout.window:
                wanted = window_layout(layout.side, window)
                self.steps.append(layout.inverse()[wanted.order].to(device))
                layout = wanted
            self.steps.append(_FastBlock(block, layout, dtype))
            if block.pools_queries:
                layout = layout.pooled()
        self.layout = layout
        self.rows = layout.inverse().to(device)

    def __call__(self, x: Tensor) -> Tensor:
        for step in self.steps:
            x = x[:, step] if isinstance(step, Tensor) else step(x)
        return x

    def as_map(self, x: Tensor) -> Tensor:
        """Bring tokens `(B, N, C)` into rows and columns, `(B, C, H, W)`."""
        return x[:, self.rows].transpose(1, 2).unflatten(2, (self.layout.side, -1)).contiguous()


class _FastBlock:
    """`hiera.Block` on tokens `(B, N, C)` in a layout that fits its window."""

    def __init__(self, block: Block, layout: Layout, dtype: torch.dtype) -> None:
        attention = block.attn
        self.norm1, self.norm2 = _Norm(block.norm1, dtype), _Norm(block.norm2, dtype)
        self.num_heads = attention.num_heads
        self.pools_queries = block.pools_queries
        self.qkv, self.proj = Product.of(attention.qkv, dtype), Product.of(attention.proj, dtype)
        self.shortcut = None if block.proj is None else Product.of(block.proj, dtype)
        first, second = cast("list[nn.Linear]", list(block.mlp.layers))
        self.widen, self.narrow = Product.of(first, dtype, "gelu"), Product.of(second, dtype)
        whole = WindowGroup(count=1, num_tokens=layout.side**2, num_padded=0)
        self.groups = layout.groups if block.window else (whole,)

    def __call__(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        shortcut = x if self.shortcut is None else _pool(self.shortcut(y))
        x = shortcut + self.proj(self._attend(self.qkv(y)))
        for rows in x.split(ROWS, dim=1):
            rows += self.narrow(self.widen(self.norm2(rows)))
        return x

    def _attend(self, qkv: Tensor) -> Tensor:
        """Attention within windows, `(B, N, 3 C)` to `(B, N or N/4, C)`."""
        parts = []
        start = 0
        for group in self.groups:
            end = start + group.count * group.num_tokens
            parts.append(self._attend_in(qkv[:, start:end], group))
            start = end
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def _attend_in(self, qkv: Tensor, group: WindowGroup) -> Tensor:
        batch = len(qkv)
        windows = qkv.unflatten(1, (group.count, -1)).flatten(0, 1)  # (B * count, tokens, 3 C)
        q, k, v = windows.chunk(3, dim=-1)
        if self.pools_queries:
            q = _pool(q)
        bias = None
        if group.num_padded:
            # All padding is one and the same key, the bias: once, counted as often as it is there.
            _, pad_k, pad_v = self.qkv.bias.chunk(3)
            k, v = (torch.cat((t, p.expand(len(t), 1, -1)), dim=1) for t, p in ((k, pad_k), (v, pad_v)))
            bias = k.new_zeros(1, 1, 1, k.shape[1])
            bias[..., -1] = math.log(group.num_padded)
        q, k, v = (t.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for t in (q, k, v))
        attended = attend(q, k, v, bias)
        return attended.transpose(1, 2).flatten(2).unflatten(0, (batch, -1)).flatten(1, 2)


class _Norm:
    """Layer norm in the precision of what follows."""

    def __init__(self, norm: nn.LayerNorm, dtype: torch.dtype) -> None:
        self.weight, self.bias = (p.detach().to(dtype) for p in (norm.weight, norm.bias))
        self.eps = norm.eps

    def __call__(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self.weight, self.bias, self.eps)


def _pool(x: Tensor) -> Tensor:
    """The maximum of each four tokens that follow each other."""
    return x.unflatten(1, (-1, 4)).amax(dim=2)
