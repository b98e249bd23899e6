"""The list of cases with what is known of each, and the check of files against the database."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

from medsam2.annotation.cases import Case, list_cases
from medsam2.annotation.clock import by_case, tally
from medsam2.annotation.journal import list_events, users_since
from medsam2.annotation.layout import MASK_SUFFIX, VERSIONS, final_path, publish
from medsam2.annotation.project import FINISHED, Project
from medsam2.annotation.versions import Version, digest, latest_done, list_versions


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
        self._active_s: dict[str, dict[int, float]] = {}  # user -> case -> seconds
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
                objects=_names(versions.get(case.id, ())),
                num_versions=len(versions.get(case.id, ())),
                active_s=active_s.get(case.id, 0.0),
            )
            for case in list_cases(self._project)
        ]

    def _count(self) -> dict[int, float]:
        """Update the active time of the users with new events."""
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


def check_files(project: Project) -> list[str]:
    """Compare the files with the database, and restore finished masks that are missing or out of date.

    Returns:
        A sentence for each finding that a person should look at; no file is deleted.

    Raises:
        InputError: A file cannot be written.
    """
    found: list[str] = []
    known: set[str] = set()
    for case in list_cases(project):
        versions = list_versions(project, case.id)
        for version in versions:
            known.add(version.path)
            if digest(project.folder / version.path) != version.sha256:
                found.append(f"{version.path}: is missing or was changed after it was saved")
        newest = latest_done(versions)
        if newest is not None and case.state in FINISHED:
            found += _restore(project, case.name, newest, versions)
    for path in sorted((project.folder / VERSIONS).glob(f"*/*{MASK_SUFFIX}")):
        relative = path.relative_to(project.folder).as_posix()
        if relative not in known and not path.name.startswith("."):
            found.append(f"{relative}: belongs to no version; the program ended while it saved this file")
    return found


def _restore(project: Project, name: str, newest: Version, versions: Sequence[Version]) -> list[str]:
    """Put the newest finished mask into `labels/final`, unless another program has changed the file there."""
    target = final_path(project.folder, name)
    there = digest(target)
    if there == newest.sha256:
        return []
    if there is not None and there not in {version.sha256 for version in versions}:
        where = target.relative_to(project.folder).as_posix()
        return [f"{where}: was changed by another program; it was left unchanged"]
    source = project.folder / newest.path
    if digest(source) == newest.sha256:
        publish(source, target)
    return []
