"""The routes for images that a viewer lends to the server."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from starlette.responses import FileResponse, JSONResponse

from medsam2.serving.faults import Fault, shown
from medsam2.serving.monailabel.dialect import Dialect, read_sent_form, told
from medsam2.serving.monailabel.params import flag


def add_sessions(router: APIRouter, dialect: Dialect) -> None:
    """Open, look at and close sessions."""
    sessions = dialect.sessions

    @router.put("/session/", response_model=None)
    @told
    async def put_session(request: Request, expiry: str = "") -> Response:
        """Open an image, or the files of a series; archives are read as they are."""
        form = await read_sent_form(dialect, request)
        session = await sessions.add(form.files, dialect.service.folder, _seconds(expiry))
        return JSONResponse({"session_id": session.session_id, "session_info": session.info})

    @router.get("/session/{session_id}", response_model=None)
    @told
    async def get_session(session_id: str, image: str = "") -> Response:
        """Say how a session stands; viewers ask before each click, which keeps it open."""
        session = sessions.find(session_id)
        if not flag(image or None, "image", default=False):
            return JSONResponse(session.info)
        if not session.suffix:
            raise Fault(422, "the session is of several files, which are not given back")
        return FileResponse(session.path, filename=f"image{session.suffix}")

    @router.delete("/session/{session_id}", response_model=None)
    @told
    async def delete_session(session_id: str) -> Response:
        """Close a session."""
        return JSONResponse(sessions.remove(session_id).info)


def _seconds(text: str) -> int:
    if not text:
        return 0
    if not text.isdecimal() or len(text) > 9:
        raise Fault(422, f"expiry is {shown(text)}; seconds are expected, 0 for as long as any")
    return int(text)
