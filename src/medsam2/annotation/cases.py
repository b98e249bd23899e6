"""The cases of a project: their states, who has which case open, and unsaved work (drafts)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import Connection, RowMapping, and_, func, or_, select, union, update

from medsam2.annotation.database import CASES, CHANGES, DRAFTS, EVENTS, VERSIONS, replace_row, value_of
from medsam2.annotation.names import check_comment, check_json, check_user
from medsam2.annotation.project import (
    DONE,
    IN_WORK,
    NEW,
    OPENS_TO_WORK,
    REVIEWED,
    Project,
    check_change,
)
from medsam2.errors import Conflict, UnknownCase

MAX_DRAFT_BYTES = 4 * 2**20
"""Largest draft, as JSON."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A scan and the state of the work on it."""

    id: int
    name: str
    path: str
    """Path of the scan, relative to the project's folder."""
    num_slices: int
    """Slices along the file's third axis."""
    state: str
    owner: str | None
    """The user who worked on it last."""
    holder: str | None
    """The user who has it open now."""
    holder_until_ms: int | None
    updated_ms: int


def moment(at_ms: int) -> str:
    """Write a time as ISO 8601 in UTC, to the millisecond."""
    when = datetime.fromtimestamp(at_ms / 1000, UTC)
    return when.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def list_cases(project: Project) -> list[Case]:
    """List the cases by name."""
    of_project = select(CASES).where(CASES.c.project == project.key).order_by(CASES.c.name)
    with project.transaction() as db:
        return [_case(row, project.now_ms()) for row in db.execute(of_project).mappings()]


def find_case(project: Project, case_id: int) -> Case:
    """Return one case.

    Raises:
        UnknownCase: There is no such case.
    """
    with project.transaction() as db:
        return _case(row_of(db, project, case_id), project.now_ms())


def list_users(project: Project) -> list[str]:
    """List all users who have worked in the project."""
    with project.transaction() as db:
        return sorted(users_in(db, project))


def users_in(db: Connection, project: Project) -> set[str]:
    """Return all users who have worked in the project, within a transaction."""
    names = [select(table.c.user).join(CASES, CASES.c.id == table.c.case) for table in (EVENTS, CHANGES)]
    names.append(select(CASES.c.owner))
    of_project = [one.where(CASES.c.project == project.key) for one in names]
    return {name for name in db.execute(union(*of_project)).scalars() if name}


def open_case(project: Project, case_id: int, user: str) -> Case:
    """Open a case for a user and lock it: no other user can open it until it is released or the lock expires.

    A case that was new, proposed or rejected is then in work.

    Raises:
        UnknownCase: There is no such case.
        Conflict: Another user has the case open.
        InputError: The user's name is invalid.
    """
    user = check_user(user)
    with project.transaction() as db:
        take_lock(db, project, case_id, user)
        row = row_of(db, project, case_id)
        if row["state"] in OPENS_TO_WORK:
            record_change(db, project, row, user, IN_WORK)
            db.execute(update(CASES).where(CASES.c.id == case_id).values(owner=user))
        return _case(row_of(db, project, case_id), project.now_ms())


def renew(project: Project, case_id: int, user: str) -> int:
    """Renew the lock of a case.

    Returns:
        When the lock expires, in milliseconds since 1970 (UTC).

    Raises:
        UnknownCase: There is no such case.
        Conflict: Another user has the case open.
        InputError: The user's name is invalid.
    """
    user = check_user(user)
    with project.transaction() as db:
        return take_lock(db, project, case_id, user)


def release(project: Project, case_id: int, user: str) -> Case:
    """Close a case that the user has open; if nothing was drawn in it, it gets its earlier state back.

    Raises:
        UnknownCase: There is no such case.
        Conflict: Another user has the case open.
        InputError: The user's name is invalid.
    """
    user = check_user(user)
    with project.transaction() as db:
        row = row_of(db, project, case_id)
        if row["lock_user"] == user:
            _undo_opening(db, project, row, user)
            freed = update(CASES).where(CASES.c.id == case_id, CASES.c.lock_user == user)
            db.execute(freed.values(lock_user=None, lock_until_ms=None))
        elif holder_of(row, project.now_ms()) is not None:
            raise _conflict(row)
        return _case(row_of(db, project, case_id), project.now_ms())


def change_state(project: Project, case_id: int, user: str, state: str, comment: str = "") -> Case:
    """Change the state of a case: a reviewer's verdict, or the start of new work on it.

    Raises:
        UnknownCase: There is no such case.
        Conflict: Another user has the case open, or this state may not follow the present one.
        InputError: The user's name, the state or the comment is invalid.
    """
    user, comment = check_user(user), check_comment(comment)
    with project.transaction() as db:
        row = row_of(db, project, case_id)
        if holder_of(row, project.now_ms()) not in (None, user):
            raise _conflict(row)
        if state in OPENS_TO_WORK[:2]:
            raise Conflict(
                f"a user cannot make a case {state}; only a case that nobody has worked on is {state}"
            )
        check_done_has_mask(db, row, state)
        if state == REVIEWED:
            _check_reviewer(db, project, row, user)
        record_change(db, project, row, user, state, comment)
        return _case(row_of(db, project, case_id), project.now_ms())


def take_lock(db: Connection, project: Project, case_id: int, user: str) -> int:
    """Take or renew the lock of a case, within a transaction.

    One SQL statement decides, so that of two simultaneous requests exactly one succeeds.

    Raises:
        UnknownCase: There is no such case.
        Conflict: Another user has the case open.
    """
    now = project.now_ms()
    until = now + round(project.lock_s * 1000)
    is_free = or_(CASES.c.lock_user.is_(None), CASES.c.lock_user == user, CASES.c.lock_until_ms <= now)
    wanted = update(CASES).where(and_(CASES.c.id == case_id, CASES.c.project == project.key, is_free))
    if db.execute(wanted.values(lock_user=user, lock_until_ms=until)).rowcount == 0:
        raise _conflict(row_of(db, project, case_id))
    return until


