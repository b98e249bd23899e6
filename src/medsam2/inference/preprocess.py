"""From a slice, or a frame in colour, to the network's input."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812
from PIL import Image
from torch import Tensor

from medsam2.inference.zoom import View

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


def normalise(images: Tensor) -> Tensor:
    """Turn greys `(B, S, S)` or colours `(B, S, S, 3)`, 0..255, into the network's input `(B, 3, S, S)`."""
    mean = torch.tensor(PIXEL_MEAN, device=images.device)[:, None, None]
    std = torch.tensor(PIXEL_STD, device=images.device)[:, None, None]
    channels = images[:, None] if images.ndim == 3 else images.permute(0, 3, 1, 2)
    return (channels.float() / 255 - mean) / std
