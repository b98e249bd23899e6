"""Which proposals a person is to correct first."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medsam2.errors import InputError
from medsam2.training.rounds.proposals import Proposal

ORDERS = ("uncertain", "diverse")
"""uncertain: first what the network is least sure of. diverse: each as unlike those before it as can be."""


def in_order(proposals: Sequence[Proposal], order: str) -> list[Proposal]:
    """Order proposals, the first to be corrected first.

    Args:
        proposals: In any order.
        order: One of `ORDERS`.

    Raises:
        InputError: There is no such order.
    """
    if order not in ORDERS:
        raise InputError(f"an order is one of {', '.join(ORDERS)}, not {order!r}")
    by_doubt = sorted(proposals, key=lambda one: (one.confidence, one.name))
    return by_doubt if order == "uncertain" else _far_apart(by_doubt)


def _far_apart(proposals: Sequence[Proposal]) -> list[Proposal]:
    """Begin with the first; then always the one whose nearest neighbour so far looks least like it."""
    left = list(proposals)
    taken = left[:1]
    del left[:1]
    while left:
        likeness = np.stack([one.looks for one in left]) @ np.stack([one.looks for one in taken]).T
        taken.append(left.pop(int(likeness.max(axis=1).argmin())))
    return taken
