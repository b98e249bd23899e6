"""The log of what users did (events), and their unsaved work (drafts)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from sqlalchemy import func, select

from medsam2.annotation.cases import row_of, take_lock
from medsam2.annotation.clock import NO_OBJECT, Event
from medsam2.annotation.database import CASES, DRAFTS, EVENTS, PROJECTS, insert_new, replace_row, value_of
from medsam2.annotation.names import MAX_LABEL, check_kind, check_user
from medsam2.annotation.project import Project
from medsam2.errors import InputError

MAX_EVENTS = 1000
"""Events in one message."""
_OVERLAP = 1000  # of two transactions the one with the lower number may be visible later
_MAX_VOXELS = 2**40
MAX_BYTES = 4 * 2**20
"""Largest draft, as JSON."""
_EARLIEST_MS = 946_684_800_000  # the year 2000: a clock before that was never set
_AHEAD_MS = 86_400_000  # a clock may be a day fast


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


def users_since(project: Project, number: int) -> tuple[set[str], int]:
    """Return the users with events after a given one, and the number of the newest event.

    Args:
        project: The project.
        number: The number that the last call returned, 0 for the first call.
    """
    since = select(EVENTS.c.user).join(CASES, CASES.c.id == EVENTS.c.case).distinct()
    since = since.where(CASES.c.project == project.key, EVENTS.c.id > number - _OVERLAP)
    with project.transaction() as db:
        newest = db.execute(select(func.max(EVENTS.c.id))).scalar() or 0
        return (set(db.execute(since).scalars()) if newest != number else set()), int(newest)


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


def keep_draft(project: Project, case_id: int, user: str, content: object) -> None:
    """Store a user's draft of a case in place of the one before, and renew the user's lock.

    Raises:
        UnknownCase: There is no such case.
        Conflict: Another user has the case open.
        InputError: The user's name is invalid, or the draft is too large or not JSON.
    """
    user = check_user(user)
    try:
        text = json.dumps(content, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"a draft must be JSON: {error}") from None
    if len(text) > MAX_BYTES:
        raise InputError(f"a draft has at most {MAX_BYTES} bytes, this one has {len(text)}")
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
