"""What files and drawings say about objects, before the image is known; RECIST diameters as prompts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.spatial import ConvexHull, QhullError
from scipy.spatial.distance import pdist, squareform

from medsam2.errors import PromptError
from medsam2.prompts.simulate import tight_box
from medsam2.prompts.types import MAX_OBJECTS, Box, MaskPrompt, Point, Prompt

SHORT_OVER_LONG = 0.75
"""Short over long diameter where only the long one was drawn. Tumours are commonly modelled as ellipsoids
of a ratio of 0.5 to 1 (Levine et al., Medical Physics 2011). On 135 generated objects the box of this ratio
overlaps the true one best (median IoU 0.83); MedSAM2's own square, a ratio of 1, reaches 0.73."""
DRAWN_AS = ("mask", "box", "recist")
"""What a drawing stands for: the object's outline in that slice, the box around it, or its diameter."""
MIN_HALF_SIDE = 0.5  # pixels; a line along a row would otherwise give a box of no height

_XY = tuple[float, float]
PixelMm = tuple[float, float] | npt.NDArray[np.float64]
"""Size of a pixel, (x, y), or of a grid with shear the matrix (2, 2) that turns steps in pixels into mm."""


@dataclass(frozen=True, kw_only=True)
class RecistLine:
    """The longest diameter of a lesion in one slice, and the one across it if it was measured."""

    long_ends: tuple[_XY, _XY]
    """Both ends `(x, y)`, in pixels of the slice."""
    short_ends: tuple[_XY, _XY] | None = None

    @classmethod
    def from_numbers(cls, numbers: Sequence[float]) -> RecistLine:
        """Make a line of `(x0, y0, x1, y1)`, or of eight numbers, the short diameter's ends last.

        Raises:
            PromptError: There are not 4 or 8 finite numbers, or both ends of the line are the same.
        """
        values = [float(number) for number in numbers]
        if len(values) not in (4, 8) or not all(math.isfinite(value) for value in values):
            raise PromptError(
                "a RECIST line is four finite numbers x0, y0, x1, y1, or eight with the short diameter, "
                f"not ({', '.join(f'{value:g}' for value in values)})"
            )
        if values[:2] == values[2:4]:
            raise PromptError(
                f"a RECIST line has two ends that differ, not ({values[0]:g}, {values[1]:g}) twice"
            )
        ends = [(x, y) for x, y in zip(values[::2], values[1::2], strict=True)]
        return cls(long_ends=(ends[0], ends[1]), short_ends=(ends[2], ends[3]) if len(ends) == 4 else None)


def box_around(line: RecistLine, *, shape_yx: tuple[int, int], pixel_mm: PixelMm = (1.0, 1.0)) -> Box:
    """Return the box of the ellipse that has a line as its diameter.

    The box holds the line's ends and is cut off at the edge of the slice.

    Args:
        line: Its long diameter; without a short one, that is `SHORT_OVER_LONG` of it.
        shape_yx: Size of the slice in pixels.
        pixel_mm: Size of a pixel; the short diameter is at right angles to the long one in millimetres.

    Raises:
        PromptError: The line does not lie in the slice.
    """
    height, width = shape_yx
    ends = np.array([*line.long_ends, *(line.short_ends or ())])
    if (ends < 0).any() or (ends > (width - 1, height - 1)).any():
        (x0, y0), (x1, y1) = line.long_ends
        raise PromptError(
            f"RECIST line ({x0:g}, {y0:g}) to ({x1:g}, {y1:g}) is outside the slice: "
            f"x must lie in 0 to {width - 1} and y in 0 to {height - 1}"
        )
    center = ends[:2].mean(axis=0)
    along = (ends[1] - ends[0]) / 2
    if line.short_ends is None:
        to_mm = _as_matrix(pixel_mm)
        x_mm, y_mm = to_mm @ along
        across = SHORT_OVER_LONG * np.linalg.solve(to_mm, (-y_mm, x_mm))
    else:
        across = (ends[3] - ends[2]) / 2
    half = np.maximum(np.hypot(along, across), MIN_HALF_SIDE)
    low = np.minimum(center - half, ends.min(axis=0)).clip(0)
    high = np.maximum(center + half, ends.max(axis=0)).clip(max=(width - 1, height - 1))
    return Box(x_min=float(low[0]), y_min=float(low[1]), x_max=float(high[0]), y_max=float(high[1]))


