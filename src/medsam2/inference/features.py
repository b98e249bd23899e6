"""Slices and prompts as the network's input, encoded when they are needed and kept while there is room."""

from __future__ import annotations

import dataclasses
import weakref
from collections import OrderedDict
from collections.abc import Iterator
from functools import lru_cache
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812
from PIL import Image
from torch import Tensor

from medsam2.imaging.formats.voxels import release
from medsam2.imaging.intensity import Window, to_uint8
from medsam2.inference.runtime import Runtime
from medsam2.inference.zoom import View
from medsam2.model.network import ImageFeatures, Network
from medsam2.model.prompt_encoder import LABEL_BOX_MAX, LABEL_BOX_MIN
from medsam2.prompts.types import Prompt
from medsam2.tracking.step import PromptTensors

PIXEL_MEAN = (0.485, 0.456, 0.406)  # ImageNet
PIXEL_STD = (0.229, 0.224, 0.225)


def cut(plane: npt.NDArray[np.generic], view: View) -> npt.NDArray[np.generic]:
    """Cut a view out of a slice `(y, x)` or `(y, x, 3)`, zero where it reaches beyond the edge."""
    top, bottom, left, right = view.bounds((plane.shape[0], plane.shape[1]))
    part = plane[top:bottom, left:right]
    if part.shape[:2] == (view.height, view.width):
        return part
    padded = np.zeros((view.height, view.width, *plane.shape[2:]), dtype=plane.dtype)
    padded[top - view.y : bottom - view.y, left - view.x : right - view.x] = part
    return padded


def resample_slice(
    plane: npt.NDArray[np.uint8],
    view: View,
    size: int,
    *,
    filter: Image.Resampling = Image.Resampling.BICUBIC,  # noqa: A002
) -> npt.NDArray[np.uint8]:
    """Resample a view of a slice `(y, x)` to `(size, size)` by one of Pillow's 8-bit filters.

    A frame in colour, `(y, x, 3)`, becomes `(size, size, 3)`. One grey channel gives exactly what three equal
    ones would, as the reference resizes them.
    """
    part = cut(plane, view)
    if part.shape[:2] == (size, size):
        return np.ascontiguousarray(part)
    resized = Image.fromarray(np.ascontiguousarray(part)).resize((size, size), filter)
    return np.asarray(resized)


def luminance(frame: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Turn a frame in colour `(y, x, 3)` into greys `(y, x)` by ITU-R 601-2 luma; greys stay as they are."""
    return frame if frame.ndim == 2 else np.asarray(Image.fromarray(frame).convert("L"))


def resample_mask(mask: npt.NDArray[np.bool_], view: View, size: int) -> Tensor:
    """Resample a view of a mask `(y, x)` to float32 `(size, size)` of 0 and 1."""
    part = torch.from_numpy(np.ascontiguousarray(cut(mask, view), dtype=np.float32))
    if part.shape == (size, size):
        return part
    resized = F.interpolate(
        part[None, None], size=(size, size), mode="bilinear", align_corners=False, antialias=True
    )
    return (resized[0, 0] >= 0.5).float()


def upload(values: Tensor, device: torch.device) -> Tensor:
    """Bring a tensor from the processor's memory to a device, without waiting where the device allows it.

    CUDA copies pinned memory while the processor goes on. PyTorch keeps that memory until the copy is done.
    """
    if device.type != "cuda":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)


@lru_cache(maxsize=16)
def _mean_and_std(device: torch.device) -> tuple[Tensor, Tensor]:
    # Once for each device: making a tensor on a GPU out of numbers waits for the GPU.
    with torch.inference_mode(False):
        mean, std = (torch.tensor(three)[:, None, None].to(device) for three in (PIXEL_MEAN, PIXEL_STD))
    return mean, std


def normalise(images: Tensor) -> Tensor:
    """Turn greys `(B, S, S)` or colours `(B, S, S, 3)`, 0..255, into the network's input `(B, 3, S, S)`."""
    mean, std = _mean_and_std(images.device)
    channels = images[:, None] if images.ndim == 3 else images.permute(0, 3, 1, 2)
    return (channels.float() / 255 - mean) / std


def prompt_tensors(prompt: Prompt, view: View, size: int, device: torch.device) -> PromptTensors:
    """Bring a prompt to a view of `size` x `size` pixels; a drawn mask stands alone."""
    if prompt.mask is not None:
        mask = resample_mask(prompt.mask.array, view, size)
        return PromptTensors(mask=mask[None, None].to(device))
    corners = np.empty((0, 2))
    labels = []
    if prompt.box is not None:
        corners = view.box_to_network(prompt.box, size)
        labels = [LABEL_BOX_MIN, LABEL_BOX_MAX]
    clicks = np.array([(point.x, point.y) for point in prompt.points], dtype=np.float64).reshape(-1, 2)
    points = np.concatenate((corners, view.points_to_network(clicks, size)))
    labels += [int(point.is_positive) for point in prompt.points]
    return PromptTensors(
        points=torch.tensor(points, dtype=torch.float32, device=device)[None],
        labels=torch.tensor([labels], device=device),
    )


class RetainedBytes:
    """A sum that grows with what is kept, and shrinks by itself when nobody keeps it any more.

    Moments of an undo share most of their values, so that a sum over all of them would count these again and
    again, or take longer than the work itself.
    """

    def __init__(self) -> None:
        self.num_bytes = 0
        self._counted: set[int] = set()

    def keep(self, value: object) -> None:
        """Count the tensors and arrays of a dataclass, those in its fields' dataclasses too, once each."""
        for part in _parts(value):
            if id(part) not in self._counted:
                self._counted.add(id(part))
                self.num_bytes += part.nbytes
                weakref.finalize(part, self._release, id(part), part.nbytes).atexit = False

    def _release(self, number: int, num_bytes: int) -> None:
        self._counted.discard(number)
        self.num_bytes -= num_bytes


def _parts(value: object) -> Iterator[Tensor | np.ndarray]:
    if isinstance(value, (Tensor, np.ndarray)):
        yield value
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from _parts(getattr(value, field.name))


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
        self.retained = RetainedBytes()
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
        return normalise(upload(pixels[None], self.runtime.device))

    def greys(self, view: View, slice_index: int) -> Tensor:
        """A view of a slice without colour, 0 to 1, `(1, S, S)`; beyond either end, the last slice there."""
        key = (view, min(max(slice_index, 0), self.num_slices - 1))
        if key not in self._greys:
            size = self.runtime.network.config.image_size
            plane = resample_slice(self.grey(key[1]), view, size, filter=Image.Resampling.BILINEAR)
            greys = upload(torch.from_numpy(plane.astype(np.float32) / 255)[None], self.runtime.device)
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
        self.retained.keep(features)
        room = max(1, self.cache_bytes // _num_bytes(features))
        while len(self._cache) > room:
            self._cache.popitem(last=False)
        return features.to(torch.float32)


def _num_bytes(features: ImageFeatures) -> int:
    return sum(level.nbytes for level in (features.level0, features.level1, features.level2))
