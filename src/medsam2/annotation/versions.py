"""Versions of masks: each is a file that never changes, and a row that says who made it.

The file is on the disk under its final name before the row is written. If the program ends in between, a file
without a row remains, which `check_files` lists; a row without its file is impossible.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sqlalchemy import delete, func, select, update

from medsam2.annotation.cases import (
    Case,
    find_case,
    holder_of,
    list_cases,
    record_change,
    row_of,
    take_lock,
)
from medsam2.annotation.database import CASES, DRAFTS, PROJECTS, value_of
from medsam2.annotation.database import VERSIONS as ROWS
from medsam2.annotation.layout import (
    MASK_SUFFIX,
    VERSIONS,
    final_path,
    flush,
    make_folder,
    original_path,
    publish,
    version_path,
)
from medsam2.annotation.names import DEFAULT_COLOUR, MAX_LABEL, check_json, check_objects, check_user
from medsam2.annotation.project import DONE, FINISHED, IN_WORK, NEW, PROPOSED, Project
from medsam2.errors import Conflict, InputError, UnknownCase
from medsam2.imaging.io import read, write
from medsam2.imaging.volume import Volume, match_order

MAX_PROMPT_BYTES = 4 * 2**20
"""Largest list of prompts of one version, as JSON."""


@dataclass(frozen=True, kw_only=True)
class Weights:
    """The weights that a mask was made with."""

    name: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Version:
    """One saved mask of a case."""

    case: int
    number: int
    """From 1, in the order of saving."""
    is_proposal: bool
    """Whether a model made it without a user."""
    is_done: bool
    """Whether its author saved it as done."""
    author: str
    created_ms: int
    round: int
    path: str
    """Path relative to the project's folder."""
    sha256: str
    num_bytes: int
    objects: Mapping[str, Mapping[str, object]]
    """Label -> name, colour, number of voxels."""
    prompts: Sequence[object]
    weights: str | None
    weights_sha256: str | None


def save_version(
    project: Project,
    case_id: int,
    user: str,
    mask: Volume,
    *,
    objects: object = None,
    prompts: Sequence[object] = (),
    state: str = DONE,
    weights: Weights | None = None,
) -> tuple[Version, Case]:
    """Save a mask that a user has made; the user locks the case, and the user's draft of it is deleted.

    Args:
        project: The project.
        case_id: The case.
        user: The author.
        mask: Labels 0 to 255 (z, y, x) on the scan's grid; the voxels may be in another order.
        objects: Label -> {"name", "colour"}; see `names.check_objects`.
        prompts: The prompts that the model got, as JSON values.
        state: `in work` if the work goes on, `done` if it is finished.
        weights: Weights of the model, if one was used.

    Raises:
        UnknownCase: There is no such case.
        Conflict: Another user has the case open, or its state does not allow a new mask.
        InputError: A name, the state or the mask is invalid. GeometryError: The grids differ.
    """
    user, named = check_user(user), check_objects(objects)
    check_json("the list of prompts", prompts, MAX_PROMPT_BYTES)
    if state not in (IN_WORK, DONE):
        raise InputError(f"a mask is saved as {IN_WORK} or {DONE}, not as {state!r}")
    case = _lock(project, case_id, user)
    labels = _on_grid(project, case, mask)
    facts = _facts(labels, named, prompts, weights, user, state)
    version = _store(project, case, labels, facts, state)
    if version.is_done:
        publish(project.folder / version.path, final_path(project.folder, case.name))
    return version, find_case(project, case_id)


def add_proposal(
    project: Project,
    case_id: int,
    mask: Volume,
    *,
    model: str,
    objects: object = None,
    prompts: Sequence[object] = (),
    weights: Weights | None = None,
) -> Version:
    """Save a mask that a model has made for a case that nobody has worked on.

    Args:
        project: The project.
        case_id: The case.
        mask: Labels 0 to 255 (z, y, x) on the scan's grid.
        model: Name of the model; the rules for names of users apply.
        objects: As in `save_version`.
        prompts: The prompts that the model got.
        weights: Weights of the model, if known.

    Raises:
        UnknownCase: There is no such case.
        Conflict: A user works or has worked on the case.
        InputError: A name or the mask is invalid.
    """
    model, named = check_user(model), check_objects(objects)
    check_json("the list of prompts", prompts, MAX_PROMPT_BYTES)
    case = find_case(project, case_id)
    _check_untouched(case.state, case.holder)
    labels = _on_grid(project, case, mask)
    facts = _facts(labels, named, prompts, weights, model, PROPOSED)
    version = _store(project, case, labels, facts, PROPOSED)
    publish(project.folder / version.path, original_path(project.folder, case.name))
    return version


def list_versions(project: Project, case_id: int | None = None) -> list[Version]:
    """List the versions of one case or of all cases, in the order in which they were saved."""
    wanted = select(ROWS).join(CASES, CASES.c.id == ROWS.c.case).where(CASES.c.project == project.key)
    if case_id is not None:
        wanted = wanted.where(ROWS.c.case == case_id)
    with project.transaction() as db:
        rows = db.execute(wanted.order_by(ROWS.c.case, ROWS.c.number)).mappings()
        return [value_of(Version, row) for row in rows]