def points_along(line: RecistLine, count: int) -> tuple[Point, ...]:
    """Return points inside the lesion, evenly spaced along its long diameter and away from the ends."""
    (x0, y0), (x1, y1) = line.long_ends
    shares = [(index + 1) / (count + 1) for index in range(count)]
    return tuple(Point(x=x0 + share * (x1 - x0), y=y0 + share * (y1 - y0)) for share in shares)


def line_in_mask(mask: npt.NDArray[np.bool_], *, pixel_mm: PixelMm = (1.0, 1.0)) -> RecistLine:
    """Find the ends of a line that is drawn in a mask `(y, x)`: the two pixels that are farthest apart.

    Args:
        mask: One line of any thickness, and nothing else.
        pixel_mm: Size of a pixel; distances are compared in millimetres.

    Raises:
        PromptError: Fewer than two pixels are drawn.
    """
    rows, columns = np.nonzero(mask)
    if len(rows) < 2:
        raise PromptError(f"a drawn RECIST line has two pixels or more, not {len(rows)}")
    pixels = np.stack((columns, rows), axis=1)
    try:
        pixels = pixels[ConvexHull(pixels).vertices]
    except QhullError:  # the line runs along a row, a column or exactly a diagonal
        order = np.lexsort((pixels[:, 1], pixels[:, 0]))
        pixels = pixels[order[[0, -1]]]
    distances = squareform(pdist(pixels @ _as_matrix(pixel_mm).T))
    first, second = sorted(np.unravel_index(int(distances.argmax()), distances.shape))
    return RecistLine.from_numbers([*pixels[first], *pixels[second]])


def _as_matrix(pixel_mm: PixelMm) -> npt.NDArray[np.float64]:
    matrix = np.asarray(pixel_mm, dtype=np.float64)
    return np.diag(matrix) if matrix.ndim == 1 else matrix


@dataclass(frozen=True, kw_only=True)
class MaskFile:
    """A drawn mask in a file on the image's grid."""

    path: Path
    label: int | None = None
    """Which of its labels is meant; None where it has but one."""


@dataclass(frozen=True, kw_only=True)
class Statement:
    """A prompt of one object in one slice, as a file gives it."""

    where: str
    """File, and row or object: the beginning of a message about it."""
    slice_index: int | None
    """In the image file, from 0; None for the largest slice of a mask file."""
    box: Box | None = None
    points: tuple[Point, ...] = ()
    line: RecistLine | None = None
    line_points: int = 0
    """Number of points to take along the line."""
    mask: MaskFile | None = None


