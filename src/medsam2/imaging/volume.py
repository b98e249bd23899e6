"""A scan, or a mask, together with where it lies in the patient; masks are brought onto a scan's grid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medsam2.errors import GeometryError, InputError, UnsupportedFormat
from medsam2.imaging.geometry import (
    ItkGrid,
    affine_from_itk,
    check_affine,
    itk_from_affine,
    orientation_code,
)

MODALITIES = ("CT", "MR", "US", "PT", "NM")
LARGEST_VOLUME_BYTES = 16 * 2**30
"""Readers refuse larger volumes; a whole-body CT of 2000 slices has 1 GiB."""

_IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


@dataclass(frozen=True, eq=False, repr=False)
class Volume:
    """An array and its grid. A volume does not change: `with_array` makes another one.

    Raises:
        InputError: The array does not hold real numbers, or the modality is not one of `MODALITIES`.
        GeometryError: The array is not 3D or is empty, or the affine is impossible.
    """

    array: np.ndarray
    """(z, y, x), integers, floats or booleans, in the file's own voxel order."""
    affine: np.ndarray
    """(4, 4) float64, read-only: voxel (x, y, z) to RAS+ millimetres."""
    modality: str | None = None
    """One of `MODALITIES`; None where the file does not say."""
    nifti_header: bytes | None = field(default=None, kw_only=True)
    """For the NIfTI reader and writer only: the grid fields of the file's header, to the bit."""
    itk_grid: ItkGrid | None = field(default=None, kw_only=True)
    """For the properties below: the numbers from which the affine was made, without its rounding."""
    window: tuple[float, float] | None = field(default=None, kw_only=True)
    """(lower, upper) of the file's own window, in the array's units; None if the file has none."""

    def __post_init__(self) -> None:
        """Check the volume; nothing else has to check it again."""
        _check_array(self.array)
        object.__setattr__(self, "affine", check_affine(self.affine))
        if self.modality is not None and self.modality not in MODALITIES:
            known = ", ".join(MODALITIES)
            raise InputError(f"no modality is called {self.modality!r}; they are {known} or None")
        if self.window is not None:
            lower, upper = self.window
            if not (math.isfinite(lower) and math.isfinite(upper) and lower < upper):
                raise InputError(f"a window is two finite numbers, lower < upper, not {self.window!r}")
        if self.itk_grid is not None and not np.array_equal(affine_from_itk(self.itk_grid), self.affine):
            object.__setattr__(self, "itk_grid", None)

    def __repr__(self) -> str:
        """Describe the grid."""
        spacing = " x ".join(f"{step:g}" for step in self.spacing)
        return (
            f"Volume({self.array.dtype} {self.shape}, spacing {spacing} mm, "
            f"{orientation_code(self.affine)}, modality {self.modality})"
        )

    @classmethod
    def from_array(
        cls,
        array: np.ndarray,
        spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
        origin: tuple[float, float, float] = (0.0, 0.0, 0.0),
        direction: tuple[float, ...] = _IDENTITY,
        *,
        modality: str | None = None,
    ) -> Volume:
        """Make a volume of an array and a grid as SimpleITK gives them.

        Args:
            array: (z, y, x), integers, floats or booleans.
            spacing: (x, y, z) in mm.
            origin: LPS position of the first voxel, in mm.
            direction: Nine numbers, row by row, whose columns are the LPS directions of x, y and z.
            modality: One of `MODALITIES`, or None.

        Raises:
            InputError: The array or the modality is not usable.
            GeometryError: The grid is impossible.
        """
        grid = ItkGrid(spacing, origin, direction)
        return cls(np.asarray(array), affine_from_itk(grid), modality, itk_grid=grid)

    def with_array(self, array: np.ndarray) -> Volume:
        """Return another array on the same grid, for example a mask of this volume.

        Args:
            array: (z, y, x), of this volume's shape.

        Raises:
            InputError: The array does not hold real numbers.
            GeometryError: The shapes differ.
        """
        if array.shape != self.array.shape:
            raise GeometryError(
                f"an array of shape {array.shape} does not fit a grid of shape {self.shape} (z, y, x)"
            )
        return replace(self, array=array)

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> np.ndarray:
        """Give the voxels (z, y, x) to numpy: `np.asarray(volume)`."""
        if copy is None:  # numpy 1 does not know the word
            return np.asarray(self.array, dtype)
        return np.array(self.array, dtype, copy=copy)

    def like(self, image: object) -> Any:
        """Return this volume, a mask for example, as the kind of object that the image is.

        Args:
            image: What was segmented: a numpy array, a nibabel image, a SimpleITK image, a MONAI MetaTensor.
                For a `Volume` or a path, the volume itself is returned.

        Returns:
            On the image's grid and in its order of axes: `(z, y, x)` for numpy, `(x, y, z)` for nibabel and
            MONAI. A NIfTI image has none of the texts that can name a patient.

        Raises:
            GeometryError: The image has another shape.
            InputError: The image is of another kind.
        """
        from medsam2.imaging.arrays import same_kind  # which needs this module

        return same_kind(self, image)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of voxels, (z, y, x)."""
        num_z, num_y, num_x = self.array.shape
        return num_z, num_y, num_x

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance between voxel centres, (x, y, z) in mm."""
        return self._grid.spacing

    @property
    def origin(self) -> tuple[float, float, float]:
        """LPS position of the first voxel's centre, (x, y, z) in mm."""
        return self._grid.origin

    @property
    def direction(self) -> tuple[float, ...]:
        """Nine numbers, row by row, whose columns are the LPS directions of x, y and z."""
        return self._grid.direction

    @property
    def _grid(self) -> ItkGrid:
        return self.itk_grid or itk_from_affine(self.affine)


