"""The cases of a project: who has which, until when, and what became of it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import Connection, RowMapping, and_, func, or_, select, update

from medsam2.annotation.database import CASES, CHANGES, DRAFTS, EVENTS, VERSIONS
from medsam2.annotation.names import check_comment, check_user
from medsam2.annotation.project import IN_WORK, NEW, OPENS_TO_WORK, REVIEWED, Project, check_change
from medsam2.errors import Conflict, UnknownCase


@dataclass(frozen=True, kw_only=True)
class Case:
    """A scan and where the work on it stands."""

    id: int
    name: str
    path: str
    """Of the scan, below the project's folder."""
    num_slices: int
    """Along the file's third axis."""
    state: str
    owner: str | None
    """Who worked on it last."""
    holder: str | None
    """Who has it open at the moment."""
    holder_until_ms: int | None
    updated_ms: int


def moment(at_ms: int) -> str:
    """Write a time as ISO 8601 in UTC, to the millisecond."""
    when = datetime.fromtimestamp(at_ms / 1000, UTC)
    return when.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def list_cases(project: Project) -> list[Case]:
    """List the cases by name."""
    with project.transaction() as db:
        rows = (
            db.execute(select(CASES).where(CASES.c.project == project.key).order_by(CASES.c.name))
            .mappings()
            .all()
        )
    return [_case(row, project.now_ms()) for row in rows]


def find_case(project: Project, case_id: int) -> Case:
    """Return one case.

    Raises:
        UnknownCase: There is none.
    """
    with project.transaction() as db:
        return _case(row_of(db, project, case_id), project.now_ms())


def list_users(project: Project) -> list[str]:
    """List everybody who has done something in the project."""
    with project.transaction() as db:
        return sorted(users_in(db, project))


def users_in(db: Connection, project: Project) -> set[str]:
    """Return everybody who has done something in the project, within a transaction."""
    found: set[str] = set()
    for table, column in ((EVENTS, EVENTS.c.user), (CHANGES, CHANGES.c.user)):
        wanted = select(column).join(CASES, CASES.c.id == table.c.case)
        found.update(db.execute(wanted.where(CASES.c.project == project.key).distinct()).scalars())
    wanted = select(CASES.c.owner).where(CASES.c.project == project.key, CASES.c.owner.is_not(None))
    found.update(name for name in db.execute(wanted.distinct()).scalars() if name)
    return found


