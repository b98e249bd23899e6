"""Cut a volume into slices, and turn each slice as radiologists see it.

A slice *in file axes* lies as in the file, see `geometry.slices_along`; callers give indices and coordinates
in these. The network and the pictures get *shown* slices. The two differ only where a plane is named: a
network that has learnt from pictures gives other results for flipped ones.
"""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from medsam2.imaging.geometry import axis_directions, plane_axis, restore_axes, slices_along

_Scalar = TypeVar("_Scalar", bound=np.generic)

_SHOWN_ALONG = {
    "axial": ((2, 1), (1, -1), (0, -1)),
    "coronal": ((1, -1), (2, -1), (0, -1)),
    "sagittal": ((0, -1), (2, -1), (1, -1)),
}
"""Plane -> RAS+ axis and sense in which slices, rows and columns are shown, as in radiology: the patient's
left at the right of the picture, the front at the top or the left, the head at the top."""


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
