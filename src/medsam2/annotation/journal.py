"""The log of what users did, and the active time that follows from it.

A gap of at most `IDLE_S` between two events of one user on one case is work and counts in full. A longer gap
counts `IDLE_COUNTS_S`, because the user may have looked at the image or may have left. The time between two
cases counts for neither of them; time before a user's first event and after the last is unknown. A gap
belongs to the object of the event that ends it. If that event is not about an object, for example a scroll,
the gap belongs to the next object that the user changes.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from sqlalchemy import func, select

from medsam2.annotation.cases import Case, list_cases, row_of
from medsam2.annotation.database import CASES, EVENTS, PROJECTS, insert_new, value_of
from medsam2.annotation.names import MAX_LABEL, check_kind, check_user
from medsam2.annotation.project import Project
from medsam2.annotation.versions import Version, list_versions
from medsam2.errors import InputError

IDLE_S = 30.0
"""The longest gap between two events that counts in full."""
IDLE_COUNTS_S = 5.0
"""Seconds that a longer gap counts."""
NO_OBJECT = 0
BY_HAND = frozenset({"brush", "erase"})
"""Kinds of events in which the user changed voxels without the model."""
LOOKING = frozenset({"open", "scroll", "window", "view", "zoom", "hide", "save", "export", "close"})
"""Kinds of events that change no mask; all others are interactions."""
MAX_EVENTS = 1000
"""Events in one message."""
_OVERLAP = 1000  # of two transactions the one with the lower number may be visible later
_MAX_VOXELS = 2**40
_EARLIEST_MS = 946_684_800_000  # the year 2000: a clock before that was never set
_AHEAD_MS = 86_400_000  # a clock may be a day fast


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
    started_ms: int = 2**63
    """When the first event happened."""

    @property
    def num_interactions(self) -> int:
        """Number of events that were to change a mask."""
        return sum(count for kind, count in self.acts.items() if kind not in LOOKING)

    def add(self, other: Tally) -> None:
        """Add another tally to this one."""
        self.active_s += other.active_s
        self.acts.update(other.acts)
        self.hand_voxels += other.hand_voxels
        self.started_ms = min(self.started_ms, other.started_ms)


def tally(events: Iterable[Event]) -> dict[Part, Tally]:
    """Sum up time, events and voxels for each case, user, mode, round and object.

    Args:
        events: In any order.
    """
    found: dict[Part, Tally] = {}
    by_time = sorted(events, key=lambda event: (event.user, event.at_ms))
    for _, of_user in groupby(by_time, key=lambda event: event.user):
        for _, stretch in groupby(of_user, key=lambda event: (event.case, event.baseline, event.round)):
            for event, seconds in _timed(list(stretch)):
                part = Part(event.case, event.user, event.baseline, event.round, event.object)
                by_hand = event.voxels if event.kind in BY_HAND else 0
                one = Tally(
                    active_s=seconds, acts=Counter([event.kind]), hand_voxels=by_hand, started_ms=event.at_ms
                )
                found.setdefault(part, Tally()).add(one)
    return found


def by_case(tallies: Mapping[Part, Tally]) -> dict[int, Tally]:
    """Sum up the tallies of each case."""
    found: dict[int, Tally] = {}
    for part, one in tallies.items():
        found.setdefault(part.case, Tally()).add(one)
    return found


def _timed(stretch: list[Event]) -> Iterator[tuple[Event, float]]:
    """Give the time of uninterrupted work on one case to its events."""
    waiting_s = 0.0
    for index, event in enumerate(stretch):
        gap_s = (event.at_ms - stretch[index - 1].at_ms) / 1000 if index else 0.0
        waiting_s += gap_s if gap_s <= IDLE_S else IDLE_COUNTS_S
        if event.object != NO_OBJECT or index == len(stretch) - 1:
            yield event, waiting_s
            waiting_s = 0.0
        else:
            yield event, 0.0


def log_events(project: Project, case_id: int, user: str, events: object) -> None:
    """Log what a user did on a case; events that are in the log already are ignored.

    Args:
        project: The project.
        case_id: The case.
        user: The user.
        events: A list of {"kind", "at_ms"}, optionally with "object", "voxels" and "baseline".

    Raises:
        UnknownCase: There is no such case.
        InputError: An event has another form; then none is logged.
    """
    user = check_user(user)
    if not isinstance(events, Sequence) or isinstance(events, str) or len(events) > MAX_EVENTS:
        raise InputError(f"events are a list of at most {MAX_EVENTS}")
    latest = project.now_ms() + _AHEAD_MS
    rows = [_row(event, index, latest) for index, event in enumerate(events)]
    with project.transaction() as db:
        row_of(db, project, case_id)
        current = db.execute(select(PROJECTS.c.round).where(PROJECTS.c.key == project.key)).scalar_one()
        insert_new(db, EVENTS, [{**row, "case": case_id, "user": user, "round": current} for row in rows])


def list_events(project: Project, user: str | None = None) -> list[Event]:
    """List the events of one user or of all users, by case and time."""
    wanted = select(EVENTS).join(CASES, CASES.c.id == EVENTS.c.case).where(CASES.c.project == project.key)
    if user is not None:
        wanted = wanted.where(EVENTS.c.user == user)
    wanted = wanted.order_by(EVENTS.c.case, EVENTS.c.at_ms, EVENTS.c.id)
    with project.transaction() as db:
        return [value_of(Event, row) for row in db.execute(wanted).mappings()]


def _row(event: object, index: int, latest_ms: int) -> dict[str, object]:
    if not isinstance(event, Mapping):
        raise InputError(f'event {index}: expected {{"kind", "object", "at_ms", "voxels", "baseline"}}')
    baseline = event.get("baseline")
    if not (baseline is None or isinstance(baseline, bool)):
        raise InputError(f"event {index}: baseline is true or false, not {str(baseline)[:40]!r}")
    return {
        "kind": check_kind(event.get("kind")),
        "at_ms": _whole(event, index, "at_ms", None, _EARLIEST_MS, latest_ms),
        "object": _whole(event, index, "object", NO_OBJECT, 0, MAX_LABEL),
        "voxels": _whole(event, index, "voxels", 0, 0, _MAX_VOXELS),
        "baseline": bool(baseline),
    }


def _whole(
    event: Mapping[object, object], index: int, name: str, default: int | None, low: int, high: int
) -> int:
    value = event.get(name)
    if value is None and default is not None:
        return default
    # Browsers send fractions of a millisecond.
    if isinstance(value, float) and abs(value) < 2**53:
        value = round(value)
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise InputError(
            f"event {index}: {name} is a whole number from {low} to {high}, not {str(value)[:40]!r}"
        )
    return value


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A case in the list."""

    case: Case
    objects: tuple[str, ...]
    """Names of the objects in the latest mask."""
    num_versions: int
    active_s: float
    """Active time of all users, with and without the model."""


