"""Register two scans of a patient: where does a place of the second scan lie in the first one?

SimpleITK does the work. Its ImageRegistrationMethod finds a rigid motion by the mutual information of both
scans, and its symmetric demons bend the first scan from there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import SimpleITK
from scipy import ndimage

from medsam2.errors import InputError
from medsam2.imaging.formats.itk import as_itk, quiet_itk
from medsam2.imaging.intensity import Window, to_uint8
from medsam2.imaging.volume import Volume

MOST_VOXELS = 600_000
"""Of the scans that are compared; larger ones are sampled more coarsely."""
FEWEST_VOXELS = 4
"""Along each axis of both scans: ITK smooths over so many."""
SMOOTH_MM = 8.0
"""How smooth the bending is. Of 5, 8 and 12 mm this one put masks of organs and tumours best."""

MOST_LABELS = 255

_MARGIN = 3  # voxels around a mask, to which interpolation may reach
_SAMPLES = 10_000  # voxels that the rigid motion is judged by; 40 000 gave the same one
_SEED = 1
_BINS = 32
_LEAST_INSIDE = 100  # voxels that both scans share, to compare them at all
_LEAST_SHARE = 0.05  # of a voxel that an object must fill to be there
_ALIKE = 0.8
"""Correlation from which on two scans have the same contrast, so that a higher one is a better one."""
_BEND_STEPS = (30, 20)  # on coarse and on fine voxels


@dataclass(frozen=True, kw_only=True)
class Similarity:
    """How alike two scans are where they overlap."""

    correlation: float
    """Of their greys, -1 to 1."""
    information: float
    """Normalised mutual information, 0 to 1, which scans of other contrast have as well."""
    overlap: float
    """Share of the second scan's voxels that the first scan covers."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Alignment:
    """What a registration found."""

    transform: SimpleITK.Transform
    """From places in the second scan to those in the first one, LPS in mm."""
    before: Similarity
    """With the places as both files give them."""
    after: Similarity
    is_bent: bool
    """Whether the scan was bent after the rigid motion."""
    shift_mm: float
    """How far the middle of the second scan was moved."""
    turn_deg: float
    """By how much it was turned."""

    def carry(self, mask: npt.NDArray[np.bool_], first: Volume, second: Volume) -> npt.NDArray[np.bool_]:
        """Carry a mask of the first scan over to the second one.

        Args:
            mask: Boolean `(z, y, x)` on the first scan's grid.
            first: The first scan.
            second: The second scan.

        Returns:
            Boolean `(z, y, x)` on the second scan's grid; empty if the object lies outside of it.
        """
        shares = resampled(first.with_array(mask.astype(np.float32)), second, self.transform)
        # An object of few voxels may fill none of the new ones by half.
        highest = float(shares.max())
        return np.asarray(shares >= 0.5 * highest if highest > _LEAST_SHARE else np.zeros(second.shape, bool))


def carry_all(
    alignment: Alignment, masks: Mapping[int, npt.NDArray[np.bool_]], first: Volume, second: Volume
) -> dict[int, npt.NDArray[np.bool_]]:
    """Carry masks over as `Alignment.carry` does, but look for each one only where it lies.

    Args:
        alignment: Of both scans.
        masks: By number, 1 to 255, boolean `(z, y, x)` on the first scan's grid.
        first: The first scan.
        second: The second scan.

    Returns:
        By number, boolean `(z, y, x)` on the second scan's grid.
    """
    labels = np.zeros(first.shape, np.uint8)
    for number, mask in masks.items():
        labels[mask] = number
    nearest = SimpleITK.sitkNearestNeighbor
    rough = resampled(first.with_array(labels), second, alignment.transform, how=nearest).astype(np.uint8)
    found: list[tuple[slice, ...] | None] = list(ndimage.find_objects(rough, max_label=MOST_LABELS))
    carried = {}
    for number, mask in masks.items():
        box = found[number - 1]
        if box is None:  # outside, smaller than a voxel, or hidden by another one
            carried[number] = alignment.carry(mask, first, second)
            continue
        part = tuple(slice(max(0, side.start - _MARGIN), side.stop + _MARGIN) for side in box)
        shift = np.eye(4)
        shift[:3, 3] = [side.start for side in reversed(part)]
        there = Volume(second.array[part], second.affine @ shift)
        carried[number] = np.zeros(second.shape, bool)
        carried[number][part] = alignment.carry(mask, first, there)
    return carried


def resampled(
    first: Volume,
    second: Volume,
    transform: SimpleITK.Transform | None,
    outside: float = 0.0,
    *,
    how: int = SimpleITK.sitkLinear,
) -> npt.NDArray[np.float32]:
    """Sample a first scan on the second one's grid.

    Args:
        first: The first scan.
        second: The second scan.
        transform: Of an `Alignment`; None takes places as both files give them.
        outside: The value where the first scan has nothing.
        how: SimpleITK's interpolator.

    Returns:
        float32 `(z, y, x)` on the second scan's grid.
    """
    image = SimpleITK.Cast(as_itk(first), SimpleITK.sitkFloat32)
    grid = as_itk(second.with_array(np.zeros(second.shape, np.uint8)))
    found = SimpleITK.Resample(
        image, grid, transform or SimpleITK.Transform(3, SimpleITK.sitkIdentity), how, outside
    )
    return np.asarray(SimpleITK.GetArrayFromImage(found))


