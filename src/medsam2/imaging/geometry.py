"""Compute where voxels are: affines, orientations, planes, and slices as radiologists see them.

*File axes* are numbered as in the file: 0 is i or x, 1 is j or y, 2 is k or z. Arrays are `(z, y, x)`, so
file axis `a` is array axis `2 - a`. An affine is (4, 4) and maps voxel `(x, y, z)` to RAS+ millimetres.

A slice *in file axes* lies as in the file (`slices_along`); callers give indices and coordinates in these.
The network and the pictures get *shown* slices. The two differ only where a plane is named: a network that
has learnt from pictures gives other results for flipped ones.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from medsam2.errors import GeometryError, InputError

_Scalar = TypeVar("_Scalar", bound=np.generic)

PLANE_NORMALS = {"sagittal": 0, "coronal": 1, "axial": 2}
"""Anatomical plane -> the RAS+ axis at right angles to it."""

_SHOWN_ALONG = {
    "axial": ((2, 1), (1, -1), (0, -1)),
    "coronal": ((1, -1), (2, -1), (0, -1)),
    "sagittal": ((0, -1), (2, -1), (1, -1)),
}
"""Plane -> RAS+ axis and sense in which slices, rows and columns are shown, as in radiology: the patient's
left at the right of the picture, the front at the top or the left, the head at the top."""

_AXIS_LETTERS = (("L", "R"), ("P", "A"), ("I", "S"))
# Columns of unit length with a smaller determinant lie almost in a plane.
_SMALLEST_DETERMINANT = 1e-6
_NO_SHEAR = 1e-6  # cosine of a right angle, with rounding
# In mm. Larger numbers overflow when they are multiplied; no scanner comes near.
_LARGEST_ENTRY = 1e100


@dataclass(frozen=True)
class ItkGrid:
    """A grid as SimpleITK reports it, in the LPS frame."""

    spacing: tuple[float, float, float]
    """Distance between voxel centres along x, y and z, in mm."""
    origin: tuple[float, float, float]
    """LPS position of the first voxel's centre, in mm."""
    direction: tuple[float, ...]
    """Nine numbers, row by row: the 3x3 matrix whose columns are the unit vectors of x, y and z in LPS."""


def check_affine(affine: np.ndarray) -> np.ndarray:
    """Check an affine, and return it as a read-only float64 copy.

    Raises:
        GeometryError: It is not 4x4, not finite, not an affine or not invertible.
    """
    checked = np.array(affine, dtype=np.float64)
    if checked.shape != (4, 4):
        raise GeometryError(f"an affine is a 4x4 matrix, this one has shape {checked.shape}")
    if not (np.abs(checked) < _LARGEST_ENTRY).all():
        raise GeometryError("the affine holds values that are not finite, or far too large")
    if not np.array_equal(checked[3], (0, 0, 0, 1)):
        raise GeometryError(f"the last row of an affine is 0 0 0 1, this one is {checked[3].tolist()}")
    lengths = np.linalg.norm(checked[:3, :3], axis=0)
    if not lengths.all() or abs(np.linalg.det(checked[:3, :3] / lengths)) < _SMALLEST_DETERMINANT:
        raise GeometryError(
            f"the affine cannot be inverted: its columns {checked[:3, :3].T.tolist()} span no volume"
        )
    checked.setflags(write=False)
    return checked


def flip_ras_lps(affine: np.ndarray) -> np.ndarray:
    """Turn an affine to RAS+ into one to LPS+, or back: the first two world axes change sign.

    Args:
        affine: (4, 4), voxel (x, y, z) to RAS+ or LPS+ mm.
    """
    # Adding zero turns -0.0 into 0.0: users would see the sign.
    return np.asarray(np.diag((-1.0, -1.0, 1.0, 1.0)) @ affine + 0.0)


def itk_from_affine(affine: np.ndarray) -> ItkGrid:
    """Return spacing, origin and direction of an affine, as SimpleITK reports them.

    Args:
        affine: (4, 4), voxel (x, y, z) to RAS+ mm. A sheared one gives a direction whose columns have
            unit length but no right angles.
    """
    lps = flip_ras_lps(affine)
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    direction = lps[:3, :3] / spacing
    return ItkGrid(_triple(spacing), _triple(lps[:3, 3]), tuple(direction.ravel().tolist()))


def affine_from_itk(grid: ItkGrid) -> np.ndarray:
    """Return the affine (4, 4), voxel (x, y, z) to RAS+ mm, of a grid in the LPS frame.

    Raises:
        GeometryError: A part has the wrong length, a spacing is not positive, or the matrix is impossible.
    """
    if len(grid.spacing) != 3 or len(grid.origin) != 3 or len(grid.direction) != 9:
        raise GeometryError(
            "a grid has 3 numbers of spacing, 3 of origin and 9 of direction, these are "
            f"{len(grid.spacing)}, {len(grid.origin)} and {len(grid.direction)}"
        )
    if not all(step > 0 for step in grid.spacing):
        raise GeometryError(f"spacing must be positive, in mm, this is {tuple(grid.spacing)}")
    lps = np.eye(4)
    lps[:3, :3] = np.reshape(grid.direction, (3, 3)) * np.asarray(grid.spacing)
    lps[:3, 3] = grid.origin
    return check_affine(flip_ras_lps(lps))


