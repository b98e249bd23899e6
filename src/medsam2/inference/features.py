"""Slices encoded when they are needed, and kept while there is room."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from medsam2.imaging.intensity import Window, to_uint8
from medsam2.imaging.mapped import release
from medsam2.inference.preprocess import normalise, resample_slice
from medsam2.inference.runtime import Runtime
from medsam2.inference.zoom import View
from medsam2.model.network import ImageFeatures

CACHE_BYTES = 256 * 2**20


class SliceFeatures:
    """The slices of one volume as the network sees them.

    Args:
        runtime: The network and its device.
        slices: `(z, y, x)` in the volume's own intensities; read one slice at a time.
        window: Intensities that become black and white.
        cache_bytes: Encoded slices kept, in bytes; the least recently used go first.
    """

    def __init__(
        self,
        runtime: Runtime,
        slices: npt.NDArray[np.generic],
        window: Window,
        *,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        self.runtime = runtime
        self.slices = slices
        self.window = window
        self.cache_bytes = cache_bytes
        self._cache: OrderedDict[tuple[View, int], ImageFeatures] = OrderedDict()

    @property
    def num_slices(self) -> int:
        """Slices in the volume."""
        return len(self.slices)

    @property
    def shape_yx(self) -> tuple[int, int]:
        """Size of a slice."""
        return self.slices.shape[1], self.slices.shape[2]

    def grey(self, slice_index: int) -> npt.NDArray[np.uint8]:
        """One slice `(y, x)` in 0..255."""
        part = self.slices[slice_index]
        grey = to_uint8(part, self.window)
        release(part)
        return grey

    def pixels(self, view: View, slice_index: int) -> Tensor:
        """A view of a slice as the network takes it, `(1, 3, S, S)`."""
        size = self.runtime.network.config.image_size
        grey = torch.from_numpy(resample_slice(self.grey(slice_index), view, size).copy())
        return normalise(grey[None].to(self.runtime.device))

    def encode(self, view: View, slice_index: int) -> ImageFeatures:
        """Encode a view of a slice, or take it from the cache; call inside `Runtime.computing`."""
        key = (view, slice_index)
        if key in self._cache:
            self._cache.move_to_end(key)
            return self._cache[key].to(torch.float32)
        encoded = self.runtime.network.encode_image(self.pixels(view, slice_index))
        features = encoded.to(self.runtime.precision)  # rounded at once: found again, it is the same
        self._cache[key] = features
        room = max(1, self.cache_bytes // _num_bytes(features))
        while len(self._cache) > room:
            self._cache.popitem(last=False)
        return features.to(torch.float32)


def _num_bytes(features: ImageFeatures) -> int:
    return sum(level.nbytes for level in (features.level0, features.level1, features.level2))
