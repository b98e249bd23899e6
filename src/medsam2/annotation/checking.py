"""Compare the files of a project with what its database says of them."""

from __future__ import annotations

from collections.abc import Sequence

from medsam2.annotation.cases import list_cases
from medsam2.annotation.layout import MASK_SUFFIX, VERSIONS, final_path, publish
from medsam2.annotation.project import Project
from medsam2.annotation.states import FINISHED
from medsam2.annotation.versions import Version, digest, latest_done, list_versions


def check_files(project: Project) -> list[str]:
    """Compare files and rows, and put finished masks back where they are missing or older than the newest.

    Returns:
        A sentence for each thing that a person should look at; nothing is deleted.

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
                found.append(f"{version.path}: is missing or was changed since it was saved")
        newest = latest_done(versions)
        if newest is not None and case.state in FINISHED:
            found += _restore(project, case.name, newest, versions)
    for path in sorted((project.folder / VERSIONS).glob(f"*/*{MASK_SUFFIX}")):
        relative = path.relative_to(project.folder).as_posix()
        if relative not in known and not path.name.startswith("."):
            found.append(f"{relative}: belongs to no version; the program ended while it was saved")
    return found


def _restore(project: Project, name: str, newest: Version, versions: Sequence[Version]) -> list[str]:
    """Make `labels/final` the newest finished mask, unless it holds somebody's work from outside."""
    target = final_path(project.folder, name)
    there = digest(target)
    if there == newest.sha256:
        return []
    if there is not None and there not in {version.sha256 for version in versions}:
        where = target.relative_to(project.folder).as_posix()
        return [f"{where}: was changed by another program; it is left as it is"]
    source = project.folder / newest.path
    if digest(source) == newest.sha256:
        publish(source, target)
    return []
