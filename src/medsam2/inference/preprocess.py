"""From a grey slice to the network's input."""

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
    """Cut a view out of a slice `(y, x)`, zero where it reaches beyond the edge."""
    top, bottom, left, right = view.bounds(plane.shape)
    part = plane[top:bottom, left:right]
    if part.shape == (view.height, view.width):
        return part
    padded = np.zeros((view.height, view.width), dtype=plane.dtype)
    padded[top - view.y : bottom - view.y, left - view.x : right - view.x] = part
    return padded


def resample_slice(plane: npt.NDArray[np.uint8], view: View, size: int) -> npt.NDArray[np.uint8]:
    """Resample a view of a slice `(y, x)` to `(size, size)` by Pillow's 8-bit bicubic filter.

    One grey channel gives exactly what three equal ones would, as the reference resizes them.
    """
    part = cut(plane, view)
    if part.shape == (size, size):
        return np.ascontiguousarray(part)
    resized = Image.fromarray(np.ascontiguousarray(part)).resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(resized)


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
    """Turn grey images `(B, S, S)`, 0..255, into the network's input `(B, 3, S, S)`."""
    mean = torch.tensor(PIXEL_MEAN, device=images.device)[:, None, None]
    std = torch.tensor(PIXEL_STD, device=images.device)[:, None, None]
    return (images[:, None].float() / 255 - mean) / std
