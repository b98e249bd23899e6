"""What the second scan shows where an object is expected: does it stand out, and whose outline fits it?"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from medsam2.imaging.intensity import Window, to_uint8
from medsam2.imaging.labels import bounding_box
from medsam2.imaging.volume import Volume

EDGE_MM = 2.0
"""Width of the shells inside and outside of an outline that are compared."""
RING_MM = (1.5, 6.0)
"""From where to where the tissue around an object is compared with its core."""
CORE = 0.25
"""Of the depth of an object; its core is deeper."""


class Evidence:
    """The greys of a scan around a mask.

    Args:
        volume: The scan.
        window: Its window.
        mask: Boolean `(z, y, x)`, not empty.
    """

    def __init__(self, volume: Volume, window: Window, mask: npt.NDArray[np.bool_]) -> None:
        step = np.array(volume.spacing[::-1])
        box = bounding_box(mask)
        assert box is not None
        margin = np.ceil(RING_MM[1] / step).astype(int) + 1
        part = tuple(
            slice(max(0, side.start - more), side.stop + more)
            for side, more in zip(box, margin.tolist(), strict=True)
        )
        self._greys = to_uint8(volume.array[part], window).astype(np.float32)
        # Nothing is known beyond the end of the scan, so it is no edge.
        self._depth = ndimage.distance_transform_edt(mask[part], step)
        self._distance = ndimage.distance_transform_edt(~mask[part], step)
        self._shell_mm = max(EDGE_MM, 1.01 * float(step.min()))

    def contrast(self) -> float:
        """Core minus surroundings, in standard deviations of both; 0 where there are no surroundings."""
        core = self._greys[self._depth > CORE * self._depth.max()]
        ring = self._greys[(self._distance > RING_MM[0]) & (self._distance < RING_MM[1])]
        return _apart(core, ring)

    def edge(self) -> float:
        """Just inside minus just outside of the outline, in standard deviations of both."""
        inside = self._greys[(self._depth > 0) & (self._depth <= self._shell_mm)]
        outside = self._greys[(self._distance > 0) & (self._distance <= self._shell_mm)]
        return _apart(inside, outside)


def _apart(first: npt.NDArray[np.float32], second: npt.NDArray[np.float32]) -> float:
    if not first.size or not second.size:
        return 0.0
    spread = np.sqrt((first.var() + second.var()) / 2 + 1)  # a grey more: noise-free pictures have no spread
    return float((first.mean() - second.mean()) / spread)
