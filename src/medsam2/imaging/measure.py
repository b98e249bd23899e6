"""Measure a mask in the patient's units."""

from collections.abc import Iterable

import numpy as np
from scipy.spatial import ConvexHull, QhullError
from scipy.spatial.distance import pdist


def volume_ml(num_voxels: int, affine: np.ndarray) -> float:
    """Return the volume of so many voxels of a grid, in millilitres; shear of the grid is counted in."""
    return num_voxels * abs(float(np.linalg.det(affine[:3, :3]))) / 1000


def longest_diameter_mm(slices: Iterable[np.ndarray], spacing_mm: tuple[float, float]) -> float:
    """Return the longest distance between two pixels of a mask that lie in the same slice.

    Args:
        slices: Boolean (y, x) each.
        spacing_mm: (x, y) distance of pixel centres in mm.

    Returns:
        Millimetres between the outer edges along x or y, 0 for an empty mask.
    """
    return max((_diameter(plane, spacing_mm) for plane in slices if plane.any()), default=0.0)


def _diameter(plane: np.ndarray, spacing_mm: tuple[float, float]) -> float:
    rows, columns = np.nonzero(plane)
    # Corners of the pixels, not centres: a single pixel is as long as its diagonal.
    corners = np.concatenate(
        [np.stack((columns + dx, rows + dy), axis=1) for dx in (-0.5, 0.5) for dy in (-0.5, 0.5)]
    ) * np.asarray(spacing_mm)
    try:
        corners = corners[ConvexHull(corners).vertices]
    except QhullError:
        corners = np.unique(corners, axis=0)
    return float(pdist(corners).max())
