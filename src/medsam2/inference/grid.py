"""How a volume is cut into slices: the numbers that prompts and masks refer to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medsam2.errors import GeometryError
from medsam2.imaging.geometry import Cut, cut_of_plane, in_plane_mm, slices_along
from medsam2.imaging.volume import Volume

DEFAULT_AXIS = 2  # the file's third axis


@dataclass(frozen=True, kw_only=True, eq=False)
class SliceGrid:
    """A volume and the way it is cut into slices; slices and pixels are those of the file."""

    volume: Volume
    cut: Cut

    @property
    def axis(self) -> int:
        """File axis along which slices are stacked."""
        return self.cut.axis

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of slices, and a slice's height and width in pixels."""
        num_slices, height, width = slices_along(self.volume.array, self.axis).shape
        return num_slices, height, width

    @property
    def pixel_mm(self) -> tuple[float, float]:
        """Spacing of a slice's pixels, (x, y)."""
        x_mm, y_mm = (step for axis, step in enumerate(self.volume.spacing) if axis != self.axis)
        return x_mm, y_mm

    @property
    def in_plane_mm(self) -> np.ndarray:
        """Matrix (2, 2) from steps in a slice's pixels to millimetres, shear included."""
        return in_plane_mm(self.volume.affine, self.axis)

    def turn_index(self, slice_index: int) -> int:
        """Turn the index of a slice in the file into its index as it is shown, or back."""
        return self.cut.turn_index(slice_index, self.shape[0])


def cut_volume(volume: Volume, *, plane: str | None = None, axis: int | None = None) -> SliceGrid:
    """Cut a volume into slices.

    Args:
        volume: The scan.
        plane: `axial`, `coronal` or `sagittal`: slices are shown to the network as radiologists see them.
        axis: Or a file axis, 0 to 2: slices are shown as they lie there; the third, 2, without either.

    Raises:
        GeometryError: Both are given, or there is no such plane or axis.
    """
    if plane is not None and axis is not None:
        raise GeometryError("name a plane or an axis, not both")
    if plane is not None:
        return SliceGrid(volume=volume, cut=cut_of_plane(volume.affine, plane))
    if axis not in (None, 0, 1, 2):
        raise GeometryError(f"a volume is cut along axis 0, 1 or 2 of the file, not {axis}")
    return SliceGrid(volume=volume, cut=Cut(axis=DEFAULT_AXIS if axis is None else axis))