def register(
    first: Volume, second: Volume, windows: Sequence[Window], *, is_rigid: bool = False
) -> Alignment:
    """Find the places of a second scan in the first one.

    The same scans always give the same result. Contrast and modality may differ for the rigid motion. The
    bending needs alike contrasts: it is dropped where it does not raise the mutual information.

    Args:
        first: The first scan.
        second: The second scan.
        windows: Of the first and of the second one; greys outside do not count.
        is_rigid: Leave the bending out.

    Raises:
        InputError: A scan has too few voxels along an axis, or a grid that ITK does not take.
    """
    for name, volume in (("baseline", first), ("follow-up", second)):
        if min(volume.shape) < FEWEST_VOXELS:
            raise InputError(
                f"the {name} has {volume.shape} voxels (z, y, x); a registration needs at least "
                f"{FEWEST_VOXELS} along each axis"
            )
    with quiet_itk():
        try:
            moving, fixed = (
                _grey_image(volume, window) for volume, window in zip((first, second), windows, strict=True)
            )
            rigid = _rigid(fixed, moving)
        except RuntimeError as error:
            words = str(error).strip().splitlines()[-1]
            raise InputError(f"the scans cannot be registered: {words}") from error
        transform: SimpleITK.Transform = rigid
        after = _similarity(fixed, moving, rigid)
        bent = None if is_rigid else _bend(fixed, moving, rigid)
        if bent is not None:
            then = _similarity(fixed, moving, bent)
            if then.information > after.information or then.correlation > max(after.correlation, _ALIKE):
                transform, after = bent, then
        middle = fixed.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in fixed.GetSize()])
        matrix = np.reshape(rigid.GetMatrix(), (3, 3))
        return Alignment(
            transform=transform,
            before=_similarity(fixed, moving, SimpleITK.Transform(3, SimpleITK.sitkIdentity)),
            after=after,
            is_bent=transform is bent,
            shift_mm=float(np.linalg.norm(np.subtract(rigid.TransformPoint(middle), middle))),
            turn_deg=float(np.rad2deg(np.arccos(np.clip((np.trace(matrix) - 1) / 2, -1, 1)))),
        )


def _grey_image(volume: Volume, window: Window) -> SimpleITK.Image:
    """A volume's greys, 0 to 255, on voxels that are coarse enough."""
    image = SimpleITK.Cast(as_itk(volume.with_array(to_uint8(volume.array, window))), SimpleITK.sitkFloat32)
    spacing, size = np.array(image.GetSpacing()), np.array(image.GetSize())
    step, target = spacing, float(spacing.min())
    while np.prod(size * spacing / step) > MOST_VOXELS:
        target *= 1.05
        step = np.maximum(spacing, np.minimum(target, (size - 1) * spacing / (FEWEST_VOXELS - 1)))
    return image if (step == spacing).all() else _coarser(image, step)


def _coarser(image: SimpleITK.Image, step: npt.NDArray[np.float64]) -> SimpleITK.Image:
    """Sample an image with larger steps, in mm, after smoothing it along those axes."""
    spacing, size = np.array(image.GetSpacing()), np.array(image.GetSize())
    smooth = SimpleITK.DiscreteGaussian(image, np.where(step > spacing, (0.4 * step) ** 2, 0).tolist())
    fewer = np.floor((size - 1) * spacing / step + 1e-6).astype(int) + 1
    return SimpleITK.Resample(
        smooth, fewer.tolist(), SimpleITK.Transform(), SimpleITK.sitkLinear, image.GetOrigin(), step.tolist(),
        image.GetDirection(), 0.0, SimpleITK.sitkFloat32,
    )  # fmt: skip


def _similarity(
    fixed: SimpleITK.Image, moving: SimpleITK.Image, transform: SimpleITK.Transform
) -> Similarity:
    # A grey below all others says where the moving image has nothing.
    carried = SimpleITK.GetArrayFromImage(
        SimpleITK.Resample(moving, fixed, transform, SimpleITK.sitkLinear, -1.0)
    )
    inside = carried >= 0
    overlap = float(inside.mean())
    first, second = SimpleITK.GetArrayViewFromImage(fixed)[inside], carried[inside]
    if inside.sum() < _LEAST_INSIDE or first.std() == 0 or second.std() == 0:
        return Similarity(correlation=0.0, information=0.0, overlap=overlap)
    joint = np.histogram2d(first, second, bins=_BINS)[0] / first.size
    both, one, other = (-(p[p > 0] * np.log(p[p > 0])).sum() for p in (joint, joint.sum(0), joint.sum(1)))
    return Similarity(
        correlation=float(np.corrcoef(first, second)[0, 1]),
        information=float(2 * (1 - both / (one + other))),
        overlap=overlap,
    )


