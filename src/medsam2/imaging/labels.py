"""Find the connected parts of a mask, and write it as run lengths.

Neighbours touch by a face, an edge or a corner: 8 of them in 2D, 26 in 3D.
"""

from collections.abc import Callable, Iterable, Mapping
from itertools import product

import numpy as np
from scipy import ndimage
from scipy.cluster.hierarchy import DisjointSet

from medsam2.errors import GeometryError

# COCO's letters: five bits, one that says whether more follow, and 48 to make it printable. pycocotools is
# not used: it writes the same strings, but it also decodes incomplete ones, which a request must not contain.
_COCO_BITS, _COCO_SIGN, _COCO_GOES_ON, _COCO_FIRST = 0x1F, 0x10, 0x20, 48
_COCO_MAX_SHIFT = 60  # no run is longer than int64 can say; a number without end would take hours

_Piece = tuple[int, int]  # slice, and label of a component within it
_SEEDS: _Piece = (-1, 0)  # stands for all seeds


def bounding_box(mask: np.ndarray) -> tuple[slice, ...] | None:
    """Return the slices, one per array axis, that just hold a mask, or None if it is empty.

    Args:
        mask: Boolean, 2D or 3D.
    """
    box = []
    for axis in range(mask.ndim):
        others = tuple(other for other in range(mask.ndim) if other != axis)
        filled = np.flatnonzero(mask.any(axis=others))
        if not filled.size:
            return None
        box.append(slice(int(filled[0]), int(filled[-1]) + 1))
    return tuple(box)


class ConnectedParts:
    """The 3D components of a mask that share a voxel with seeds, as slices become known in any order.

    At most two slices and their labels are in memory at once.

    Args:
        mask_at: Slice index to boolean (y, x); called again for a slice whose labels are needed later.
    """

    def __init__(self, mask_at: Callable[[int], np.ndarray]) -> None:
        self._mask_at = mask_at
        self._sets: DisjointSet = DisjointSet([_SEEDS])  # of pieces, (slice, label), and of all seeds
        self._slices: set[int] = set()
        self._latest: dict[int, np.ndarray] = {}

    def add(self, z: int, seed: np.ndarray | None = None) -> set[int]:
        """Take in a slice.

        Args:
            z: Its index.
            seed: Boolean (y, x), if it has some.

        Returns:
            Other slices in which more is kept now than before.
        """
        labels = self._labels_of(z)
        self._slices.add(z)
        for label in range(1, int(labels.max(initial=0)) + 1):
            self._sets.add((z, label))
        changed: set[int] = set()
        if seed is not None:
            for label in np.unique(labels[seed]).tolist():
                changed |= self._merge((z, label), _SEEDS) if label else set()
        for other in (z - 1, z + 1):
            if other in self._slices:
                for there, here in _touching(self._labels_of(other), labels):
                    changed |= self._merge((other, there), (z, here))
        return changed - {z}

    def kept(self, z: int) -> np.ndarray:
        """What is kept in a slice that was added, boolean (y, x)."""
        labels = self._labels_of(z)
        numbers = range(1, int(labels.max(initial=0)) + 1)
        return np.array([False, *(self._sets.connected((z, label), _SEEDS) for label in numbers)])[labels]

    def _labels_of(self, z: int) -> np.ndarray:
        if z not in self._latest:
            while len(self._latest) > 1:
                del self._latest[next(iter(self._latest))]
            self._latest[z] = _label(self._mask_at(z))
        return self._latest[z]

    def _merge(self, piece: _Piece, other: _Piece) -> set[int]:
        """Join two components; return the slices of the one that now is connected to the seeds."""
        was_kept, other_was_kept = (self._sets.connected(one, _SEEDS) for one in (piece, other))
        joining = self._sets.subset(other if was_kept else piece) if was_kept != other_was_kept else ()
        slices = {z for z, _ in joining}
        self._sets.merge(piece, other)
        return slices


def connected_through(
    mask_at: Callable[[int], np.ndarray], slices: Iterable[int], seeds: Mapping[int, np.ndarray]
) -> Callable[[int], np.ndarray]:
    """Find the 3D components of a mask that share a voxel with seeds, holding two slices at a time.

    Args:
        mask_at: Slice index to boolean (y, x); called about twice for every slice.
        slices: Indices of the slices that are not known to be empty, best in increasing order.
        seeds: Boolean (y, x) of each slice that has some.

    Returns:
        Slice index, one of `slices`, to the boolean (y, x) of what is kept there.
    """
    parts = ConnectedParts(mask_at)
    for z in slices:
        parts.add(z, seeds.get(z))
    return parts.kept