def check_claim(
    path: Path, shape: Sequence[int], num_bytes: int, num_stored: float, num_available: float
) -> None:
    """Refuse a size in a header that the file cannot hold, or that is too large, before memory is allocated.

    Args:
        path: Named in errors.
        shape: Of the volume, (z, y, x); named in errors.
        num_bytes: Of the volume in memory.
        num_stored: Bytes of voxels in the file, once unpacked, as the header says.
        num_available: Bytes that the file can hold at most, once unpacked.

    Raises:
        UnsupportedFormat: The file is too short, or the volume is larger than `LARGEST_VOLUME_BYTES`.
    """
    if num_stored > num_available:
        raise UnsupportedFormat(
            f"{path}: the header claims {num_stored:.0f} bytes, the file holds less; it is truncated"
        )
    if num_bytes > LARGEST_VOLUME_BYTES:
        raise UnsupportedFormat(
            f"{path}: the header claims {' x '.join(str(size) for size in shape)} voxels (z, y, x), "
            f"{num_bytes / 2**30:.0f} GiB; a volume of at most {LARGEST_VOLUME_BYTES >> 30} GiB is read"
        )


def _check_array(array: np.ndarray) -> None:
    if not isinstance(array, np.ndarray):
        raise InputError(f"a volume is made of a numpy array, not of {type(array).__name__}")
    if array.ndim != 3:
        raise GeometryError(f"a volume has 3 dimensions (z, y, x), this array has shape {array.shape}")
    if array.size == 0:
        raise GeometryError(f"a volume of shape {array.shape} (z, y, x) holds no voxel")
    if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
        raise InputError(f"a volume holds integers, floats or booleans of at most 64 bits, not {array.dtype}")


# In voxels of the image. Headers in float32 and rounded spacings stay far below, a wrong origin far above.
_TOLERANCE = 0.05


def match_order(mask: Volume, image: Volume) -> np.ndarray:
    """Return a mask's voxels in the order of the image's: axes are swapped and flipped, nothing is resampled.

    Args:
        mask: Any dtype.
        image: The scan that it was drawn on.

    Returns:
        (z, y, x), of the image's shape and the mask's dtype.

    Raises:
        GeometryError: In no order are the mask's voxels the image's.
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
    """Return a mask in the order of the image's voxels, as `match_order` does, even if it covers only a part.

    3D Slicer crops a segmentation to what is drawn. Every voxel of such a mask is a voxel of the image, and
    the mask is empty outside.

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
    """Return how far two maps of a grid's corners are apart; inside the grid the distance is never larger."""
    corners = np.stack(np.meshgrid(*((0, count - 1) for count in size), [1], indexing="ij")).reshape(4, -1)
    return float(np.abs((first - second) @ corners).max())


def _counted(shape: tuple[int, ...]) -> str:
    return " x ".join(str(count) for count in shape)