def _rigid(fixed: SimpleITK.Image, moving: SimpleITK.Image) -> SimpleITK.Euler3DTransform:
    """Try three starts on coarse voxels, and go on from the best one on finer ones.

    The starts are the coordinates of the files, both middles on each other, and both centres of mass on each
    other: two visits need not share their coordinates.
    """
    as_filed = SimpleITK.Euler3DTransform()
    as_filed.SetCenter(fixed.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in fixed.GetSize()]))
    kinds = SimpleITK.CenteredTransformInitializerFilter
    starts = [as_filed]
    for kind in (kinds.GEOMETRY, kinds.MOMENTS):
        start = SimpleITK.CenteredTransformInitializer(fixed, moving, SimpleITK.Euler3DTransform(), kind)
        starts.append(SimpleITK.Euler3DTransform(start))
    factors = [factor for factor in (4, 2) if min(fixed.GetSize()) // factor >= FEWEST_VOXELS] or [1]
    found = [end for end in (_moved(fixed, moving, start, factors[:1]) for start in starts) if end]
    if not found:
        return as_filed  # no start overlaps: `Similarity.overlap` says so
    best = _most_alike(fixed, moving, found)
    finer = _moved(fixed, moving, best, factors[1:]) if factors[1:] else None
    return _most_alike(fixed, moving, [as_filed, *starts[1:], best, *([finer] if finer else [])])


def _most_alike(
    fixed: SimpleITK.Image, moving: SimpleITK.Image, motions: Sequence[SimpleITK.Euler3DTransform]
) -> SimpleITK.Euler3DTransform:
    return max(motions, key=lambda motion: _worth(_similarity(fixed, moving, motion)))


def _worth(similarity: Similarity) -> float:
    """A small overlap may look alike by chance."""
    return similarity.information * min(1.0, 2 * similarity.overlap)


def _moved(
    fixed: SimpleITK.Image, moving: SimpleITK.Image, start: SimpleITK.Euler3DTransform, factors: Sequence[int]
) -> SimpleITK.Euler3DTransform | None:
    """Look for the rigid motion near a start; None if the images lose each other."""
    method = SimpleITK.ImageRegistrationMethod()
    method.SetNumberOfThreads(1)  # sums of several threads depend on their order
    method.SetMetricAsMattesMutualInformation(_BINS)
    method.SetMetricSamplingStrategy(method.RANDOM)
    num_voxels = fixed.GetNumberOfPixels()
    shares = [min(1.0, _SAMPLES * factor**3 / num_voxels) for factor in factors]
    method.SetMetricSamplingPercentagePerLevel(shares, _SEED)
    method.SetInterpolator(SimpleITK.sitkLinear)
    method.SetShrinkFactorsPerLevel(list(factors))
    method.SetSmoothingSigmasPerLevel([0.5 * factor if factor > 1 else 0.0 for factor in factors])
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOff()
    method.SetOptimizerAsRegularStepGradientDescent(4.0, 0.02, 60)
    method.SetOptimizerScalesFromPhysicalShift()
    transform = SimpleITK.Euler3DTransform(start)
    method.SetInitialTransform(transform, inPlace=True)
    try:
        method.Execute(fixed, moving)
    except RuntimeError:
        return None
    return transform


def _bend(
    fixed: SimpleITK.Image, moving: SimpleITK.Image, rigid: SimpleITK.Euler3DTransform
) -> SimpleITK.Transform | None:
    """Bend the moving image after a rigid motion, on voxels twice as large first; None if that fails."""
    field = None
    for factor, num_steps in zip((2, 1), _BEND_STEPS, strict=True):
        # Thick slices stay as they are: of few, every one counts.
        step = [
            spacing * factor if size >= 8 * FEWEST_VOXELS * factor else spacing
            for spacing, size in zip(fixed.GetSpacing(), fixed.GetSize(), strict=True)
        ]
        target = fixed if factor == 1 else _coarser(fixed, np.array(step))
        carried = SimpleITK.Resample(moving, target, rigid, SimpleITK.sitkLinear, 0.0)
        carried = SimpleITK.HistogramMatching(carried, target, 256, 16, True)
        demons = SimpleITK.FastSymmetricForcesDemonsRegistrationFilter()
        demons.SetNumberOfIterations(num_steps)
        demons.SetSmoothDisplacementField(True)
        demons.SetStandardDeviations([SMOOTH_MM / spacing for spacing in target.GetSpacing()])
        try:
            if field is None:
                field = demons.Execute(target, carried)
            else:
                field = demons.Execute(target, carried, SimpleITK.Resample(field, target))
        except RuntimeError:
            return None
    bending = SimpleITK.DisplacementFieldTransform(SimpleITK.Cast(field, SimpleITK.sitkVectorFloat64))
    return SimpleITK.CompositeTransform([rigid, bending])