class Overview:
    """The list of a project's cases, for many threads; a call counts only the events since the last one."""

    def __init__(self, project: Project) -> None:
        self._project = project
        self._newest = 0
        self._by_user: dict[str, dict[int, Tally]] = {}
        self._lock = threading.Lock()

    def entries(self) -> list[Entry]:
        """List the cases by name."""
        versions: dict[int, list[Version]] = {}
        for version in list_versions(self._project):
            versions.setdefault(version.case, []).append(version)
        active_s = self._count()
        return [
            Entry(
                case=case,
                objects=tuple(str(facts["name"]) for facts in saved[-1].objects.values()) if saved else (),
                num_versions=len(saved),
                active_s=active_s.get(case.id, 0.0),
            )
            for case in list_cases(self._project)
            for saved in [versions.get(case.id, [])]
        ]

    def _count(self) -> Mapping[int, float]:
        """Count the time of the users with new events anew; return the active seconds of each case."""
        with self._lock:
            for user in self._users_with_new_events():
                self._by_user[user] = by_case(tally(list_events(self._project, user)))
            seconds: dict[int, float] = {}
            for tallies in self._by_user.values():
                for case, one in tallies.items():
                    seconds[case] = seconds.get(case, 0.0) + one.active_s
            return seconds

    def _users_with_new_events(self) -> set[str]:
        number, of_project = self._newest, CASES.c.project == self._project.key
        since = select(EVENTS.c.user).join(CASES, CASES.c.id == EVENTS.c.case).distinct()
        with self._project.transaction() as db:
            self._newest = int(db.execute(select(func.max(EVENTS.c.id))).scalar() or 0)
            if self._newest == number:
                return set()
            return set(db.execute(since.where(of_project, EVENTS.c.id > number - _OVERLAP)).scalars())
