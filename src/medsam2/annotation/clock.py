"""How long people worked: from the events they caused, with the time cut out in which nothing happened.

A gap of at most `IDLE_S` between two events of one user on one case is work. Of a longer gap `IDLE_COUNTS_S`
are counted: somebody stopped to look, or left, and which one nobody can tell. The step from one case to
another counts for neither, nor does what was before a user's first event or after the last. A gap belongs to
the object of the event that ends it, as it was spent on that act; gaps that end in an event about no object,
a scroll say, belong to the next object that is touched.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby, pairwise

IDLE_S = 30.0
"""The longest gap between two events that counts in full, in seconds."""
IDLE_COUNTS_S = 5.0
"""What a longer one counts."""
NO_OBJECT = 0
BY_HAND = frozenset({"brush", "erase"})
"""Kinds of events whose voxels somebody changed himself."""
LOOKING = frozenset({"open", "scroll", "window", "view", "zoom", "hide", "save", "export", "close"})
"""Kinds that change no mask; all others are interactions."""


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that a user did."""

    case: int
    user: str
    kind: str
    at_ms: int
    """Milliseconds since 1970 in UTC, by the clock of the user's machine."""
    object: int = NO_OBJECT
    voxels: int = 0
    """How many voxels of the mask it changed."""
    baseline: bool = False
    """Whether it was done without the model."""
    round: int = 1
    """Which weights proposed and helped."""


@dataclass(frozen=True, order=True)
class Part:
    """What seconds and acts are counted for."""

    case: int
    user: str
    baseline: bool
    round: int
    object: int


@dataclass(kw_only=True)
class Tally:
    """What was counted."""

    active_s: float = 0.0
    acts: Counter[str] = field(default_factory=Counter)
    """Events by kind, looking included."""
    hand_voxels: int = 0

    @property
    def num_interactions(self) -> int:
        """Acts that meant to change a mask."""
        return sum(count for kind, count in self.acts.items() if kind not in LOOKING)

    def add(self, other: Tally) -> None:
        """Count another tally as well."""
        self.active_s += other.active_s
        self.acts.update(other.acts)
        self.hand_voxels += other.hand_voxels


def counted_s(gap_s: float) -> float:
    """Return what a gap between two events counts, in seconds."""
    return gap_s if gap_s <= IDLE_S else IDLE_COUNTS_S


def tally(events: Iterable[Event]) -> dict[Part, Tally]:
    """Count seconds, acts and voxels for each case, user, mode, round and object.

    Args:
        events: In any order.
    """
    found: dict[Part, Tally] = {}
    by_time = sorted(events, key=lambda event: (event.user, event.at_ms))
    for _, of_user in groupby(by_time, key=lambda event: event.user):
        for _, stretch in groupby(of_user, key=lambda event: (event.case, event.baseline, event.round)):
            for event, seconds in _shared_out(list(stretch)):
                part = Part(event.case, event.user, event.baseline, event.round, event.object)
                one = found.setdefault(part, Tally())
                one.active_s += seconds
                one.acts[event.kind] += 1
                one.hand_voxels += event.voxels if event.kind in BY_HAND else 0
    return found


def by_case(tallies: Mapping[Part, Tally]) -> dict[int, Tally]:
    """Add up what was counted for each case."""
    found: dict[int, Tally] = {}
    for part, one in tallies.items():
        found.setdefault(part.case, Tally()).add(one)
    return found


def _shared_out(stretch: list[Event]) -> Iterator[tuple[Event, float]]:
    """Give each event of an unbroken stretch of work on one case the seconds that were spent on it."""
    gaps = [0.0] + [counted_s((after.at_ms - before.at_ms) / 1000) for before, after in pairwise(stretch)]
    seconds = [0.0] * len(stretch)
    waiting: list[int] = []
    for index, event in enumerate(stretch):
        waiting.append(index)
        if event.object != NO_OBJECT:
            seconds[index] = sum(gaps[i] for i in waiting)
            waiting = []
    for index in waiting:  # nothing was touched after them
        seconds[index] = gaps[index]
    yield from zip(stretch, seconds, strict=True)
