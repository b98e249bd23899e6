"""Turn what a viewer's user did into prompts on slices, along the axis that the object is followed.

Viewers let people draw in any of three views. Our networks follow an object along one axis. So what is drawn
on a slice of that axis becomes a prompt of the slice, and what is drawn across becomes clicks on some of the
slices that it crosses.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import dijkstra

from medsam2.imaging.volume import Volume
from medsam2.prompts.simulate import center_point, largest_part
from medsam2.prompts.types import Box, MaskPrompt, Point, Prompt
from medsam2.serving.viewers.interactions import Click, Drawing, Interaction, Mask, Region, Voxel

MOST_CLICKS = 5
"""Of one stroke, or slices of one that crosses them."""
_FEWEST_CLICKS = 3
_SHORT_STROKE = 5  # pixels: shorter ones are one click
_PIXELS_A_CLICK = 20  # of a stroke's length
_THICKER = 1.5  # times the next spacing: then slices lie along this axis


@dataclass(frozen=True, kw_only=True, eq=False)
class Translation:
    """What an interaction asks for."""

    prompts: tuple[Prompt, ...] = ()
    """With slices of the object's axis."""
    limits: tuple[int, int] | None = None
    """The first and the last slice that the object may reach."""
    emptied: tuple[int, ...] = ()
    """Slices in which nothing of the object is left."""
    waiting: tuple[Voxel, ...] = ()
    """Places outside the object, given before it is known where it is."""

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to do with the object."""
        return not (self.prompts or self.limits or self.emptied)


def axis_of(interaction: Interaction, volume: Volume) -> int:
    """Choose the axis of the array along which a new object is followed.

    Args:
        interaction: The first one about the object.
        volume: The image, in the viewer's axis order.

    Returns:
        The one axis that a drawing has no extent along; else that of a single slice, or that of the thickest
        slices where they are clearly thicker; else 0.
    """
    if not isinstance(interaction, Click):
        flat = [axis for axis, extent in enumerate(interaction.extents) if extent == 1]
        if len(flat) == 1:
            return flat[0]
    single = [axis for axis, size in enumerate(volume.shape) if size == 1]
    if single:
        return single[0]
    spacing = volume.spacing[::-1]
    widest, next_widest, _ = sorted(spacing, reverse=True)
    return spacing.index(widest) if widest >= _THICKER * next_widest else 0


def translate(interaction: Interaction, *, axis: int, mask: Mask, is_begun: bool) -> Translation:
    """Turn an interaction into prompts.

    Args:
        interaction: What the user did.
        axis: Along which the object is followed.
        mask: The object at present, in the array's axis order.
        is_begun: Whether something has said where the object is.
    """
    shown = np.moveaxis(mask, axis, 0)
    if isinstance(interaction, Click):
        return _of_places([interaction.at], interaction.is_positive, axis, shown, is_begun)
    if isinstance(interaction, Region):
        return _of_region(interaction, axis, shown, is_begun)
    first, _, _ = split(interaction.first, axis)
    sections = np.moveaxis(interaction.array, axis, 0)
    is_flat = len(sections) == 1
    if interaction.is_outline and is_flat:
        return _of_outline(interaction, axis, shown, is_begun)
    if is_flat:
        places = [(first, y, x) for y, x in centre_line(sections[0])]
    else:
        wanted = _spread(np.flatnonzero(sections.any(axis=(1, 2))).tolist(), MOST_CLICKS)
        places = [(first + z, *_deepest(sections[z])) for z in wanted]
    _, top, left = split(interaction.first, axis)
    voxels = [_joined((z, top + y, left + x), axis) for z, y, x in places]
    return _of_places(voxels, interaction.is_positive, axis, shown, is_begun)


def split(voxel: Voxel, axis: int) -> Voxel:
    """A voxel as `(slice, y, x)` along an axis of the array."""
    y, x = (at for other, at in enumerate(voxel) if other != axis)
    return voxel[axis], y, x


def _joined(place: Voxel, axis: int) -> Voxel:
    """Undo `split`."""
    rest = list(place[1:])
    rest.insert(axis, place[0])
    return rest[0], rest[1], rest[2]


def _of_places(
    voxels: Sequence[Voxel], is_positive: bool, axis: int, shown: Mask, is_begun: bool
) -> Translation:
    """Clicks; those outside the object count only where it is."""
    inside = [
        voxel
        for voxel in voxels
        if all(0 <= at < size for at, size in zip(split(voxel, axis), shown.shape, strict=True))
    ]
    if not is_positive and not is_begun:
        return Translation(waiting=tuple(inside))
    clicks: dict[int, list[Point]] = {}
    for voxel in inside:
        z, y, x = split(voxel, axis)
        # Of a stroke outside, what lies on the background already changes nothing. A single click may be
        # a pixel beside the mask and means it.
        if is_positive or shown[z, y, x] or (len(voxels) == 1 and shown[z].any()):
            clicks.setdefault(z, []).append(Point(x=x, y=y, is_positive=is_positive))
    return Translation(prompts=tuple(Prompt(slice_index=z, points=tuple(at)) for z, at in clicks.items()))


def _of_region(region: Region, axis: int, shown: Mask, is_begun: bool) -> Translation:
    (first, top, left), (last, bottom, right) = split(region.first, axis), split(region.last, axis)
    if not region.is_positive:
        inside = np.zeros(shown.shape[1:], bool)
        inside[top : bottom + 1, left : right + 1] = True
        crossed = [z for z in range(first, last + 1) if (shown[z] & inside).any()] if is_begun else []
        return _taken_away(dict.fromkeys(_spread(crossed, MOST_CLICKS), inside), shown)
    middle = (first + last) // 2
    is_across = first != last
    limits = (first, last) if is_across else None
    if is_across and is_begun and 1 in region.extents:
        click = Point(x=(left + right) // 2, y=(top + bottom) // 2)
        return Translation(prompts=(Prompt(slice_index=middle, points=(click,)),), limits=limits)
    return Translation(prompts=(_box(middle, (left, top, right, bottom), shown),), limits=limits)


def _box(z: int, xyxy: tuple[int, int, int, int], shown: Mask) -> Prompt:
    """A box prompt; a line is widened by a pixel, and a single pixel is a click."""
    left, top, right, bottom = xyxy
    _, height, width = shown.shape
    if left == right and top == bottom:
        return Prompt(slice_index=z, points=(Point(x=left, y=top),))
    left, right = _widened(left, right, width)
    top, bottom = _widened(top, bottom, height)
    if left == right or top == bottom:  # the slice itself is a line
        return Prompt(slice_index=z, points=(Point(x=(left + right) // 2, y=(top + bottom) // 2),))
    return Prompt(slice_index=z, box=Box(x_min=left, y_min=top, x_max=right, y_max=bottom))


def _widened(low: int, high: int, size: int) -> tuple[int, int]:
    if low != high:
        return low, high
    return (low, high + 1) if high + 1 < size else (max(0, low - 1), high)


def _of_outline(drawing: Drawing, axis: int, shown: Mask, is_begun: bool) -> Translation:
    """A filled outline on one slice."""
    z, top, left = split(drawing.first, axis)
    section = ndimage.binary_fill_holes(np.moveaxis(drawing.array, axis, 0)[0])
    inside = np.zeros(shown.shape[1:], bool)
    inside[top : top + section.shape[0], left : left + section.shape[1]] = section
    if not drawing.is_positive:
        return _taken_away({z: inside} if is_begun and (shown[z] & inside).any() else {}, shown)
    return Translation(prompts=(Prompt(slice_index=z, mask=MaskPrompt(array=shown[z] | inside)),))


def _taken_away(regions: dict[int, Mask], shown: Mask) -> Translation:
    """Masks without regions of them. No network knows a negative box, so the rest is given back to it."""
    left = {z: shown[z] & ~region for z, region in regions.items()}
    return Translation(
        prompts=tuple(
            Prompt(slice_index=z, mask=MaskPrompt(array=rest)) for z, rest in left.items() if rest.any()
        ),
        emptied=tuple(z for z, rest in left.items() if not rest.any()),
    )


def centre_line(section: Mask) -> list[tuple[int, int]]:
    """Some places along the middle of a stroke.

    The largest connected part counts. Its length is that of the longest shortest path in it. The ends are
    left out, since a hand often overshoots there.

    Args:
        section: `(y, x)`.

    Returns:
        `(y, x)` of 3 to 5 pixels of the stroke, evenly spaced; of one, if the stroke is short.
    """
    section = largest_part(section)
    rows, columns = np.nonzero(section)
    steps = _steps_from_an_end(section, rows, columns)
    length = int(steps.max()) + 1
    if length < _SHORT_STROKE:
        return [_deepest(section)]
    depth = ndimage.distance_transform_edt(np.pad(section, 1))[rows + 1, columns + 1]
    num_clicks = min(MOST_CLICKS, max(_FEWEST_CLICKS, length // _PIXELS_A_CLICK))
    found = []
    for wanted in np.linspace(0, length - 1, num_clicks + 2)[1:-1]:
        near = np.flatnonzero(np.abs(steps - round(wanted)) < 0.5)
        best = near[depth[near].argmax()]
        found.append((int(rows[best]), int(columns[best])))
    return found


def _steps_from_an_end(section: Mask, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """How many steps within a stroke each of its pixels is away from one of its ends."""
    numbers = np.full(np.add(section.shape, 2), -1)
    numbers[rows + 1, columns + 1] = np.arange(len(rows))
    pairs = []
    for dy, dx in ((0, 1), (1, -1), (1, 0), (1, 1)):
        other = numbers[rows + 1 + dy, columns + 1 + dx]
        pairs.append(np.stack((np.flatnonzero(other >= 0), other[other >= 0])))
    ones, others = np.concatenate(pairs, axis=1)
    graph = coo_matrix((np.ones(len(ones)), (ones, others)), shape=(len(rows), len(rows))).tocsr()
    start = np.array([0])
    for _ in range(2):  # the pixel farthest from any is an end, and the farthest from that the other one
        steps = np.asarray(dijkstra(graph, directed=False, indices=start, unweighted=True)).ravel()
        start = np.array([steps.argmax()])
    return steps


def _deepest(section: Mask) -> tuple[int, int]:
    """The pixel `(y, x)` farthest from the edge."""
    point = center_point(section, is_positive=True)
    return int(point.y), int(point.x)


def _spread(values: Iterable[int], count: int) -> list[int]:
    """At most so many of some values, evenly spaced, with the first and the last."""
    found = list(values)
    if len(found) <= count:
        return found
    return [found[round(at)] for at in np.linspace(0, len(found) - 1, count)]
