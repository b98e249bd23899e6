"""The routes by which viewers ask a person for the server's key: the password; any name does."""

from __future__ import annotations

import hmac

from fastapi import APIRouter, Request, Response
from starlette.responses import JSONResponse

from medsam2.serving.faults import Fault
from medsam2.serving.monailabel.dialect import Dialect, read_sent_form, told

_NAME = "medsam2"
_MAX_BYTES = 1 << 16  # anybody may send them


def add_auth(router: APIRouter, dialect: Dialect, key: bytes) -> None:
    """Let viewers turn a password into the header that the guard looks at.

    Args:
        router: Gets the routes.
        dialect: The server's parts.
        key: The server's.
    """

    @router.get("/auth/", response_model=None)
    @told
    async def get_auth() -> Response:
        """Say that a password is needed."""
        return JSONResponse({"enabled": True, "client_id": _NAME, "realm": _NAME})

    @router.post("/auth/token", response_model=None)
    @told
    async def post_token(request: Request) -> Response:
        """Take the key as a password."""
        form = await read_sent_form(dialect, request, _MAX_BYTES)
        if not hmac.compare_digest(form.fields.get("password", "").strip().encode(), key):
            raise Fault(403, "the password is not this server's key")
        return JSONResponse({"access_token": key.decode(), "token_type": "Bearer"})

    @router.get("/auth/token/valid", response_model=None)
    @told
    async def get_valid() -> Response:
        """Say that the guard has let the caller through."""
        return JSONResponse({"username": _NAME, "roles": []})
