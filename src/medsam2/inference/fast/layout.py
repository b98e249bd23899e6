"""Tokens of a grid in the order of its attention windows, so that no block has to move them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


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
