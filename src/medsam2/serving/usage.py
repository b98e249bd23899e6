"""What one request is and takes, from its first byte to its answer's last."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field

from starlette.types import Scope

from medsam2.serving.admission import Reservation

_KEY = "medsam2.usage"


@dataclass(kw_only=True)
class Usage:
    """Kept beside a request, for the log and the meters."""

    reservation: Reservation
    request_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    num_rows: int = 0
    num_bytes: int = 0
    """Of the body, unpacked."""
    is_abandoned: bool = False
    """Whether the caller left before its answer."""

    def follow(self, scope: Scope) -> None:
        """Put it where routes find it."""
        scope[_KEY] = self


def usage_of(scope: Scope) -> Usage:
    """What the request of a scope takes."""
    usage = scope[_KEY]
    assert isinstance(usage, Usage)
    return usage
