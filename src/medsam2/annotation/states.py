"""The states of a case, and the one table of which may follow which."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from medsam2.annotation.conflict import Conflict
from medsam2.errors import InputError

NEW = "new"
PROPOSED = "proposed"
IN_WORK = "in work"
DONE = "done"
REVIEWED = "reviewed"
REJECTED = "rejected"

MAY_FOLLOW: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        NEW: (PROPOSED, IN_WORK),
        PROPOSED: (PROPOSED, IN_WORK),
        # Back to what it was when it was opened, if nothing was drawn.
        IN_WORK: (IN_WORK, DONE, NEW, PROPOSED, REJECTED),
        DONE: (DONE, IN_WORK, REVIEWED, REJECTED),
        REVIEWED: (REJECTED,),
        REJECTED: (IN_WORK,),
    }
)
"""State -> what it may become. A reviewed mask changes only after somebody has rejected it."""
STATES = tuple(MAY_FOLLOW)
VERDICTS = (REVIEWED, REJECTED)
OPENS_TO_WORK = (NEW, PROPOSED, REJECTED)
"""Opening these begins the work; done and reviewed cases may be opened to be looked at."""
FINISHED = (DONE, REVIEWED)


def check_state(state: str) -> None:
    """Refuse what is not the name of a state.

    Raises:
        InputError: It is none.
    """
    if state not in MAY_FOLLOW:
        raise InputError(f"no state is called {state!r}; they are {', '.join(STATES)}")


def check_change(before: str, after: str) -> None:
    """Refuse a change that the table does not have.

    Raises:
        InputError: There is no such state.
        Conflict: The one may not follow the other.
    """
    check_state(after)
    if after not in MAY_FOLLOW[before]:
        allowed = [state for state in MAY_FOLLOW[before] if state != before]
        raise Conflict(f"a case that is {before} cannot become {after}; it can become {' or '.join(allowed)}")
