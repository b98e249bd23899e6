"""Active time: how long users worked on each case and object, computed from the events in the log.

A gap of at most `IDLE_S` between two events of one user on one case is work and counts in full. A longer gap
counts `IDLE_COUNTS_S`, because the user may have looked at the image or may have left. The time between two
cases counts for neither of them; time before a user's first event and after the last is unknown. A gap
belongs to the object of the event that ends it. If that event is not about an object, for example a scroll,
the gap belongs to the next object that the user changes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby, pairwise

IDLE_S = 30.0
"""The longest gap between two events that counts in full."""
IDLE_COUNTS_S = 5.0
"""Seconds that a longer gap counts."""
NO_OBJECT = 0
BY_HAND = frozenset({"brush", "erase"})
"""Kinds of events in which the user changed voxels without the model."""
LOOKING = frozenset({"open", "scroll", "window", "view", "zoom", "hide", "save", "export", "close"})
"""Kinds of events that change no mask; all others are interactions."""


@dataclass(frozen=True, kw_only=True)
class Event:
    """One thing that a user did."""

    case: int
    user: str
    kind: str
    at_ms: int
    """Milliseconds since 1970 in UTC, by the clock of the user's machine."""
    object: int = NO_OBJECT
    voxels: int = 0
    """Number of voxels of the mask that it changed."""
    baseline: bool = False
    """Whether it was done without the model."""
    round: int = 1
    """The round whose weights were in use."""


@dataclass(frozen=True, order=True)
class Part:
    """The part of the work that a tally is about."""

    case: int
    user: str
    baseline: bool
    round: int
    object: int


@dataclass(kw_only=True)
class Tally:
    """Time, events and voxels of one part of the work."""

    active_s: float = 0.0
    acts: Counter[str] = field(default_factory=Counter)
    """Number of events by kind, including those that change no mask."""
    hand_voxels: int = 0

    @property
    def num_interactions(self) -> int:
        """Number of events that were to change a mask."""
        return num_interactions(self.acts)

    def add(self, other: Tally) -> None:
        """Add another tally to this one."""
        self.active_s += other.active_s
        self.acts.update(other.acts)
        self.hand_voxels += other.hand_voxels


def num_interactions(acts: Mapping[str, int]) -> int:
    """Return the number of events that were to change a mask, from the number of each kind."""
    return sum(count for kind, count in acts.items() if kind not in LOOKING)


def counted_s(gap_s: float) -> float:
    """Return how much of a gap between two events counts as work."""
    return gap_s if gap_s <= IDLE_S else IDLE_COUNTS_S


def tally(events: Iterable[Event]) -> dict[Part, Tally]:
    """Sum up time, events and voxels for each case, user, mode, round and object.

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
    """Sum up the tallies of each case."""
    found: dict[int, Tally] = {}
    for part, one in tallies.items():
        found.setdefault(part.case, Tally()).add(one)
    return found


def _shared_out(stretch: list[Event]) -> Iterator[tuple[Event, float]]:
    """Assign the time of uninterrupted work on one case to its events."""
    gaps = [0.0] + [counted_s((after.at_ms - before.at_ms) / 1000) for before, after in pairwise(stretch)]
    seconds = [0.0] * len(stretch)
    waiting: list[int] = []
    for index, event in enumerate(stretch):
        waiting.append(index)
        if event.object != NO_OBJECT:
            seconds[index] = sum(gaps[i] for i in waiting)
            waiting = []
    for index in waiting:  # no object was changed after them
        seconds[index] = gaps[index]
    yield from zip(stretch, seconds, strict=True)
