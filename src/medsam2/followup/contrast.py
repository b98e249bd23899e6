"""What a scan shows where an object is: does it stand out from its surroundings?"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from medsam2.imaging.intensity import Window, to_uint8
from medsam2.imaging.labels import bounding_box
from medsam2.imaging.volume import Volume

RING_MM = (1.5, 6.0)
"""From where to where the tissue around an object is compared with its core."""
CORE = 0.25
"""Of the depth of an object; its core is deeper."""


def contrast(volume: Volume, window: Window, mask: npt.NDArray[np.bool_]) -> float:
    """Measure by how much the core of an object differs from the tissue around it.

    Args:
        volume: The scan.
        window: Its window.
        mask: Boolean `(z, y, x)`, not empty.

    Returns:
        Mean of the core minus mean of the surroundings, in standard deviations of both; 0 where the object
        has no surroundings.
    """
    step = np.array(volume.spacing[::-1])
    box = bounding_box(mask)
    assert box is not None
    margin = np.ceil(RING_MM[1] / step).astype(int) + 1
    part = tuple(
        slice(max(0, side.start - more), side.stop + more)
        for side, more in zip(box, margin.tolist(), strict=True)
    )
    greys = to_uint8(volume.array[part], window).astype(np.float32)
    depth = ndimage.distance_transform_edt(mask[part], step)
    distance = ndimage.distance_transform_edt(~mask[part], step)
    core = greys[depth > CORE * depth.max()]
    ring = greys[(distance > RING_MM[0]) & (distance < RING_MM[1])]
    if not core.size or not ring.size:
        return 0.0
    spread = np.sqrt((core.var() + ring.var()) / 2 + 1)  # a grey more: noise-free pictures have no spread
    return float((core.mean() - ring.mean()) / spread)
