"""What the routes of a project say of cases and versions, and how a request names them."""

from __future__ import annotations

from fastapi import Request

from medsam2.annotation.cases import Case, moment
from medsam2.annotation.overview import Entry
from medsam2.annotation.versions import Version
from medsam2.serving.faults import Fault, shown

_LONGEST_NUMBER = 9  # digits that every database takes


def case_of(request: Request) -> int:
    """Return the number of the case in a request's path.

    Raises:
        Fault: 404, it is no number.
    """
    return as_number(request.path_params["case_id"], "case")


def as_number(value: object, what: str) -> int:
    """Return a number that a caller gave, as such or as a text.

    Raises:
        Fault: 404, it is none that anything here has.
    """
    text = str(value)
    if isinstance(value, bool) or not (text.isascii() and text.isdecimal() and len(text) <= _LONGEST_NUMBER):
        raise Fault(404, f"the project has no {what} {shown(value)}")
    return int(text)


def lock_facts(case: Case) -> dict[str, str] | None:
    """Say who has a case open and until when; None if nobody has."""
    if case.holder is None or case.holder_until_ms is None:
        return None
    return {"user": case.holder, "until": moment(case.holder_until_ms)}


def entry_facts(entry: Entry) -> dict[str, object]:
    """Say what the list shows of a case."""
    case = entry.case
    return {
        "id": str(case.id),
        "name": case.name,
        "state": case.state,
        "owner": case.owner,
        "lock": lock_facts(case),
        "num_slices": case.num_slices,
        "objects": list(entry.objects),
        "num_versions": entry.num_versions,
        "active_s": round(entry.active_s, 1),
        "updated": moment(case.updated_ms),
    }


def version_facts(version: Version) -> dict[str, object]:
    """Say whose a version is and what is in it."""
    return {
        "version": version.number,
        "author": version.author,
        "created": moment(version.created_ms),
        "is_proposal": version.is_proposal,
        "is_done": version.is_done,
        "objects": dict(version.objects),
        "weights": version.weights,
        "sha256": version.sha256,
    }