def open_case(project: Project, case_id: int, user: str) -> Case:
    """Take a case for a user: nobody else can until it is released, or its holder gives no sign of life.

    A case that is new, proposed or rejected is then in work.

    Raises:
        UnknownCase: There is none.
        Conflict: Somebody else holds it.
        InputError: The user's name cannot be.
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
    """Keep a case for longer.

    Returns:
        Until when, in milliseconds since 1970 (UTC).

    Raises:
        UnknownCase: There is none.
        Conflict: Somebody else holds it.
        InputError: The user's name cannot be.
    """
    user = check_user(user)
    with project.transaction() as db:
        return take_lock(db, project, case_id, user)


def release(project: Project, case_id: int, user: str) -> Case:
    """Give a case back, if the user holds it; one that was opened and left as it was gets its state back.

    Raises:
        UnknownCase: There is none.
        Conflict: Somebody else holds it.
        InputError: The user's name cannot be.
    """
    user = check_user(user)
    with project.transaction() as db:
        row = row_of(db, project, case_id)
        if row["lock_user"] == user:
            _undo_opening(db, project, row, user)
            freed = update(CASES).where(CASES.c.id == case_id, CASES.c.lock_user == user)
            db.execute(freed.values(lock_user=None, lock_until_ms=None))
        elif holder_of(row, project.now_ms()) is not None:
            raise _held(row)
        return _case(row_of(db, project, case_id), project.now_ms())


def change_state(project: Project, case_id: int, user: str, state: str, comment: str = "") -> Case:
    """Say what became of a case: a review's verdict, or that it is taken up again.

    Raises:
        UnknownCase: There is none.
        Conflict: Somebody else holds it, or the state may not follow.
        InputError: The name, the state or the comment cannot be.
    """
    user, comment = check_user(user), check_comment(comment)
    with project.transaction() as db:
        row = row_of(db, project, case_id)
        if holder_of(row, project.now_ms()) not in (None, user):
            raise _held(row)
        if state in OPENS_TO_WORK[:2]:
            raise Conflict(f"no user makes a case {state}; it was so before anybody worked on it")
        check_done_has_mask(db, row, state)
        if state == REVIEWED:
            _check_reviewer(db, project, row, user)
        record_change(db, project, row, user, state, comment)
        return _case(row_of(db, project, case_id), project.now_ms())


def take_lock(db: Connection, project: Project, case_id: int, user: str) -> int:
    """Take or renew the lock of a case, within a transaction.

    One statement decides, so that of two who ask at the same time one gets it.

    Raises:
        UnknownCase: There is none.
        Conflict: Somebody else holds it.
    """
    now = project.now_ms()
    until = now + round(project.lock_s * 1000)
    is_free = or_(CASES.c.lock_user.is_(None), CASES.c.lock_user == user, CASES.c.lock_until_ms <= now)
    wanted = update(CASES).where(and_(CASES.c.id == case_id, CASES.c.project == project.key, is_free))
    if db.execute(wanted.values(lock_user=user, lock_until_ms=until)).rowcount == 0:
        raise _held(row_of(db, project, case_id))
    return until


def row_of(db: Connection, project: Project, case_id: int) -> RowMapping:
    """Read a case's row and keep others from changing it until the transaction ends.

    Raises:
        UnknownCase: There is none.
    """
    wanted = select(CASES).where(CASES.c.id == case_id, CASES.c.project == project.key)
    row = db.execute(wanted.with_for_update()).mappings().first()
    if row is None:
        raise UnknownCase(f"the project has no case {case_id}")
    return row


def record_change(
    db: Connection, project: Project, row: RowMapping, user: str, state: str, comment: str = ""
) -> None:
    """Change a case's state, within a transaction, and remember who did.

    Raises:
        InputError: There is no such state.
        Conflict: It may not follow.
    """
    before = str(row["state"])
    check_change(before, state)
    now = project.now_ms()
    db.execute(update(CASES).where(CASES.c.id == row["id"]).values(state=state, updated_ms=now))
    if before != state or comment:
        what = {"case": row["id"], "user": user, "at_ms": now, "before": before, "after": state}
        db.execute(CHANGES.insert().values(**what, comment=comment))


def check_done_has_mask(db: Connection, row: RowMapping, state: str) -> None:
    """Refuse to call a case done that nobody has drawn a mask for."""
    case_id = row["id"]
    drawn = select(func.count()).where(VERSIONS.c.case == case_id, VERSIONS.c.is_proposal.is_(False))
    if state == "done" and db.execute(drawn).scalar_one() == 0:
        raise Conflict("a case is done once a mask is saved; this one has none")


def _check_reviewer(db: Connection, project: Project, row: RowMapping, user: str) -> None:
    """Refuse that authors accept their own masks, unless the project is one person's."""
    case_id = row["id"]
    drawn = VERSIONS.c.is_proposal.is_(False) & VERSIONS.c.is_done & (VERSIONS.c.case == case_id)
    newest = select(VERSIONS.c.author).where(drawn).order_by(VERSIONS.c.number.desc()).limit(1)
    if db.execute(newest).scalar() != user:
        return
    proposed = select(VERSIONS.c.author).join(CASES, CASES.c.id == VERSIONS.c.case)
    proposed = proposed.where(CASES.c.project == project.key, VERSIONS.c.is_proposal)
    models = set(db.execute(proposed.distinct()).scalars())  # these review nothing
    if users_in(db, project) - models - {user}:
        raise Conflict("you drew this mask; somebody else has to review it")


def _undo_opening(db: Connection, project: Project, row: RowMapping, user: str) -> None:
    """Give a case its state back that was opened, and nothing drawn, saved or kept as a draft."""
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


def _held(row: RowMapping) -> Conflict:
    user, until = str(row["lock_user"]), int(row["lock_until_ms"])
    return Conflict(
        f"{user} has this case open, until {moment(until)} if nothing more is done there; "
        "it can be opened once it is released",
        holder=user,
        until_ms=until,
    )


def holder_of(row: RowMapping, now_ms: int) -> str | None:
    """Return who has the case of a row open, None if nobody has."""
    until = row["lock_until_ms"]
    return str(row["lock_user"]) if row["lock_user"] and until is not None and until > now_ms else None


def _case(row: RowMapping, now_ms: int) -> Case:
    holder = holder_of(row, now_ms)
    return Case(
        **{name: row[name] for name in ("id", "name", "path", "num_slices", "state", "owner", "updated_ms")},
        holder=holder,
        holder_until_ms=row["lock_until_ms"] if holder else None,
    )
