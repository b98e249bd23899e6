"""Slices encoded when they are needed, and kept while there is room."""

from __future__ import annotations

from collections import OrderedDict
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from medsam2.imaging.intensity import Window, to_uint8
from medsam2.imaging.mapped import release
from medsam2.inference.held import Held
from medsam2.inference.preprocess import luminance, normalise, resample_slice
from medsam2.inference.runtime import Runtime
from medsam2.inference.zoom import View
from medsam2.model.network import ImageFeatures, Network

CACHE_BYTES = 256 * 2**20
KEPT_GREYS = 64  # views of slices without colour: each is shown with its neighbours


class FrameSource(Protocol):
    """What is looked at slice by slice: the array of a volume, or a video whose frames are decoded then."""

    @property
    def shape(self) -> tuple[int, ...]:
        """`(z, y, x)`, or `(frame, y, x, 3)` in colour."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> npt.NDArray[np.generic]: ...


class SliceFeatures:
    """The slices of one volume, or the frames of one video, as the network sees them.

    Args:
        runtime: The network and its device.
        slices: `(z, y, x)` in the volume's own intensities; read one slice at a time.
        window: Intensities that become black and white; None for frames that are uint8 already.
        cache_bytes: Encoded slices kept, in bytes; the least recently used go first.
    """

    def __init__(
        self,
        runtime: Runtime,
        slices: FrameSource,
        window: Window | None,
        *,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        self.runtime = runtime
        self.slices = slices
        self.window = window
        self.cache_bytes = cache_bytes
        self.held = Held()
        """Encoded slices, and what objects keep of theirs."""
        self._greys: OrderedDict[tuple[View, int], Tensor] = OrderedDict()
        self._cache: OrderedDict[tuple[View, int], ImageFeatures] = OrderedDict()

    @property
    def num_slices(self) -> int:
        """Slices in the volume, or frames in the video."""
        return len(self.slices)

    @property
    def shape_yx(self) -> tuple[int, int]:
        """Size of a slice."""
        return self.slices.shape[1], self.slices.shape[2]

    def frame(self, slice_index: int) -> npt.NDArray[np.uint8]:
        """One slice in 0..255: `(y, x)`, or `(y, x, 3)` where it has colour."""
        part = self.slices[slice_index]
        if self.window is None:
            return part.astype(np.uint8, copy=False)
        grey = to_uint8(part, self.window)
        release(part)
        return grey

    def grey(self, slice_index: int) -> npt.NDArray[np.uint8]:
        """One slice `(y, x)` in 0..255, without colour."""
        return luminance(self.frame(slice_index))

    def pixels(self, view: View, slice_index: int) -> Tensor:
        """A view of a slice as the network takes it, `(1, 3, S, S)`."""
        size = self.runtime.network.config.image_size
        pixels = torch.from_numpy(resample_slice(self.frame(slice_index), view, size).copy())
        return normalise(pixels[None].to(self.runtime.device))

    def greys(self, view: View, slice_index: int) -> Tensor:
        """A view of a slice without colour, 0 to 1, `(1, S, S)`; beyond either end, the last slice there."""
        key = (view, min(max(slice_index, 0), self.num_slices - 1))
        if key not in self._greys:
            size = self.runtime.network.config.image_size
            plane = resample_slice(self.grey(key[1]), view, size, filter=Image.Resampling.BILINEAR)
            greys = torch.from_numpy(plane.astype(np.float32) / 255)[None].to(self.runtime.device)
            self._greys[key] = greys
            while len(self._greys) > KEPT_GREYS:
                self._greys.popitem(last=False)
        self._greys.move_to_end(key)
        return self._greys[key]

    def encode(self, view: View, slice_index: int) -> ImageFeatures:
        """Encode a view of a slice, or take it from the cache; call inside `Runtime.computing`."""
        key = (view, slice_index)
        if key in self._cache:
            self._cache.move_to_end(key)
            return self._cache[key].to(torch.float32)
        network = self.runtime.network
        assert isinstance(network, Network)
        encoded = network.encode_image(self.pixels(view, slice_index))
        features = encoded.to(self.runtime.precision)  # rounded at once: found again, it is the same
        self._cache[key] = features
        self.held.keep(features)
        room = max(1, self.cache_bytes // _num_bytes(features))
        while len(self._cache) > room:
            self._cache.popitem(last=False)
        return features.to(torch.float32)


def _num_bytes(features: ImageFeatures) -> int:
    return sum(level.nbytes for level in (features.level0, features.level1, features.level2))
