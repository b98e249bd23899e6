"""How bright and how textured each label of a painted stack is."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medsam2.synthesis.fields import Floats
from medsam2.synthesis.lesions import Lesion

CLASSED_SHARE = 0.4
"""Of stacks whose labels share a few greys; the others look like soft tissue."""
BRIGHT_SHARE = 0.18
DARK_SHARE = 0.07
PAIR_ALIKE_SHARE = 0.9
TWIN_ALIKE_SHARE = 0.8

_SIDE = re.compile(r"\b(?:[Ll]eft|[Rr]ight|L|R)\b")


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """The look of each label, one value a label, that of the background first."""

    grey: Floats
    fine: Floats
    """Standard deviation of the texture of some pixels' size."""
    coarse: Floats
    """Standard deviation of the texture of a structure's size."""

    def copy_look(self, source: int, target: int) -> None:
        """Make two labels look alike."""
        for values in (self.grey, self.fine, self.coarse):
            values[target] = values[source]


def draw_contrast(rng: np.random.Generator, num_labels: int) -> Contrast:
    """Draw the look of labels 0 to `num_labels`.

    A part of the stacks has fully random greys, of which labels share a few. In the others most labels are
    near the middle as soft tissues are, some are bright like vessels and bone, and few are dark like fluid
    and gas.
    """
    size = num_labels + 1
    if rng.random() < CLASSED_SHARE:
        classes = rng.uniform(0.05, 0.95, size=int(rng.integers(3, 9)))
        grey = classes[rng.integers(classes.size, size=size)]
        grey = grey + rng.normal(0.0, float(rng.choice([0.01, 0.06])), size=size)
    else:
        grey = np.clip(rng.normal(0.5, rng.uniform(0.05, 0.14), size=size), 0.05, 0.95)
        lot = rng.random(size)
        grey = np.where(lot < BRIGHT_SHARE, rng.uniform(0.7, 1.0, size=size), grey)
        grey = np.where(lot > 1 - DARK_SHARE, rng.uniform(0.0, 0.2, size=size), grey)
    fine, coarse = (np.abs(rng.normal(0.0, rng.uniform(0.005, 0.035), size=size)) for _ in range(2))
    return Contrast(
        grey=grey.astype(np.float32), fine=fine.astype(np.float32), coarse=coarse.astype(np.float32)
    )


def find_pairs(names: Sequence[str]) -> list[tuple[int, int]]:
    """Return the labels that are the left and the right one of a structure, by their names.

    Args:
        names: Label 1 first.
    """
    found: dict[str, list[tuple[int, str]]] = {}
    for label, name in enumerate(names, start=1):
        side = _SIDE.search(name)
        if side is not None:
            rest = _SIDE.sub("", name, count=1)
            found.setdefault(" ".join(rest.split()), []).append((label, side.group()[0].lower()))
    return [
        (both[0][0], both[1][0]) for both in found.values() if len(both) == 2 and both[0][1] != both[1][1]
    ]


def match_pairs(rng: np.random.Generator, contrast: Contrast, pairs: Sequence[tuple[int, int]]) -> None:
    """Make most pairs alike, as the two sides of a body are."""
    for first, second in pairs:
        if rng.random() < PAIR_ALIKE_SHARE:
            contrast.copy_look(first, second)


def shade_lesions(rng: np.random.Generator, contrast: Contrast, lesions: Sequence[Lesion]) -> None:
    """Set each lesion off from its host, and each core from its rim."""
    for lesion in lesions:
        if lesion.twin is not None and rng.random() < TWIN_ALIKE_SHARE:
            contrast.copy_look(lesion.twin, lesion.label)
            continue
        ground = float(contrast.grey[lesion.host if lesion.rim is None else lesion.rim])
        contrast.grey[lesion.label] = _another_grey(rng, ground)


def _another_grey(rng: np.random.Generator, ground: float) -> float:
    """Draw a grey that differs from another one, mostly a little."""
    change = float(rng.uniform(0.06, 0.4)) * float(rng.choice([-1.0, 1.0]))
    return ground + change if 0.0 <= ground + change <= 1.0 else ground - change