def read_version(project: Project, version: Version) -> Volume:
    """Read a version's labels, after a check that the file is still the one that was saved.

    Raises:
        InputError: The file is missing or has been changed.
    """
    path = project.folder / version.path
    if digest(path) != version.sha256:
        raise InputError(f"{version.path}: is missing or was changed after it was saved")
    return read(path)


def find_version(project: Project, case_id: int, number: int) -> Version:
    """Return one version of a case.

    Raises:
        UnknownCase: There is no such version.
    """
    for version in list_versions(project, case_id):
        if version.number == number:
            return version
    raise UnknownCase(f"case {case_id} has no version {number}")


def latest_done(versions: Sequence[Version]) -> Version | None:
    """Return the newest version that was saved as done, None if there is none."""
    done = [version for version in versions if version.is_done]
    return max(done, key=lambda version: version.number) if done else None


def _lock(project: Project, case_id: int, user: str) -> Case:
    """Take or renew the user's lock before the work of saving."""
    with project.transaction() as db:
        take_lock(db, project, case_id, user)
    case = find_case(project, case_id)
    if case.state not in (IN_WORK, DONE):
        raise Conflict(
            f"the case is {case.state}; open it to work on it, and reject it first if it is reviewed"
        )
    return case


def _check_untouched(state: str, holder: str | None) -> None:
    if holder is not None or state not in (NEW, PROPOSED):
        by = f", {holder} has it open" if holder else ""
        raise Conflict(
            f"the case is {state}{by}; a model can propose only for cases that nobody has worked on"
        )


def _on_grid(project: Project, case: Case, mask: Volume) -> Volume:
    """Bring labels onto exactly the scan's grid, as uint8."""
    array = mask.array
    if array.dtype.kind == "f" and not np.array_equal(array, np.rint(array)):
        raise InputError("a mask has whole numbers, 0 outside all objects; this one has fractions")
    if array.min() < 0 or array.max() > MAX_LABEL:
        raise InputError(f"a mask has labels 0 to {MAX_LABEL}, not {array.min():g} to {array.max():g}")
    scan = read(project.folder / case.path)
    return scan.with_array(match_order(mask, scan).astype(np.uint8))


def _facts(
    labels: Volume,
    named: Mapping[str, Mapping[str, str]],
    prompts: Sequence[object],
    weights: Weights | None,
    author: str,
    state: str,
) -> dict[str, object]:
    """Return the columns of a version that describe its mask and how it was made."""
    counts = np.bincount(labels.array.reshape(-1), minlength=MAX_LABEL + 1)
    objects = {}
    for label in sorted({*(int(key) for key in named), *np.flatnonzero(counts).tolist()} - {0}):
        known = named.get(str(label), {"name": f"object {label}", "colour": DEFAULT_COLOUR})
        objects[str(label)] = {**known, "voxels": int(counts[label])}
    return {
        "is_proposal": state == PROPOSED, "is_done": state == DONE, "author": author,
        "prompts": list(prompts), "objects": objects, "weights": weights and weights.name,
        "weights_sha256": weights and weights.sha256,
    }  # fmt: skip


def _store(project: Project, case: Case, labels: Volume, facts: Mapping[str, object], state: str) -> Version:
    """Write the file, then its row; state and draft change together with the row."""
    path, sha256 = _write(project, case, labels)
    with project.transaction() as db:
        if facts["is_proposal"]:
            row = row_of(db, project, case.id)
            # A user may have opened it while the file was written.
            _check_untouched(row["state"], holder_of(row, project.now_ms()))
        else:
            take_lock(db, project, case.id, str(facts["author"]))
            row = row_of(db, project, case.id)
            db.execute(update(CASES).where(CASES.c.id == case.id).values(owner=facts["author"]))
            mine = (DRAFTS.c.case == case.id) & (DRAFTS.c.user == facts["author"])
            db.execute(delete(DRAFTS).where(mine))
        record_change(db, project, row, str(facts["author"]), state)
        last = db.execute(select(func.max(ROWS.c.number)).where(ROWS.c.case == case.id)).scalar()
        current = select(PROJECTS.c.round).where(PROJECTS.c.key == project.key)
        values = {
            **facts, "case": case.id, "number": (last or 0) + 1, "created_ms": project.now_ms(),
            "round": db.execute(current).scalar_one(), "path": path.relative_to(project.folder).as_posix(),
            "sha256": sha256, "num_bytes": path.stat().st_size,
        }  # fmt: skip
        db.execute(ROWS.insert().values(**values))
    return value_of(Version, values)


def _write(project: Project, case: Case, labels: Volume) -> tuple[Path, str]:
    """Write labels under a temporary name; the final name needs the digest of the content."""
    folder = project.folder / VERSIONS / case.name
    make_folder(folder)
    temporary = folder / f".medsam2-{secrets.token_hex(8)}{MASK_SUFFIX}"
    try:
        write(labels, temporary)
        flush(temporary)
        sha256 = digest(temporary)
        assert sha256 is not None
        path = version_path(project.folder, case.name, project.now_ms(), sha256)
        temporary.replace(path)
    except OSError as error:
        raise InputError(f"the mask cannot be written: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    return path, sha256


def digest(path: Path) -> str | None:
    """Return the SHA-256 of a file in hexadecimal digits, None if it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


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