def row_of(db: Connection, project: Project, case_id: int) -> RowMapping:
    """Read a case's row and lock it against changes until the transaction ends.

    Raises:
        UnknownCase: There is no such case.
    """
    wanted = select(CASES).where(CASES.c.id == case_id, CASES.c.project == project.key)
    row = db.execute(wanted.with_for_update()).mappings().first()
    if row is None:
        raise UnknownCase(f"the project has no case {case_id}")
    return row


def record_change(
    db: Connection, project: Project, row: RowMapping, user: str, state: str, comment: str = ""
) -> None:
    """Change a case's state, within a transaction, and log the change.

    Raises:
        InputError: There is no such state.
        Conflict: This state may not follow the present one.
    """
    before = str(row["state"])
    check_change(before, state)
    now = project.now_ms()
    db.execute(update(CASES).where(CASES.c.id == row["id"]).values(state=state, updated_ms=now))
    if before != state or comment:
        what = {"case": row["id"], "user": user, "at_ms": now, "before": before, "after": state}
        db.execute(CHANGES.insert().values(**what, comment=comment))


def check_done_has_mask(db: Connection, row: RowMapping, state: str) -> None:
    """Refuse the state done for a case in which no user has saved a mask."""
    case_id = row["id"]
    drawn = select(func.count()).where(VERSIONS.c.case == case_id, VERSIONS.c.is_proposal.is_(False))
    if state == DONE and db.execute(drawn).scalar_one() == 0:
        raise Conflict("a case can be done only when a mask is saved; this one has none")


def _check_reviewer(db: Connection, project: Project, row: RowMapping, user: str) -> None:
    """Refuse that authors review their own masks, unless the project has only one user."""
    case_id = row["id"]
    drawn = VERSIONS.c.is_proposal.is_(False) & VERSIONS.c.is_done & (VERSIONS.c.case == case_id)
    newest = select(VERSIONS.c.author).where(drawn).order_by(VERSIONS.c.number.desc()).limit(1)
    if db.execute(newest).scalar() != user:
        return
    proposed = select(VERSIONS.c.author).join(CASES, CASES.c.id == VERSIONS.c.case)
    proposed = proposed.where(CASES.c.project == project.key, VERSIONS.c.is_proposal)
    models = set(db.execute(proposed.distinct()).scalars())  # models do not review
    if users_in(db, project) - models - {user}:
        raise Conflict("you drew this mask; another user has to review it")


def _undo_opening(db: Connection, project: Project, row: RowMapping, user: str) -> None:
    """Give an opened case its earlier state back if the user drew nothing: no mask, no draft."""
    if row["state"] != IN_WORK:
        return
    of_case = select(CHANGES).where(CHANGES.c.case == row["id"]).order_by(CHANGES.c.id.desc())
    change = db.execute(of_case.limit(1)).first()
    if change is None or change.after != IN_WORK or change.user != user or change.before not in OPENS_TO_WORK:
        return
    drafts = select(func.count()).where(DRAFTS.c.case == row["id"])
    is_drawn = VERSIONS.c.is_proposal.is_(False) & (VERSIONS.c.created_ms >= change.at_ms)
    saved = select(func.count()).where(VERSIONS.c.case == row["id"], is_drawn)
    if db.execute(drafts).scalar_one() == 0 and db.execute(saved).scalar_one() == 0:
        record_change(db, project, row, user, change.before)
        if change.before == NEW:
            db.execute(update(CASES).where(CASES.c.id == row["id"]).values(owner=None))


def _conflict(row: RowMapping) -> Conflict:
    user, until = str(row["lock_user"]), int(row["lock_until_ms"])
    return Conflict(
        f"{user} has this case open until {moment(until)}, or longer if the work goes on; "
        "you can open it when it is released",
        holder=user,
        until_ms=until,
    )


def holder_of(row: RowMapping, now_ms: int) -> str | None:
    """Return the user who has the case of a row open, None if nobody has."""
    until = row["lock_until_ms"]
    return str(row["lock_user"]) if row["lock_user"] and until is not None and until > now_ms else None


def _case(row: RowMapping, now_ms: int) -> Case:
    holder = holder_of(row, now_ms)
    return value_of(Case, row, holder=holder, holder_until_ms=row["lock_until_ms"] if holder else None)


def keep_draft(project: Project, case_id: int, user: str, content: object) -> None:
    """Store a user's draft of a case in place of the one before, and renew the user's lock.

    Raises:
        UnknownCase: There is no such case.
        Conflict: Another user has the case open.
        InputError: The user's name is invalid, or the draft is too large or not JSON.
    """
    user = check_user(user)
    text = check_json("a draft", content, MAX_DRAFT_BYTES)
    with project.transaction() as db:
        take_lock(db, project, case_id, user)
        row = {"case": case_id, "user": user, "content": text, "updated_ms": project.now_ms()}
        replace_row(db, DRAFTS, row)


def find_draft(project: Project, case_id: int, user: str) -> object:
    """Return a user's draft of a case, None if there is none.

    Raises:
        UnknownCase: There is no such case.
        InputError: The user's name is invalid.
    """
    user = check_user(user)
    wanted = select(DRAFTS.c.content).where(DRAFTS.c.case == case_id, DRAFTS.c.user == user)
    with project.transaction() as db:
        row_of(db, project, case_id)
        text = db.execute(wanted).scalar()
    return None if text is None else json.loads(text)
