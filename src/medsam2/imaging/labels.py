"""Find the connected parts and the holes of a mask.

Neighbours touch by a face, an edge or a corner: 8 of them in 2D, 26 in 3D. Work happens inside the mask's
bounding box, so the cost follows the object and not the scan.
"""

import numpy as np
from scipy import ndimage

from medsam2.errors import GeometryError, PromptError


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


def component_at(mask: np.ndarray, index: tuple[int, ...]) -> np.ndarray:
    """Return the component of a mask that contains a voxel; nothing if the voxel is outside the mask.

    Args:
        mask: Boolean, (y, x) or (z, y, x).
        index: The voxel in the array's own order, (y, x) or (z, y, x).

    Returns:
        Boolean, of the mask's shape.

    Raises:
        PromptError: The voxel lies outside the array.
    """
    if len(index) != mask.ndim or not all(0 <= i < size for i, size in zip(index, mask.shape, strict=True)):
        raise PromptError(f"voxel {tuple(index)} does not lie in an array of shape {mask.shape}")
    seed = np.zeros(mask.shape, bool)
    seed[tuple(index)] = True
    return components_overlapping(mask, seed)


def components_overlapping(mask: np.ndarray, seed: np.ndarray) -> np.ndarray:
    """Return the components of a mask that share at least one voxel with another mask.

    Args:
        mask: Boolean, (y, x) or (z, y, x).
        seed: Boolean, of the same shape.

    Returns:
        Boolean, of the mask's shape.

    Raises:
        GeometryError: The shapes differ.
    """
    if mask.shape != seed.shape:
        raise GeometryError(f"masks of shapes {mask.shape} and {seed.shape} cannot overlap")
    kept = np.zeros(mask.shape, bool)
    box = bounding_box(mask)
    if box is not None:
        labels, num_labels = _label(mask[box])
        is_touched = np.zeros(num_labels + 1, bool)
        is_touched[labels[seed[box]]] = True
        is_touched[0] = False
        kept[box] = is_touched[labels]
    return kept


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
        labels, _ = _label(mask[box])
        sizes = np.bincount(labels.ravel())
        sizes[0] = 0
        kept[box] = labels == sizes.argmax()
    return kept


def fill_holes(mask: np.ndarray) -> np.ndarray:
    """Fill what a mask encloses in a slice; of a volume, slice by slice.

    A hole touches the outside by no face; a gap at a corner does not open it, as the mask is connected there.

    Args:
        mask: Boolean, (y, x) or (z, y, x).

    Returns:
        Boolean, of the mask's shape.
    """
    if mask.ndim == 3:
        return np.stack([fill_holes(part) for part in mask])
    filled = np.zeros(mask.shape, bool)
    box = bounding_box(mask)
    if box is not None:
        filled[box] = ndimage.binary_fill_holes(mask[box])
    return filled


def _label(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """Number the components of a mask from 1."""
    labels, num_labels = ndimage.label(mask, structure=np.ones((3,) * mask.ndim, bool))
    return labels, num_labels
