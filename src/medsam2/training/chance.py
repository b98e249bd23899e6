"""The sources of chance of one training step: one that all clips share, one for each clip."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class Chance:
    """What a batch, or a part of one, is drawn by.

    No dataclass: Lightning Fabric looks through those for tensors to convert, and refuses frozen ones.
    """

    def __init__(self, *, shared: np.random.Generator, clips: Sequence[np.random.Generator]) -> None:
        self.shared = shared
        """Of what all clips of a step have in common: their first prompt's kind, how many clicks follow."""
        self.clips = tuple(clips)
        """Of each clip, whichever process it is on and whatever other clips are beside it."""


def chance_of_step(seed: int, step: int, clips: range) -> Chance:
    """Make the sources of some clips of a step.

    They follow from the numbers alone: a resumed run repeats nothing, and a batch that is shared among
    processes, or worked through in parts, is the same batch.

    Args:
        seed: Of the run.
        step: Number of the step.
        clips: Numbers of the clips in the step's whole batch.
    """
    # Counted from 1: to numpy, a seed that ends in 0 is the seed without it.
    return Chance(
        shared=np.random.default_rng((seed, step)),
        clips=[np.random.default_rng((seed, step, clip + 1)) for clip in clips],
    )
