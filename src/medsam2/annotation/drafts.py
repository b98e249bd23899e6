"""Work that is not saved yet: what a page needs to go on after a reload, whoever restarted what."""

from __future__ import annotations

import json

from sqlalchemy import select

from medsam2.annotation.cases import row_of, take_lock
from medsam2.annotation.database import replace_row
from medsam2.annotation.names import check_user
from medsam2.annotation.project import Project
from medsam2.annotation.tables import DRAFTS
from medsam2.errors import InputError

MAX_BYTES = 4 * 2**20
"""Of a draft, as JSON."""


def keep_draft(project: Project, case_id: int, user: str, content: object) -> None:
    """Keep a user's draft of a case in place of the one before; a sign of life as well.

    Raises:
        UnknownCase: There is no such case.
        Conflict: Somebody else holds it.
        InputError: The name cannot be, or the draft is too large or no JSON.
    """
    user = check_user(user)
    try:
        text = json.dumps(content, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"a draft is made of JSON values: {error}") from None
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
        InputError: The name cannot be.
    """
    user = check_user(user)
    wanted = select(DRAFTS.c.content).where(DRAFTS.c.case == case_id, DRAFTS.c.user == user)
    with project.transaction() as db:
        row_of(db, project, case_id)
        text = db.execute(wanted).scalar()
    return None if text is None else json.loads(text)
