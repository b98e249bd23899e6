"""Two classical methods that take the same prompts as the network, for an honest comparison."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from medsam2.errors import InputError
from medsam2.evaluation.cases import STILL_AXIS
from medsam2.imaging.geometry import restore_axes, slices_along
from medsam2.imaging.intensity import Window, resolve_window, to_uint8
from medsam2.imaging.labels import bounding_box
from medsam2.imaging.volume import Volume
from medsam2.inference.job import Job
from medsam2.prompts.types import Box

# Settings of the random walker, chosen by hand on the development cases, so that it is a fair peer.
_BETA = 3000.0  # how much an edge hinders the walk
_SOLVER = "bf"  # direct: skimage's iterative ones do not converge for all slices at this beta
_INNER = 0.7  # size of the ellipse of inner seeds, as a part of the one that fills the box
_OUTER = 1.35  # the box's corners, from this radius of that ellipse on, are outer seeds
_DEPTH = 0.4  # how deep inner seeds lie in the previous slice's mask, as a part of its greatest depth
_GROWTH = 0.3  # how far a mask may grow from slice to slice, as a part of that depth ...
_LEAST_GROWTH_PX = 2.0  # ... and at least
_SPREAD = 1.5  # inner seeds are as grey as the object in the key slice, within so many deviations
_LEAST_SPREAD = 8.0  # greys, for objects that are all alike
_LEAST_SHARE = 0.5  # of the inner seeds must be as grey as the object, or it has ended


class EllipsoidSegmenter:
    """Fills the ellipse of the box, and the matching ellipsoid above and below it. It ignores the image.

    The ellipsoid's third semi-axis is, in mm, the mean of the two that the box gives: the object is taken to
    be as deep as it is wide and high, and ends after as many slices as that depth has. In a picture the
    mask is the ellipse.
    """

    def segment(self, job: Job) -> Volume:
        """Return the ellipsoid of a job's box on the volume's grid, uint8; see `simulated_user.BoxMethod`.

        Raises:
            PromptError: The box or the slice does not lie in the volume.
        """
        given = _read(job)
        slices, box = given.slices, given.box
        steps = given.volume.spacing
        step_x, step_y = (step for axis, step in enumerate(steps) if axis != given.axis)
        semi_x, semi_y = _semi_axes(box)
        depth_mm = (semi_x * step_x + semi_y * step_y) / 2
        heights = (np.arange(len(slices)) - given.key_slice) * steps[given.axis] / depth_mm
        radius = _ellipse_radius(box, slices.shape[1:])
        return given.as_mask(radius**2 + heights[:, None, None] ** 2 <= 1)


class RandomWalkerSegmenter:
    """Grady's random walker, from slice to slice.

    In the key slice the middle of the box is the seed of the object; everything outside the box, and its
    corners, are the seed of the background. In each next slice the core of the previous mask, where it has
    the greys of the object, is the seed of the object; what lies well away from that mask is the seed of the
    background. The object has ended where too little of the core has those greys.

    Raises:
        InputError: scikit-image is not installed.
    """

    def __init__(self) -> None:
        try:
            segmentation = importlib.import_module("skimage.segmentation")
        except ImportError as error:
            raise InputError("the random walker needs scikit-image: pip install scikit-image") from error
        self._random_walker: Callable[..., np.ndarray] = segmentation.random_walker

    def segment(self, job: Job) -> Volume:
        """Return the mask of what is in a job's box on the volume's grid, uint8.

        Raises:
            PromptError: The box or the slice does not lie in the volume.
            InputError: The volume or the window is not usable.
        """
        given = _read(job)
        slices, box, key = given.slices, given.box, given.key_slice
        limits = resolve_window(given.volume, job.window)
        greys = to_uint8(slices[key], limits)
        radius = _ellipse_radius(box, greys.shape)
        found = np.zeros(slices.shape, bool)
        found[key] = self._walk(greys, radius <= _INNER, _outside(box, greys.shape) | (radius > _OUTER))
        look = _Look.of(greys[found[key]])
        for indices in (range(key + 1, len(slices)), range(key - 1, -1, -1)):
            self._propagate(slices, indices, found, look, limits)
        return given.as_mask(found)

    def _propagate(
        self, slices: np.ndarray, indices: range, found: np.ndarray, look: "_Look", limits: Window
    ) -> None:
        """Fill `found`, (z, y, x), slice by slice until the object has ended."""
        for index in indices:
            previous = found[index - indices.step]
            greys = to_uint8(slices[index], limits)
            depth = ndimage.distance_transform_edt(np.pad(previous, 1))[1:-1, 1:-1]
            core = depth > _DEPTH * depth.max()
            inside = core & look.fits(greys)
            if np.count_nonzero(inside) <= _LEAST_SHARE * np.count_nonzero(core):
                return
            growth = max(_LEAST_GROWTH_PX, _GROWTH * float(depth.max()))
            found[index] = self._walk(greys, inside, ndimage.distance_transform_edt(~previous) > growth)

    def _walk(self, greys: np.ndarray, inside: np.ndarray, outside: np.ndarray) -> np.ndarray:
        """Return the pixels that a random walker, hindered by edges, links to the seeds inside.

        Args:
            greys: uint8, (y, x).
            inside: Boolean, seeds of the object.
            outside: Boolean, seeds of the background.
        """
        undecided = bounding_box(~outside)
        found = inside & ~outside
        if undecided is None or not found.any() or not outside.any():
            return found
        # A frame of outer seeds is all that the rest of the slice can add.
        part = tuple(slice(max(0, side.start - 2), side.stop + 2) for side in undecided)
        seeds = np.where(found, 1, np.where(outside, 2, 0))[part]
        if seeds.all() or not (seeds == 2).any() or np.ptp(greys[part]) == 0:
            return found
        found[part] = self._random_walker(greys[part], seeds, beta=_BETA, mode=_SOLVER) == 1
        return found


@dataclass(frozen=True)
class _Look:
    """The greys of an object."""

    middle: float
    spread: float

    @classmethod
    def of(cls, greys: np.ndarray) -> "_Look":
        if not greys.size:
            return cls(0.0, 0.0)
        return cls(float(np.median(greys)), max(_SPREAD * float(greys.std()), _LEAST_SPREAD))

    def fits(self, greys: np.ndarray) -> np.ndarray:
        return np.abs(greys.astype(np.float64) - self.middle) <= self.spread


@dataclass(frozen=True, kw_only=True, eq=False)
class _Given:
    """What a job with one box gives."""

    volume: Volume
    axis: int
    slices: np.ndarray
    """(slice, y, x)."""
    key_slice: int
    box: Box

    def as_mask(self, found: np.ndarray) -> Volume:
        """Return a mask (slice, y, x) on the volume's grid."""
        array = restore_axes(found, self.axis)
        return self.volume.with_array(np.ascontiguousarray(array, dtype=np.uint8))


