"""The paths of other viewers' protocols, which the server's guard and connections know apart."""

from __future__ import annotations

import base64
import hmac

from starlette.types import Scope

from medsam2.serving.http_errors import KeyMissing
from medsam2.serving.limits import header

PREFIX = "/viewers/"
NAME = "viewer"
"""Of the part of a path behind the prefix: a user's name, or that of a window."""
REASON = "x-reason"
"""A header between the application and the connection, which makes it the reason of the status line."""

NNINTERACTIVE = (
    "/claim", "/capabilities", "/heartbeat", "/lease_status", "/release", "/set_do_autozoom", "/set_image",
    "/set_target_buffer", "/reset_interactions", "/add_initial_seg_interaction", "/predict", "/undo",
)  # fmt: skip
SHARED = (
    "/add_point_interaction", "/add_bbox_interaction", "/add_scribble_interaction", "/add_lasso_interaction",
)  # fmt: skip
"""Paths of nnInteractive 2.x that SlicerNNInteractive 0.x has as well."""
SLICER = ("/upload_image", "/upload_segment")
ITKSNAP = (
    "/status", "/start_session", "/end_session", "/upload_raw", "/reset_interactions",
    "/process_point_interaction", "/process_scribble_interaction", "/process_lasso_interaction",
)  # fmt: skip
"""Also below /v2, and with an id behind them."""

_BEARER, _BASIC = "bearer ", "basic "
_WHOLE = frozenset((*NNINTERACTIVE, *SHARED, *SLICER, "/v2/models"))
_BEGINNINGS = frozenset(ITKSNAP)


def is_viewer_path(path: str) -> bool:
    """Whether a path belongs to one of these protocols."""
    if path.startswith(PREFIX):
        return True
    if path in _WHOLE:
        return True
    parts = path.removeprefix("/v2").split("/")
    return len(parts) in (2, 3) and f"/{parts[1]}" in _BEGINNINGS


def check_viewer_key(authorization: str, key: bytes) -> None:
    """Check the key of a viewer: as Bearer, or as the password of Basic, which any user name may go with.

    `http://me:KEY@server:8000` as the address makes viewers without a field for a key send Basic.

    Raises:
        KeyMissing: It is not there, or it is wrong: viewers blame the key for 401 alone.
    """
    if authorization.lower().startswith(_BEARER):
        given = authorization[len(_BEARER) :].strip().encode("latin-1")
    else:
        given = basic_pair(authorization)[1]
    if not hmac.compare_digest(given, key):
        raise KeyMissing(
            "this server needs its key: send it as Authorization: Bearer KEY, or write the address as "
            "http://me:KEY@HOST:PORT"
        )


def basic_pair(authorization: str) -> tuple[str, bytes]:
    """The user's name and the password of a header, empty where there are none."""
    if not authorization.lower().startswith(_BASIC):
        return "", b""
    try:
        user, _, password = base64.b64decode(authorization[len(_BASIC) :].strip()).partition(b":")
    except ValueError:
        return "", b""
    return user.decode("latin-1"), password


def waits_longer(scope: Scope) -> bool:
    """Whether the client of a request waits longer if it is told that work goes on."""
    return bool(header(scope, b"x-lease-token"))
