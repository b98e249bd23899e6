"""What a list of cases shows: each with its objects and the time that it took so far."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

from medsam2.annotation.cases import Case, list_cases
from medsam2.annotation.clock import by_case, tally
from medsam2.annotation.journal import list_events, users_since
from medsam2.annotation.project import Project
from medsam2.annotation.versions import Version, list_versions


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A case in the list."""

    case: Case
    objects: tuple[str, ...]
    """Names, of the latest mask."""
    num_versions: int
    active_s: float
    """Of all users, without the model and with it."""


class Overview:
    """The list of a project's cases; used by many threads. Asked again it counts only what has come since."""

    def __init__(self, project: Project) -> None:
        self._project = project
        self._newest = 0
        self._active_s: dict[str, dict[int, float]] = {}  # user -> case -> seconds
        self._lock = threading.Lock()

    def entries(self) -> list[Entry]:
        """List the cases by name, with what is known of each."""
        versions: dict[int, list[Version]] = {}
        for version in list_versions(self._project):
            versions.setdefault(version.case, []).append(version)
        active_s = self._count()
        return [
            Entry(
                case=case,
                objects=_names(versions.get(case.id, ())),
                num_versions=len(versions.get(case.id, ())),
                active_s=active_s.get(case.id, 0.0),
            )
            for case in list_cases(self._project)
        ]

    def _count(self) -> dict[int, float]:
        """Bring the seconds up to date: only who did something is counted, as clocks are of users."""
        with self._lock:
            users, self._newest = users_since(self._project, self._newest)
            for user in users:
                counted = by_case(tally(list_events(self._project, user)))
                self._active_s[user] = {case: one.active_s for case, one in counted.items()}
            total: dict[int, float] = {}
            for seconds in self._active_s.values():
                for case, active_s in seconds.items():
                    total[case] = total.get(case, 0.0) + active_s
            return total


def _names(versions: Sequence[Version]) -> tuple[str, ...]:
    return tuple(str(facts["name"]) for facts in versions[-1].objects.values()) if versions else ()
