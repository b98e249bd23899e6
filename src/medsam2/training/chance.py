"""The sources of chance of one training step: one that all clips share, one for each clip."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Chance:
    """What a batch, or a part of one, is drawn by."""

    shared: np.random.Generator
    """Of what all clips of a step have in common: which prompt they begin with, how many clicks follow."""
    clips: tuple[np.random.Generator, ...]
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
        clips=tuple(np.random.default_rng((seed, step, clip + 1)) for clip in clips),
    )