@dataclass(frozen=True, kw_only=True)
class PromptedObject:
    """One object: its number in the mask, its name and its prompts, in the order of the file."""

    number: int
    statements: tuple[Statement, ...]
    name: str | None = None

    @property
    def title(self) -> str:
        """The object in words."""
        return f"object {self.number}" if self.name is None else f"object {self.number} ({self.name})"


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """All prompts of a file."""

    objects: tuple[PromptedObject, ...]
    windows: tuple[tuple[float, float] | str, ...] = ()
    """Limits or names of the windows in the file; an image is shown in one of them."""
    is_shown: bool = False
    """Whether pixels are counted in an axial picture as radiologists see it, not in the image file."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """The prompts of an object that may have no number yet."""

    statements: tuple[Statement, ...]
    where: str
    number: int | None = None
    name: str | None = None


def number_objects(claims: Iterable[Claim]) -> tuple[PromptedObject, ...]:
    """Put the prompts of the same object together.

    Entries with the same number are one object, and so are entries without a number that have the same name.
    All others get the smallest free numbers.

    Raises:
        PromptError: An object has two names, or there are more than `MAX_OBJECTS`.
    """
    claims = list(claims)
    taken = {claim.number for claim in claims if claim.number is not None}
    free = (number for number in range(1, len(claims) + len(taken) + 1) if number not in taken)
    numbers: dict[str, int] = {}
    names: dict[int, str] = {}
    statements: dict[int, list[Statement]] = {}
    for claim in claims:
        number = claim.number
        if number is None and claim.name is not None:
            number = numbers.get(claim.name)
        if number is None:
            number = next(free)
        if number > MAX_OBJECTS:
            raise PromptError(f"{claim.where}: there are more than {MAX_OBJECTS} objects, a mask has no more")
        if claim.name is not None:
            if names.setdefault(number, claim.name) != claim.name:
                raise PromptError(
                    f"{claim.where}: object {number} is called {claim.name!r} here and "
                    f"{names[number]!r} before; give it one name, or another number"
                )
            numbers.setdefault(claim.name, number)
        statements.setdefault(number, []).extend(claim.statements)
    return tuple(
        PromptedObject(number=number, name=names.get(number), statements=tuple(own))
        for number, own in statements.items()
    )


def largest_slices(slices: npt.NDArray[np.generic]) -> dict[int, int]:
    """Return, for each label, the slice in which it covers most pixels; of equals, the middle one.

    Args:
        slices: Labels `(z, y, x)`, slices first; integers, or floats that are whole. 0 is nothing.

    Raises:
        PromptError: Nothing is drawn, or a label is not a whole number from 1 to `MAX_OBJECTS`.
    """
    areas: dict[int, dict[int, int]] = {}
    for z, plane in enumerate(slices):
        values, counts = np.unique(plane[plane != 0], return_counts=True)
        for value, count in zip(values.tolist(), counts.tolist(), strict=True):
            if not float(value).is_integer():
                raise PromptError(
                    f"the mask holds the value {value:g}; labels are whole numbers, 1 to {MAX_OBJECTS}"
                )
            areas.setdefault(int(value), {})[z] = count
    if areas and not (min(areas) >= 1 and max(areas) <= MAX_OBJECTS):
        odd = min(areas) if min(areas) < 1 else max(areas)
        raise PromptError(
            f"the mask holds the value {odd}; labels are 1 to {MAX_OBJECTS}, so choose those to take with "
            "--mask-label, by value or name"
        )
    if not areas:
        raise PromptError("the mask is empty: at least one voxel must be inside")
    return {label: _middle_largest(areas[label]) for label in sorted(areas)}


def drawn_prompts(
    slices: npt.NDArray[np.generic],
    *,
    drawn_as: str = "mask",
    pixel_mm: PixelMm = (1.0, 1.0),
) -> dict[int, Prompt]:
    """Make one prompt of each label of a mask.

    Args:
        slices: Labels `(z, y, x)`, slices first.
        drawn_as: One of `DRAWN_AS`. "mask" and "box" take a label's largest slice; for "recist" a label is a
            line on a single slice.
        pixel_mm: Size of a pixel, for the length of a line and for right angles.

    Raises:
        PromptError: See `largest_slices`, or a label is no line on one slice.
    """
    if drawn_as not in DRAWN_AS:
        raise PromptError(f"a drawing is taken as {', '.join(DRAWN_AS)}, not as {drawn_as!r}")
    prompts: dict[int, Prompt] = {}
    for label, z in largest_slices(slices).items():
        plane = np.asarray(slices[z] == label)
        if drawn_as == "mask":
            prompts[label] = Prompt(slice_index=z, mask=MaskPrompt(array=plane))
        elif drawn_as == "box":
            prompts[label] = Prompt(slice_index=z, box=_with_area(plane, label, z))
        else:
            _check_alone(slices, label, z)
            try:
                line = line_in_mask(plane, pixel_mm=pixel_mm)
            except PromptError as error:
                raise PromptError(f"label {label}, slice {z}: {error}") from None
            prompts[label] = Prompt(
                slice_index=z, box=box_around(line, shape_yx=plane.shape, pixel_mm=pixel_mm)
            )
    return prompts


def _middle_largest(areas: dict[int, int]) -> int:
    largest = [z for z, area in sorted(areas.items()) if area == max(areas.values())]
    return largest[len(largest) // 2]


def _with_area(plane: npt.NDArray[np.bool_], label: int, z: int) -> Box:
    box = tight_box(plane)
    if box.x_min == box.x_max or box.y_min == box.y_max:
        raise PromptError(f"label {label} is a single row of pixels on slice {z}: that is no box, but a line")
    return box


def _check_alone(slices: npt.NDArray[np.generic], label: int, z: int) -> None:
    drawn = [index for index, plane in enumerate(slices) if bool(np.any(plane == label))]
    if drawn != [z]:
        raise PromptError(
            f"label {label} is drawn on slices {drawn[0]} to {drawn[-1]}: a RECIST line lies on one slice"
        )
