"""Which labels of a painted stack belong to one object, and which touch and look alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medsam2.synthesis.label_map import Labels
from medsam2.synthesis.lesions import Lesion

JOINING_SHARE = 0.5
"""Of stacks in which neighbours are joined."""
MOST_GROUPS = 3
MOST_JOINED = 5
LARGEST_SHARE = 0.35
"""Labels that fill more of a stack, the body say, join nothing."""
PAIR_SHARE = 1 / 3
TUMOUR_SHARE = 0.7
"""Of lesions with a core that are one object with it."""
ALIKE_SHARE = 0.25
"""Of stacks in which objects that touch have the same grey."""
MOST_ALIKE = 3

Contacts = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Group:
    """The labels of one object."""

    labels: tuple[int, ...]
    is_pair: bool = False
    """Two structures of the left and the right side: each gives its largest part."""


def count_contacts(labels: Labels, num_labels: int) -> Contacts:
    """Count the faces that labels share.

    Args:
        labels: (z, y, x).
        num_labels: The largest label.

    Returns:
        Array (label, label), symmetric; 0 for the background and on the diagonal.
    """
    size = num_labels + 1
    counts = np.zeros(size * size, dtype=np.int64)
    for axis in range(3):
        first = [slice(None)] * 3
        first[axis] = slice(0, -1)
        second = [slice(None)] * 3
        second[axis] = slice(1, None)
        one, other = labels[tuple(first)], labels[tuple(second)]
        differs = one != other
        codes = one[differs].astype(np.int64) * size + other[differs]
        counts += np.bincount(codes, minlength=size * size)
    contacts = counts.reshape(size, size)
    contacts = contacts + contacts.T
    contacts[0] = contacts[:, 0] = 0
    return np.asarray(contacts)


def draw_groups(
    rng: np.random.Generator,
    sizes: npt.NDArray[np.int64],
    contacts: Contacts,
    pairs: Sequence[tuple[int, int]],
    lesions: Sequence[Lesion],
) -> list[Group]:
    """Put each label of a stack into one object.

    Args:
        rng: Source of randomness.
        sizes: Voxels of each label, the background first.
        contacts: Faces that labels share.
        pairs: Labels that are the left and the right one of a structure.
        lesions: What was put in.
    """
    free = {int(label) for label in np.flatnonzero(sizes) if label > 0}
    groups: list[Group] = []
    for first, second in pairs:
        if rng.random() < PAIR_SHARE and {first, second} <= free:
            free -= {first, second}
            groups.append(Group(labels=(first, second), is_pair=True))
    for lesion in lesions:
        if lesion.rim is not None and rng.random() < TUMOUR_SHARE and {lesion.rim, lesion.label} <= free:
            free -= {lesion.rim, lesion.label}
            groups.append(Group(labels=(lesion.rim, lesion.label)))
    if rng.random() < JOINING_SHARE:
        for _ in range(int(rng.integers(1, MOST_GROUPS + 1))):
            grown = _grow_group(rng, free, sizes, contacts)
            free -= set(grown)
            groups += [Group(labels=grown)] if grown else []
    return groups + [Group(labels=(label,)) for label in sorted(free)]


def _grow_group(
    rng: np.random.Generator, free: set[int], sizes: npt.NDArray[np.int64], contacts: Contacts
) -> tuple[int, ...]:
    """Grow from a label over labels that touch what is there, 1 to `MOST_JOINED` of them."""
    total = int(sizes.sum())
    can_join = np.zeros(sizes.size, dtype=bool)
    can_join[[label for label in free if sizes[label] < LARGEST_SHARE * total]] = True
    starts = np.flatnonzero(can_join)
    if not starts.size:
        return ()
    group = [int(rng.choice(starts))]
    for _ in range(int(rng.integers(1, MOST_JOINED + 1))):
        can_join[group] = False
        touching = contacts[group].sum(axis=0) * can_join
        if not touching.any():
            break
        # The root keeps a large neighbour from being chosen every time.
        weights = np.sqrt(touching)
        group.append(int(rng.choice(sizes.size, p=weights / weights.sum())))
    return tuple(group)


def draw_alike(
    rng: np.random.Generator, groups: Sequence[Group], contacts: Contacts
) -> list[tuple[int, int]]:
    """Draw labels that touch, look alike and are parts of two objects: one vessel beside another, say."""
    if rng.random() > ALIKE_SHARE:
        return []
    object_of = np.zeros(len(contacts), dtype=np.int64)
    for number, group in enumerate(groups, start=1):
        object_of[list(group.labels)] = number
    touching = np.triu(contacts) * (object_of[:, None] != object_of)
    weights = np.sqrt(touching).ravel()
    if not weights.any():
        return []
    drawn: list[tuple[int, int]] = []
    taken: set[int] = set()
    for code in rng.choice(
        weights.size, size=int(rng.integers(1, MOST_ALIKE + 1)), p=weights / weights.sum()
    ):
        first, second = divmod(int(code), len(contacts))
        if not {first, second} & taken:
            taken |= {first, second}
            drawn.append((first, second))
    return drawn