def _read(job: Job) -> _Given:
    """Take a job apart: one box in an open volume, along an axis of the file."""
    assert isinstance(job.image, Volume)
    assert not callable(job.objects)
    ((prompt,),) = job.objects.values()
    axis = STILL_AXIS if job.axis is None else job.axis
    slices = slices_along(job.image.array, axis)
    num_slices, height, width = slices.shape
    prompt.checked((num_slices, height, width))
    assert prompt.box is not None
    return _Given(volume=job.image, axis=axis, slices=slices, key_slice=prompt.slice_index, box=prompt.box)


def _semi_axes(box: Box) -> tuple[float, float]:
    """Return half the width and half the height, both ends counted, in pixels."""
    return (box.x_max - box.x_min + 1) / 2, (box.y_max - box.y_min + 1) / 2


def _ellipse_radius(box: Box, shape_yx: tuple[int, ...]) -> np.ndarray:
    """Return the distance of pixels from the middle of the box, 1 on its ellipse; (y, x), float64."""
    (center_x, center_y), (semi_x, semi_y) = box.center_xy, _semi_axes(box)
    y, x = np.ogrid[: shape_yx[0], : shape_yx[1]]
    return np.asarray(np.hypot((x - center_x) / semi_x, (y - center_y) / semi_y))


def _outside(box: Box, shape_yx: tuple[int, ...]) -> np.ndarray:
    """Return the pixels outside the box, boolean (y, x)."""
    y, x = np.ogrid[: shape_yx[0], : shape_yx[1]]
    is_in_x = (x >= np.floor(box.x_min)) & (x <= np.ceil(box.x_max))
    is_in_y = (y >= np.floor(box.y_min)) & (y <= np.ceil(box.y_max))
    return np.asarray(~(is_in_x & is_in_y))
