"""What a list of cases shows: each with its objects and the time that it took so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from medsam2.annotation.cases import Case, list_cases
from medsam2.annotation.clock import Tally, by_case, tally
from medsam2.annotation.journal import list_events
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


def survey(project: Project) -> list[Entry]:
    """List the cases by name, with what is known of each."""
    versions: dict[int, list[Version]] = {}
    for version in list_versions(project):
        versions.setdefault(version.case, []).append(version)
    tallies = by_case(tally(list_events(project)))
    return [
        Entry(
            case=case,
            objects=_names(versions.get(case.id, ())),
            num_versions=len(versions.get(case.id, ())),
            active_s=tallies.get(case.id, Tally()).active_s,
        )
        for case in list_cases(project)
    ]


def _names(versions: Sequence[Version]) -> tuple[str, ...]:
    return tuple(str(facts["name"]) for facts in versions[-1].objects.values()) if versions else ()
