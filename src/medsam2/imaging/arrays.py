"""Images as other libraries hold them become volumes, and masks become what the image was.

A library is never imported here: an object of a library can only come from a caller who has imported it. So
`sys.modules` tells whether there is anything to look for.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import numpy as np

from medsam2.errors import GeometryError, InputError
from medsam2.imaging.formats import nifti
from medsam2.imaging.formats.itk import as_itk
from medsam2.imaging.geometry import flip_ras_lps
from medsam2.imaging.io import read
from medsam2.imaging.volume import Volume

_ACCEPTED = (
    "a Volume, a path, a numpy array (z, y, x), a nibabel image, a SimpleITK image or a MONAI MetaTensor"
)


def as_volume(image: Any, *, spacing: Sequence[float] | None = None) -> Volume:
    """Make a volume of an image of any kind that we know; the voxels keep their order.

    Args:
        image: A `Volume`, which is returned as it is; a path, which `read` reads; a numpy array `(z, y, x)`;
            a nibabel image, whose arrays are `(x, y, z)`; a SimpleITK image; a MONAI MetaTensor `(x, y, z)`
            or `(1, x, y, z)` with its affine.
        spacing: `(x, y, z)` in mm, of a numpy array alone; 1 mm without it. Every other kind has its own.

    Raises:
        InputError: The image is of another kind, or has not one number per voxel in 3 dimensions.
        GeometryError: Its grid is impossible.
    """
    if isinstance(image, np.ndarray):
        return Volume.from_array(image, _checked(spacing))
    if spacing is not None:
        raise InputError(
            f"spacing is for a numpy array; a {type(image).__name__} has its own, so leave spacing out"
        )
    if isinstance(image, Volume):
        return image
    if isinstance(image, (str, os.PathLike)):
        return read(image)
    if _is_a(image, "nibabel.spatialimages", "SpatialImage"):
        return nifti.from_nibabel(image)
    if _is_a(image, "SimpleITK", "Image"):
        return _from_simpleitk(image)
    if _is_a(image, "monai.data.meta_tensor", "MetaTensor"):
        return _from_metatensor(image)
    hint = ""
    if _is_a(image, "torch", "Tensor"):
        hint = "; a tensor does not say the order of its axes: give tensor.numpy(), turned to (z, y, x)"
    raise InputError(f"an image is {_ACCEPTED}, not {type(image).__name__}{hint}")


def same_kind(volume: Volume, image: Any) -> Any:
    """Return a volume, a mask for example, as the kind of object that an image on the same grid is.

    Args:
        volume: With the voxels in the image's order.
        image: What `as_volume` takes.

    Returns:
        For a numpy array an array `(z, y, x)`. For a nibabel image a NIfTI image with the same affine, codes
        and units, and none of the texts that can name a patient. For a SimpleITK image one with the same
        grid. For a MetaTensor one of the same shape, device, affine, meta data and applied operations, so
        that MONAI can invert its transforms. For a `Volume` or a path, the volume itself.

    Raises:
        GeometryError: The image has another shape.
        InputError: The image is of a kind that we do not know.
    """
    if isinstance(image, (Volume, str, os.PathLike)):
        return volume
    array = volume.array
    if isinstance(image, np.ndarray):
        _check_shape(volume, image.shape)
        return array
    if _is_a(image, "nibabel.spatialimages", "SpatialImage"):
        _check_shape(volume, (*image.shape, 1)[2::-1])
        return nifti.as_nibabel(volume, image.shape)
    if _is_a(image, "SimpleITK", "Image"):
        _check_shape(volume, (*image.GetSize(), 1)[2::-1])
        made = as_itk(volume)
        return made[:, :, 0] if image.GetDimension() == 2 else made
    if _is_a(image, "monai.data.meta_tensor", "MetaTensor"):
        _check_shape(volume, tuple(image.shape[-3:])[::-1])
        xyz = sys.modules["torch"].from_numpy(np.ascontiguousarray(array.T)).reshape(image.shape)
        made = type(image)(xyz.to(image.device), meta=deepcopy(image.meta))  # the affine is in it
        made.applied_operations = list(image.applied_operations)
        return made
    raise InputError(f"an image is {_ACCEPTED}, not {type(image).__name__}")


def _is_a(image: object, module: str, name: str) -> Any:
    """Whether an object is an instance of a class of a module that may not have been imported."""
    kind = getattr(sys.modules.get(module), name, None)
    return kind is not None and isinstance(image, kind)


def _checked(spacing: Sequence[float] | None) -> tuple[float, float, float]:
    try:
        x_mm, y_mm, z_mm = (1.0, 1.0, 1.0) if spacing is None else (float(step) for step in spacing)
    except (TypeError, ValueError):
        raise InputError(f"spacing is three numbers (x, y, z) in mm, not {spacing!r}") from None
    return x_mm, y_mm, z_mm


def _check_shape(volume: Volume, shape: tuple[int, ...]) -> None:
    if volume.shape != shape:
        raise GeometryError(
            f"a mask of shape {volume.shape} does not fit an image of shape {shape} (z, y, x)"
        )


def _from_simpleitk(image: Any) -> Volume:
    num_dims, num_components = image.GetDimension(), image.GetNumberOfComponentsPerPixel()
    if num_dims not in (2, 3) or num_components != 1:
        raise InputError(
            f"this SimpleITK image has {num_dims} dimensions and {num_components} numbers per voxel; "
            "3 and 1 are expected"
        )
    array = sys.modules["SimpleITK"].GetArrayFromImage(image)
    spacing, origin, direction = image.GetSpacing(), image.GetOrigin(), image.GetDirection()
    if num_dims == 2:
        a, b, c, d = direction
        array, spacing, origin = array[np.newaxis], (*spacing, 1.0), (*origin, 0.0)
        direction = (a, b, 0.0, c, d, 0.0, 0.0, 0.0, 1.0)
    return Volume.from_array(array, spacing, origin, direction)


def _from_metatensor(image: Any) -> Volume:
    shape = tuple(image.shape)
    if len(shape) not in (3, 4) or (len(shape) == 4 and shape[0] != 1):
        raise InputError(
            f"this MetaTensor has the shape {shape}; (x, y, z) or (1, x, y, z) is expected, so give one "
            "channel of one image"
        )
    tensor = image.as_tensor().detach().cpu()
    if tensor.dtype is sys.modules["torch"].bfloat16:  # which numpy does not know
        tensor = tensor.float()
    affine = np.asarray(image.affine.cpu(), dtype=np.float64)
    if affine.shape == (4, 4) and str(image.meta.get("space", "RAS")).upper() in ("LPS", "SPACEKEYS.LPS"):
        affine = flip_ras_lps(affine)
    return Volume(np.ascontiguousarray(tensor.numpy().reshape(shape[-3:]).T), affine)
