"""Which labels of a painted stack belong to one object, and which objects are listed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from medsam2.synthesis.label_map import Labels, neighbours
from medsam2.synthesis.lesions import Lesion
from medsam2.synthesis.render import Floats

JOINING_SHARE = 0.5
"""Share of stacks in which neighbours are joined to one object."""
MOST_GROUPS = 3
MOST_JOINED = 5
LARGEST_SHARE = 0.35
"""Labels that fill more of a stack, such as the body, are joined to nothing."""
PAIR_SHARE = 1 / 3
TUMOUR_SHARE = 0.7
"""Share of lesions with a core that are one object with it."""
ALIKE_SHARE = 0.25
"""Share of stacks in which objects that touch have the same grey."""
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
        one, other = neighbours(labels, axis)
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
        pairs: Labels of a left and a right structure.
        lesions: What was put in.
    """
    free = {int(label) for label in np.flatnonzero(sizes) if label > 0}
    groups: list[Group] = []
    joined = [(pair, PAIR_SHARE, True) for pair in pairs]
    joined += [((one.rim, one.label), TUMOUR_SHARE, False) for one in lesions if one.rim is not None]
    for labels, share, is_pair in joined:
        if rng.random() < share and free.issuperset(labels):
            free -= set(labels)
            groups.append(Group(labels=labels, is_pair=is_pair))
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
    """Draw labels that touch, look alike and are parts of two objects, such as a vessel beside another."""
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


MOST_OBJECTS = 24
SMALLEST_AREA_PX = 25
FEWEST_SLICES = 3
LARGEST_AREA = 0.6
"""An object that fills more of a slice is the scan, not an object."""
INVISIBLE_SHARE = 0.15
"""Share of the objects that cannot be seen that are listed all the same."""
SIMILAR = 0.5
"""Parts are a pair if the smaller one has so much of the larger one's voxels."""
BAND_PX = 2.0
"""Width over which greys on both sides of an outline are averaged."""

Mask = npt.NDArray[np.bool_]


def list_objects(
    rng: np.random.Generator,
    grey: Floats,
    labels: Labels,
    groups: Sequence[Group],
    alike: Sequence[tuple[int, int]],
    least: float,
) -> tuple[npt.NDArray[np.uint8], list[Group]]:
    """Number the objects that are worth finding.

    Args:
        rng: Source of randomness.
        grey: (z, y, x), without noise.
        labels: (z, y, x).
        groups: The labels of each object.
        alike: Labels that touch and look alike, which may not make each other invisible.
        least: Difference of grey that can be seen.

    Returns:
        Array (z, y, x), 0 nothing and 1 to N the objects, and their labels in that order.
    """
    objects = np.zeros(labels.shape, dtype=np.uint8)
    listed: list[Group] = []
    boxes = ndimage.find_objects(labels.astype(np.int32))
    partners: dict[int, set[int]] = {}
    for first, second in alike:
        partners.setdefault(first, set()).add(second)
        partners.setdefault(second, set()).add(first)
    for index in rng.permutation(len(groups)):
        group = groups[int(index)]
        box = _union([boxes[label - 1] for label in group.labels])
        mask = _whole_parts(rng, labels[box], group)
        areas = mask.sum(axis=(1, 2))
        key = int(areas.argmax())
        if areas[key] < SMALLEST_AREA_PX or np.count_nonzero(areas) < FEWEST_SLICES:
            continue
        if areas[key] > LARGEST_AREA * labels.shape[1] * labels.shape[2]:
            continue
        beside = sorted(set().union(*(partners.get(label, set()) for label in group.labels)))
        z = box[0].start + key
        whole = np.zeros(labels.shape[1:], dtype=bool)
        whole[box[1:]] = mask[key]
        ignored = np.isin(labels[z], beside) if beside else np.zeros_like(whole)
        seen = outline_contrast(grey[z], whole, ignored) >= least
        if not seen and rng.random() > INVISIBLE_SHARE:
            continue
        listed.append(group)
        objects[box][mask] = len(listed)
        if len(listed) == MOST_OBJECTS:
            break
    return objects, listed


def outline_contrast(grey: Floats, mask: Mask, ignored: Mask) -> float:
    """Return the difference of grey across an outline, the median along it.

    Greys near each place are averaged on both sides, so an object of unlike parts counts as seen where each
    part differs from what it touches.

    Args:
        grey: A slice (y, x).
        mask: The object there, (y, x).
        ignored: Pixels outside that do not count, (y, x).
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    reach = int(3 * BAND_PX)
    window = (
        slice(max(int(rows[0]) - reach, 0), int(rows[-1]) + reach + 1),
        slice(max(int(columns[0]) - reach, 0), int(columns[-1]) + reach + 1),
    )
    inside, patch = mask[window], grey[window]
    outside = ~inside & ~ignored[window]
    outline = ndimage.binary_dilation(inside) & outside
    if not outline.any():
        return 0.0
    means = []
    for side in (inside, outside):
        weight = ndimage.gaussian_filter(side.astype(np.float32), BAND_PX, truncate=2.5)
        total = ndimage.gaussian_filter(np.where(side, patch, np.float32(0)), BAND_PX, truncate=2.5)
        means.append(total[outline] / np.maximum(weight[outline], 1e-6))
    return float(np.median(np.abs(means[0] - means[1])))


def _union(boxes: Sequence[tuple[slice, ...]]) -> tuple[slice, slice, slice]:
    """Return the box that holds others."""
    low = np.min([[side.start for side in box] for box in boxes], axis=0).tolist()
    high = np.max([[side.stop for side in box] for box in boxes], axis=0).tolist()
    z, y, x = (slice(*ends) for ends in zip(low, high, strict=True))
    return z, y, x


def _whole_parts(rng: np.random.Generator, labels: Labels, group: Group) -> Mask:
    """Return the largest connected part of an object, or both where it is a pair."""
    if group.is_pair:
        first, second = (largest_parts(labels == label) for label in group.labels)
        return first | second
    mask = labels == group.labels[0] if len(group.labels) == 1 else np.isin(labels, group.labels)
    return largest_parts(mask, 2 if rng.random() < PAIR_SHARE else 1)


def largest_parts(mask: Mask, most: int = 1) -> Mask:
    """Return the largest connected part, and the second one as well if it is allowed and similar in size."""
    parts, num_parts = ndimage.label(mask, structure=np.ones((3, 3, 3)))
    if num_parts < 2:
        return mask
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    largest, second = (int(number) for number in np.argsort(-sizes, kind="stable")[:2])
    kept = parts == largest
    if most > 1 and sizes[second] >= SIMILAR * sizes[largest]:
        kept |= parts == second
    return np.asarray(kept)
