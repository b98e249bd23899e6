"""What files say about objects, as values, before the image they speak of is known."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from medsam2.errors import PromptError
from medsam2.prompts.recist import RecistLine
from medsam2.prompts.types import MAX_OBJECTS, Box, Point


@dataclass(frozen=True, kw_only=True)
class MaskFile:
    """A drawn mask in a file on the image's grid."""

    path: Path
    label: int | None = None
    """Which of its labels is meant; None where it has but one."""


@dataclass(frozen=True, kw_only=True)
class Statement:
    """What is said about one object in one slice."""

    where: str
    """File, and row or object: the beginning of a message about it."""
    slice_index: int | None
    """In the image file, from 0. None for a mask file's largest slice."""
    box: Box | None = None
    points: tuple[Point, ...] = ()
    line: RecistLine | None = None
    line_points: int = 0
    """Number of points to take along the line."""
    mask: MaskFile | None = None


@dataclass(frozen=True, kw_only=True)
class PromptedObject:
    """One object: its number in the mask, its name, and what is said about it, in the order it is said."""

    number: int
    statements: tuple[Statement, ...]
    name: str | None = None

    @property
    def title(self) -> str:
        """The object in words."""
        return f"object {self.number}" if self.name is None else f"object {self.number} ({self.name})"


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """Everything that a file says."""

    objects: tuple[PromptedObject, ...]
    windows: tuple[tuple[float, float] | str, ...] = ()
    """Limits or names of the windows that it asks for; more than one where it does not agree with itself."""
    is_shown: bool = False
    """Whether pixels are those of an axial picture as radiologists see it, not those of the image file."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """Statements about an object that may not have its number yet."""

    statements: tuple[Statement, ...]
    where: str
    number: int | None = None
    name: str | None = None


def number_objects(claims: Iterable[Claim]) -> tuple[PromptedObject, ...]:
    """Put what is said about the same object together.

    Claims of the same number are about the same object; so are claims of the same name that have no number.
    All others get the smallest numbers that are free.

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
        PromptedObject(number=number, name=names.get(number), statements=tuple(said))
        for number, said in statements.items()
    )
