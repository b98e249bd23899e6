"""Measure how well two masks agree, with the distances of MONAI."""

from __future__ import annotations

import importlib
import warnings
from dataclasses import dataclass
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from medsam2.errors import GeometryError, InputError
from medsam2.imaging.labels import bounding_box
from medsam2.measure.overlap import dice

TOLERANCE = 2.0
"""How far a surface may be off and still count as right, in mm; in pixels where there are no mm."""

# Spacings come with the rounding of their header: 4 steps of 0.50000001 mm are meant to be 2 mm.
_ROUNDING = 1e-4
_MARGIN = 1  # one layer of background shows the surface; more changes nothing


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How well two masks agree."""

    dice: float
    """0 to 1; 1 if both are empty, 0 if one is."""
    surface_dice: float
    """Share of both surfaces that lies within the tolerance of the other one; 1 and 0 as for Dice."""
    strict_surface_dice: float
    """The same at half the tolerance."""
    hd95: float
    """95th percentile of the distance from one surface to the other, the larger of the two directions, in the
    unit of the spacing; 0 if both are empty, infinite if one is."""
    assd: float
    """Mean distance from each surface to the other, over both surfaces; 0 and infinite as for HD95."""


def measure(
    predicted: np.ndarray,
    truth: np.ndarray,
    spacing: tuple[float, float, float],
    *,
    tolerance: float = TOLERANCE,
) -> Agreement:
    """Compare two masks of a scan.

    A surface is the voxels that have a face in common with the outside or with the end of the scan; distances
    run between voxel centres, and each surface voxel counts once. A scan of one slice has outlines instead,
    which are compared in 2D.

    Args:
        predicted: Boolean, (z, y, x).
        truth: Boolean, of the same shape.
        spacing: Distance between voxel centres, (x, y, z), in mm, or (1, 1, 1) to measure in pixels.
        tolerance: Of the surface Dice, in the unit of the spacing.

    Raises:
        GeometryError: The shapes differ or are not 3D.
        InputError: MONAI is not installed.
    """
    if predicted.shape != truth.shape or truth.ndim != 3:
        raise GeometryError(
            f"masks of shapes {predicted.shape} and {truth.shape} cannot be compared; "
            "both must have one and the same (z, y, x)"
        )
    box = bounding_box(predicted | truth)
    if box is None:
        return Agreement(dice=1.0, surface_dice=1.0, strict_surface_dice=1.0, hd95=0.0, assd=0.0)
    if not predicted.any() or not truth.any():
        far = float("inf")
        return Agreement(dice=0.0, surface_dice=0.0, strict_surface_dice=0.0, hd95=far, assd=far)
    part = tuple(slice(max(0, side.start - _MARGIN), side.stop + _MARGIN) for side in box)
    steps = spacing[::-1]  # MONAI's spacing follows the array's axes
    # In 3D every voxel of a single slice lies at the end of the scan and would be surface.
    flat = next((axis for axis, size in enumerate(truth.shape) if size == 1), None)
    if flat is not None:
        predicted, truth = predicted.squeeze(flat), truth.squeeze(flat)
        part, steps = (tuple(np.delete(np.array(values, object), flat)) for values in (part, steps))
    ours, theirs = _as_tensor(predicted[part]), _as_tensor(truth[part])
    monai = load_monai()
    with warnings.catch_warnings():
        # MONAI 1.6 calls itself with an argument that it has deprecated.
        warnings.filterwarnings("ignore", ".*always_return_as_numpy", FutureWarning)
        loose, strict = (
            monai.compute_surface_dice(
                ours, theirs, [limit + _ROUNDING], include_background=True, spacing=steps
            )
            for limit in (tolerance, tolerance / 2)
        )
        hd95 = monai.compute_hausdorff_distance(
            ours, theirs, include_background=True, percentile=95, spacing=steps
        )
        assd = monai.compute_average_surface_distance(
            ours, theirs, include_background=True, symmetric=True, spacing=steps
        )
    return Agreement(
        dice=dice(predicted, truth),
        surface_dice=float(loose),
        strict_surface_dice=float(strict),
        hd95=float(hd95),
        assd=float(assd),
    )


def load_monai() -> ModuleType:
    """Import MONAI's metrics, which takes seconds.

    Raises:
        InputError: It is not installed.
    """
    try:
        return importlib.import_module("monai.metrics")
    except ImportError as error:
        raise InputError("evaluation needs MONAI: pip install 'medsam2[evaluate]'") from error


def _as_tensor(mask: np.ndarray) -> Tensor:
    """Return a mask as MONAI wants it, with axes for a batch and for classes."""
    return torch.from_numpy(np.ascontiguousarray(mask))[None, None].float()