def _touching(lower: np.ndarray, upper: np.ndarray) -> set[tuple[int, int]]:
    """Pairs of labels of two neighbouring slices (y, x) that touch by a face, an edge or a corner."""
    box = bounding_box((lower > 0) | (upper > 0))
    if box is None:
        return set()
    around, here = np.pad(lower[box], 1), upper[box]
    pairs: set[tuple[int, int]] = set()
    for dy, dx in product(range(3), repeat=2):
        below = around[dy : dy + here.shape[0], dx : dx + here.shape[1]]
        both = (below > 0) & (here > 0)
        there, at = below[both], here[both]
        # Labels come in long runs; a set of every pixel's pair took a tenth of a walk's time.
        starts = np.flatnonzero((np.diff(there, prepend=0) != 0) | (np.diff(at, prepend=0) != 0))
        pairs |= set(zip(there[starts].tolist(), at[starts].tolist(), strict=True))
    return pairs


def run_lengths(mask: np.ndarray) -> np.ndarray:
    """Write a mask as the lengths of its runs, row by row, the first one outside (it may be 0); int32.

    Args:
        mask: Boolean, any shape.
    """
    flat = np.concatenate(([False], mask.ravel(), [not mask.ravel()[-1] if mask.size else True]))
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    return np.diff(changes, prepend=0).astype(np.int32)


def from_run_lengths(lengths: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Undo `run_lengths`."""
    values = np.arange(len(lengths)) % 2 == 1
    return np.repeat(values, lengths).reshape(shape)


def coco_counts(mask: np.ndarray) -> str:
    """Write a slice as the compressed run lengths of COCO, the `counts` of its mask objects.

    Runs go down the columns. From the fourth on each is written as its difference to the one before the last,
    in groups of five bits, the lowest first, and six bits a character: `rleToString` of the COCO API.

    Args:
        mask: Boolean, (y, x).
    """
    rest = run_lengths(mask.T).astype(np.int64)
    rest[3:] -= rest[1:-2].copy()
    groups, is_written = [], []
    goes_on = np.ones(rest.shape, bool)
    while goes_on.any():
        is_written.append(goes_on)
        group = rest & _COCO_BITS
        rest = rest >> 5  # keeps the sign
        # The reader extends the last group's highest bit, so the rest must agree with it.
        goes_on = goes_on & (rest != np.where(group & _COCO_SIGN, -1, 0))
        groups.append(group + np.where(goes_on, _COCO_GOES_ON, 0) + _COCO_FIRST)
    letters = np.stack(groups, axis=1).astype(np.uint8)
    return letters[np.stack(is_written, axis=1)].tobytes().decode("ascii")


def from_coco_counts(counts: str, shape: tuple[int, int]) -> np.ndarray:
    """Undo `coco_counts`.

    Args:
        counts: Compressed run lengths.
        shape: (y, x).

    Raises:
        GeometryError: They are not those of a mask of this shape.
    """
    lengths: list[int] = []
    value = shift = 0
    for code in counts.encode("ascii", "replace"):
        group = code - _COCO_FIRST
        value |= (group & _COCO_BITS) << shift
        shift += 5
        if group & _COCO_GOES_ON:
            if shift > _COCO_MAX_SHIFT:
                break  # unfinished, and so refused below
            continue
        value -= (1 << shift) if group & _COCO_SIGN else 0
        lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
        value = shift = 0
    if shift or min(lengths, default=0) < 0 or sum(lengths) != shape[0] * shape[1]:
        raise GeometryError(f"these run lengths are not those of a mask of shape {shape} (y, x)")
    return from_run_lengths(np.array(lengths, np.int64), shape[::-1]).T


def largest_component(mask: np.ndarray) -> np.ndarray:
    """Return the component with most voxels; of equals, the one that comes first in the array.

    Args:
        mask: Boolean, (y, x) or (z, y, x).

    Returns:
        Boolean, of the mask's shape; empty if the mask is.
    """
    kept = np.zeros(mask.shape, bool)
    box = bounding_box(mask)
    if box is not None:
        labels = _label(mask[box])
        sizes = np.bincount(labels.ravel())
        sizes[0] = 0
        kept[box] = labels == sizes.argmax()
    return kept


def _label(mask: np.ndarray) -> np.ndarray:
    """Number the components of a mask from 1."""
    labels, _ = ndimage.label(mask, structure=np.ones((3,) * mask.ndim, bool))
    return np.asarray(labels)