def orientation_code(affine: np.ndarray) -> str:
    """Return where x, y and z point, as three letters: "RAS" runs to the right, the front and the head."""
    return "".join(_AXIS_LETTERS[world][int(sense > 0)] for world, sense in axis_directions(affine))


def axis_directions(affine: np.ndarray) -> tuple[tuple[int, int], ...]:
    """Return where x, y and z point: for each the nearest RAS+ axis (0, 1 or 2) and 1, or -1 against it.

    Each gets an axis of its own, however oblique the scan.
    """
    rotation = _nearest_rotation(affine)
    return tuple(
        (world, 1 if rotation[world, axis] > 0 else -1) for axis, world in enumerate(_world_axes(rotation))
    )


def plane_axis(affine: np.ndarray, plane: str) -> int:
    """Return the file axis (0, 1 or 2) along which slices of a plane are stacked.

    Each of the three planes gets an axis of its own, however oblique the scan is. `plane_tilt_deg` gives the
    angle between the plane and its slices.

    Args:
        affine: (4, 4), voxel (x, y, z) to RAS+ mm.
        plane: "axial", "coronal" or "sagittal".

    Raises:
        InputError: The plane has another name.
    """
    return _world_axes(_nearest_rotation(affine)).index(_plane_normal(plane))


def plane_tilt_deg(affine: np.ndarray, plane: str) -> float:
    """Return the angle in degrees between an anatomical plane and the slices that are taken for it.

    Args:
        affine: (4, 4), voxel (x, y, z) to RAS+ mm.
        plane: "axial", "coronal" or "sagittal".

    Raises:
        InputError: The plane has another name.
    """
    axis = plane_axis(affine, plane)
    # In a sheared grid the axis is not at right angles to its slices, so the slices' own normal is used.
    in_slice = np.delete(np.asarray(affine)[:3, :3], axis, axis=1)
    normal = np.cross(in_slice[:, 0], in_slice[:, 1])
    cosine = abs(normal[_plane_normal(plane)]) / np.linalg.norm(normal)
    return math.degrees(math.acos(min(1.0, float(cosine))))


def in_plane_mm(affine: np.ndarray, axis: int) -> np.ndarray:
    """Return the matrix (2, 2) that turns steps (x, y) in pixels of a slice into millimetres.

    The millimetres are along the slice's x, and at right angles to it within the slice. They are along x and
    along y only in a grid without shear; a tilted gantry shears the planes across.

    Args:
        affine: (4, 4), voxel (x, y, z) to RAS+ mm.
        axis: File axis along which slices are stacked, 0 (x), 1 (y) or 2 (z).

    Raises:
        InputError: The axis is not 0, 1 or 2.
    """
    _array_axis(axis)
    along_x, along_y = np.delete(np.asarray(affine, dtype=np.float64)[:3, :3], axis, axis=1).T
    x_mm, y_mm = np.linalg.norm(along_x), np.linalg.norm(along_y)
    cosine = float(along_x @ along_y / (x_mm * y_mm))
    if abs(cosine) < _NO_SHEAR:
        return np.diag((x_mm, y_mm))
    return np.array(((x_mm, cosine * y_mm), (0.0, math.sqrt(1 - cosine * cosine) * y_mm)))


def slices_along(array: np.ndarray, axis: int) -> np.ndarray:
    """View a volume as slices stacked along a file axis.

    Args:
        array: (z, y, x).
        axis: File axis, 0 (x), 1 (y) or 2 (z).

    Returns:
        A view, slices first. In each slice x is the lower-numbered of the two remaining file axes:
        (z, y, x) for axis 2, (y, z, x) for axis 1, (x, z, y) for axis 0.

    Raises:
        InputError: The axis is not 0, 1 or 2.
    """
    return np.moveaxis(array, _array_axis(axis), 0)


def restore_axes(slices: np.ndarray, axis: int) -> np.ndarray:
    """Undo `slices_along`: view slices stacked along a file axis as a volume (z, y, x).

    Raises:
        InputError: The axis is not 0, 1 or 2.
    """
    return np.moveaxis(slices, 0, _array_axis(axis))


