"""Which objects of a painted stack are listed: large enough, visible, in one piece or a pair."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from medsam2.synthesis.fields import Floats
from medsam2.synthesis.joining import Group
from medsam2.synthesis.label_map import Labels

MOST_OBJECTS = 24
SMALLEST_AREA_PX = 25
FEWEST_SLICES = 3
LARGEST_AREA = 0.6
"""An object that fills more of a slice is the scan, not an object."""
INVISIBLE_SHARE = 0.15
"""Of objects that cannot be seen, so many are listed all the same."""
PAIR_SHARE = 1 / 3
"""Of labels with two parts of similar size that are one object of both."""
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
    z, y, x = (
        slice(min(box[axis].start for box in boxes), max(box[axis].stop for box in boxes))
        for axis in range(3)
    )
    return z, y, x


def _whole_parts(rng: np.random.Generator, labels: Labels, group: Group) -> Mask:
    """Return the largest connected part of an object, or both where it is a pair."""
    if group.is_pair:
        first, second = (_largest_parts(labels == label, 1) for label in group.labels)
        return first | second
    mask = labels == group.labels[0] if len(group.labels) == 1 else np.isin(labels, group.labels)
    return _largest_parts(mask, 2 if rng.random() < PAIR_SHARE else 1)


def _largest_parts(mask: Mask, most: int) -> Mask:
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
