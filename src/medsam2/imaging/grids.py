"""Bring a mask into its image's voxel order, where the two differ in nothing else."""

import numpy as np

from medsam2.errors import GeometryError
from medsam2.imaging.volume import Volume

# In voxels of the image. Headers in float32 and rounded spacings stay far below, a wrong origin far above.
_TOLERANCE = 0.05


def match_order(mask: Volume, image: Volume) -> np.ndarray:
    """Return a mask's voxels in the order of the image's, exactly: axes swapped and flipped, no resampling.

    Args:
        mask: Any dtype.
        image: The scan that it was drawn on.

    Returns:
        (z, y, x), of the image's shape and the mask's dtype.

    Raises:
        GeometryError: The mask's voxels are not the image's, however one orders them.
    """
    to_image = np.linalg.inv(image.affine) @ mask.affine  # voxel (x, y, z) of the mask -> of the image
    turn = np.rint(to_image[:3, :3])
    if not all((np.abs(turn).sum(axis=axis) == 1).all() for axis in (0, 1)):
        raise GeometryError("the axes of the mask and of the image do not run along each other")
    source_axes = np.abs(turn).argmax(axis=1)  # of the mask, for the image's x, y and z
    is_flipped = turn.sum(axis=1) < 0
    ordered = mask.array.T.transpose(source_axes)  # (x, y, z)
    if ordered.shape != image.array.T.shape:
        raise GeometryError(
            f"the mask has {_counted(ordered.shape)} voxels (x, y, z), "
            f"the image {_counted(image.array.T.shape)}"
        )
    exact = np.eye(4)
    exact[:3, :3] = turn
    exact[:3, 3] = np.where(is_flipped, np.array(ordered.shape) - 1, 0)
    distance = _largest_distance(to_image, exact, mask.array.T.shape)
    if distance > _TOLERANCE:
        raise GeometryError(f"the mask's voxels lie up to {distance:.3g} voxels away from the image's")
    return np.flip(ordered, tuple(np.flatnonzero(is_flipped).tolist())).T


def place(mask: Volume, image: Volume) -> np.ndarray:
    """Return a mask in the order of the image's voxels, as `match_order` does; it may be a part of the image.

    3D Slicer crops what it saves to what is drawn. Every voxel of such a part is one of the image's, and
    outside it there is nothing.

    Args:
        mask: Any dtype.
        image: The scan that it was drawn on.

    Returns:
        (z, y, x), of the image's shape and the mask's dtype.

    Raises:
        GeometryError: The mask's voxels are not the image's, or some lie outside it.
    """
    to_image = np.linalg.inv(image.affine) @ mask.affine
    turn = np.rint(to_image[:3, :3])
    size, image_size = np.array(mask.shape[::-1]), np.array(image.shape[::-1])
    is_axis_by_axis = all((np.abs(turn).sum(axis=axis) == 1).all() for axis in (0, 1))
    turned_size = np.abs(turn) @ size
    if not is_axis_by_axis or (turned_size == image_size).all() or (turned_size > image_size).any():
        return match_order(mask, image)
    corner = np.rint(to_image[:3, 3])
    start = np.minimum(corner, np.rint(corner + turn @ (size - 1)))
    if (start < 0).any() or (start + turned_size > image_size).any():
        raise GeometryError(
            f"the mask has {_counted(mask.shape[::-1])} voxels (x, y, z) and reaches beyond the image, "
            f"which has {_counted(image.shape[::-1])}"
        )
    box = tuple(
        slice(int(first), int(first + count)) for first, count in zip(start, turned_size, strict=True)
    )
    shift = np.eye(4)
    shift[:3, 3] = start
    part = Volume(image.array.T[box].T, image.affine @ shift)
    placed = np.zeros(image.shape, mask.array.dtype)
    placed.T[box] = match_order(mask, part).T
    return placed


def _largest_distance(first: np.ndarray, second: np.ndarray, size: tuple[int, ...]) -> float:
    """Return how far two maps of a grid's corners are apart; nowhere inside is it more."""
    corners = np.stack(np.meshgrid(*((0, count - 1) for count in size), [1], indexing="ij")).reshape(4, -1)
    return float(np.abs((first - second) @ corners).max())


def _counted(shape: tuple[int, ...]) -> str:
    return " x ".join(str(count) for count in shape)