@dataclass(frozen=True, kw_only=True)
class Cut:
    """The axis along which a volume is cut, and how its slices are turned to be shown."""

    axis: int
    """File axis along which slices are stacked: 0 (x), 1 (y) or 2 (z)."""
    swaps_xy: bool = False
    """Whether x in file axes is y of a shown slice."""
    reverses: tuple[bool, bool, bool] = (False, False, False)
    """Whether shown slices, rows and columns run in the opposite direction to the file's."""

    def slices(self, array: np.ndarray) -> np.ndarray:
        """View a volume `(z, y, x)` as shown slices, `(slice, y, x)`.

        Raises:
            InputError: The axis is not 0, 1 or 2.
        """
        return self.show(slices_along(array, self.axis))

    def volume(self, shown: np.ndarray) -> np.ndarray:
        """Undo `slices`: view shown slices as a volume `(z, y, x)`."""
        return restore_axes(self.file(shown), self.axis)

    def show(self, in_file_axes: npt.NDArray[_Scalar]) -> npt.NDArray[_Scalar]:
        """View one slice in file axes `(y, x)`, or a stack of them, as it is shown."""
        return self._flipped(in_file_axes.swapaxes(-1, -2) if self.swaps_xy else in_file_axes)

    def file(self, shown: npt.NDArray[_Scalar]) -> npt.NDArray[_Scalar]:
        """Undo `show`."""
        flipped = self._flipped(shown)
        return flipped.swapaxes(-1, -2) if self.swaps_xy else flipped

    def turn_index(self, index: int, num_slices: int) -> int:
        """Turn a slice's index in the file into its index when shown, or back."""
        return num_slices - 1 - index if self.reverses[0] else index

    def show_point(self, x: float, y: float, shape_yx: tuple[int, int]) -> tuple[float, float]:
        """Return where a point in file axes is shown, `(x, y)`, in a slice of a shape `(y, x)`."""
        height, width = shape_yx
        if self.swaps_xy:
            x, y, height, width = y, x, width, height
        _, is_upside_down, is_mirrored = self.reverses
        return width - 1 - x if is_mirrored else x, height - 1 - y if is_upside_down else y

    def file_point(self, x: float, y: float, shape_yx: tuple[int, int]) -> tuple[float, float]:
        """Undo `show_point`; the shape is the slice's in file axes."""
        height, width = (shape_yx[1], shape_yx[0]) if self.swaps_xy else shape_yx
        _, is_upside_down, is_mirrored = self.reverses
        x, y = width - 1 - x if is_mirrored else x, height - 1 - y if is_upside_down else y
        return (y, x) if self.swaps_xy else (x, y)

    def _flipped(self, array: npt.NDArray[_Scalar]) -> npt.NDArray[_Scalar]:
        # Counted from the last axis, so that this works for a single slice (y, x) as well.
        axes = tuple(
            place - 3
            for place, is_reversed in enumerate(self.reverses)
            if is_reversed and place + array.ndim > 2
        )
        return np.flip(array, axes) if axes else array


def cut_of_plane(affine: np.ndarray, plane: str) -> Cut:
    """Find how a plane's slices lie in a file, and how they are turned to be shown.

    Args:
        affine: (4, 4), voxel (x, y, z) to RAS+ mm. For an oblique scan, the nearest axes are used.
        plane: "axial", "coronal" or "sagittal".

    Raises:
        InputError: The plane has another name.
    """
    axis = plane_axis(affine, plane)
    directions = axis_directions(affine)
    lower, upper = (other for other in range(3) if other != axis)
    _, _, (columns_along, _) = _SHOWN_ALONG[plane]
    swaps_xy = directions[lower][0] != columns_along
    shown_axes = (axis, lower, upper) if swaps_xy else (axis, upper, lower)
    slices, rows, columns = (
        directions[file_axis][1] != sense
        for file_axis, (_, sense) in zip(shown_axes, _SHOWN_ALONG[plane], strict=True)
    )
    return Cut(axis=axis, swaps_xy=swaps_xy, reverses=(slices, rows, columns))


def _array_axis(axis: int) -> int:
    if axis not in (0, 1, 2):
        raise InputError(f"a volume has the file axes 0, 1 and 2, not {axis!r}")
    return 2 - axis


def _plane_normal(plane: str) -> int:
    if plane not in PLANE_NORMALS:
        raise InputError(f"no plane is called {plane!r}; planes are axial, coronal and sagittal")
    return PLANE_NORMALS[plane]


def _nearest_rotation(affine: np.ndarray) -> np.ndarray:
    """Return the orthonormal 3x3 matrix nearest to an affine's directions (polar decomposition)."""
    columns = np.asarray(affine, dtype=np.float64)[:3, :3]
    left, _, right = np.linalg.svd(columns / np.linalg.norm(columns, axis=0))
    return np.asarray(left @ right)


def _world_axes(rotation: np.ndarray) -> tuple[int, ...]:
    """Give each file axis a world axis of its own, so that together they are as close as possible."""

    def closeness(world_axes: tuple[int, ...]) -> float:
        return float(sum(abs(rotation[world, axis]) for axis, world in enumerate(world_axes)))

    return max(permutations(range(3)), key=closeness)


def _triple(values: np.ndarray | Sequence[float]) -> tuple[float, float, float]:
    x, y, z = (float(value) for value in values)
    return x, y, z
