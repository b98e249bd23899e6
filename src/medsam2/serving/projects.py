"""The routes of a project: its cases, who has them, what they have drawn and how long it took."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

from fastapi import FastAPI, Request, Response
from starlette.responses import JSONResponse

from medsam2.annotation.cases import (
    Case,
    change_state,
    find_case,
    list_users,
    moment,
    open_case,
    release,
    renew,
)
from medsam2.annotation.drafts import MAX_BYTES, find_draft, keep_draft
from medsam2.annotation.improvement import Rounds
from medsam2.annotation.journal import log_events
from medsam2.annotation.overview import Entry, survey
from medsam2.annotation.page import POLICY, render_report
from medsam2.annotation.project import Project
from medsam2.annotation.rounds import Improver
from medsam2.annotation.thumbnails import thumbnail
from medsam2.annotation.versions import Version, find_version, list_versions, read_version
from medsam2.errors import InputError
from medsam2.serving.faults import Fault, shown
from medsam2.serving.json_object import read_object
from medsam2.serving.mask_upload import MaskUpload
from medsam2.serving.off_loop import in_thread
from medsam2.serving.round_routes import RoundRoutes
from medsam2.serving.service import Service

PREFIX = "/v1/project"
_CASE = PREFIX + "/cases/{case_id}"
_SMALL_MIB = 1
_DRAFT_MIB = MAX_BYTES // 2**20 + 1  # with the names around it

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


def add_projects(
    app: FastAPI, service: Service, project: Project, improver: Improver | None = None
) -> Rounds:
    """Add the routes of a project to an application.

    Args:
        app: Before its first request.
        service: What the application has one of.
        project: An open project; the caller closes it.
        improver: Trains on finished cases and changes the weights; without one no round can be started.

    Returns:
        The project's rounds, to be closed at the end.
    """
    rounds = Rounds(project, improver, service.settings.weights)
    routes, round_routes = _Routes(service, project), RoundRoutes(service, rounds)
    for method, path, answer in (
        ("GET", PREFIX, routes.show_project),
        ("GET", _CASE + "/thumbnail", routes.show_thumbnail),
        ("POST", _CASE + "/open", routes.open),
        ("POST", _CASE + "/renew", routes.renew),
        ("POST", _CASE + "/release", routes.release),
        ("GET", _CASE + "/draft", routes.show_draft),
        ("PUT", _CASE + "/draft", routes.keep_draft),
        ("POST", _CASE + "/versions", routes.save),
        ("GET", _CASE + "/versions/{number}/mask", routes.show_mask),
        ("POST", _CASE + "/state", routes.change_state),
        ("POST", PREFIX + "/events", routes.log),
        ("GET", PREFIX + "/report", routes.show_report),
        ("GET", PREFIX + "/rounds", round_routes.show),
        ("POST", PREFIX + "/rounds", round_routes.act),
    ):
        _add(app, method, path, answer)
    return rounds


class _Routes:
    """Each method parses a request, calls the library and encodes what it says."""

    def __init__(self, service: Service, project: Project) -> None:
        self._service = service
        self._project = project
        self._uploads = MaskUpload(service, project)

    async def show_project(self, _: Request) -> Response:
        """List the cases and who has worked on them."""
        entries = await in_thread(survey, self._project)
        users = await in_thread(list_users, self._project)
        cases = [_entry(entry) for entry in entries]
        return JSONResponse({"name": self._project.name, "cases": cases, "users": users})

    async def show_thumbnail(self, request: Request) -> Response:
        """Draw a case's middle slice."""
        case = await in_thread(find_case, self._project, _case_id(request))
        picture = await self._here(thumbnail, self._project.folder, case.path)
        return Response(picture, media_type="image/png")

    async def open(self, request: Request) -> Response:
        """Take a case for a user."""
        user, case_id = await self._user(request), _case_id(request)
        case = await in_thread(open_case, self._project, case_id, user)
        draft = await in_thread(find_draft, self._project, case_id, user)
        versions = await in_thread(list_versions, self._project, case_id)
        return JSONResponse(
            {
                "lock": _lock(case),
                "path": case.path,
                "state": case.state,
                "draft": draft,
                "versions": [_version(version) for version in versions],
            }
        )

    async def renew(self, request: Request) -> Response:
        """Keep a case for longer."""
        user, case_id = await self._user(request), _case_id(request)
        await in_thread(renew, self._project, case_id, user)
        return JSONResponse({"lock": _lock(await in_thread(find_case, self._project, case_id))})

    async def release(self, request: Request) -> Response:
        """Give a case back."""
        user = await self._user(request)
        case = await in_thread(release, self._project, _case_id(request), user)
        return JSONResponse({"lock": _lock(case), "state": case.state})

    async def show_draft(self, request: Request) -> Response:
        """Return a user's unsaved work on a case."""
        user = request.query_params.get("user", "")
        draft = await in_thread(find_draft, self._project, _case_id(request), user)
        return JSONResponse({"draft": draft})

    async def keep_draft(self, request: Request) -> Response:
        """Keep a user's unsaved work on a case."""
        asked = await read_object(self._service, request, _DRAFT_MIB)
        await in_thread(keep_draft, self._project, _case_id(request), asked.text("user"), asked.get("draft"))
        return Response(status_code=204)

    async def save(self, request: Request) -> Response:
        """Keep a mask as a new version."""
        asked = await read_object(self._service, request)
        version, case = await self._uploads.save(_case_id(request), asked)
        answer = {**_version(version), "state": case.state}
        return JSONResponse(answer, 201)

    async def show_mask(self, request: Request) -> Response:
        """Return a version's file, having made sure that it is what was saved."""
        number = _whole(request, "number")
        version = await in_thread(find_version, self._project, _case_id(request), number)
        await self._here(read_version, self._project, version)
        path: Path = self._project.folder / version.path
        return Response(await asyncio.to_thread(path.read_bytes), media_type="application/gzip")

    async def change_state(self, request: Request) -> Response:
        """Take a verdict on a case."""
        asked = await read_object(self._service, request, _SMALL_MIB)
        user, state, comment = asked.text("user"), asked.text("state"), asked.text("comment", "")
        case = await in_thread(change_state, self._project, _case_id(request), user, state, comment)
        return JSONResponse({"state": case.state})

    async def log(self, request: Request) -> Response:
        """Keep what a user did."""
        asked = await read_object(self._service, request, _SMALL_MIB)
        case_id = _as_id(asked.get("case"))
        await in_thread(log_events, self._project, case_id, asked.text("user"), asked.get("events"))
        return Response(status_code=204)

    async def show_report(self, _: Request) -> Response:
        """Write the report as it stands."""
        page = await self._here(render_report, self._project)
        return Response(page, media_type="text/html", headers={"Content-Security-Policy": POLICY})

    async def _user(self, request: Request) -> str:
        return (await read_object(self._service, request, _SMALL_MIB)).text("user")

    async def _here(
        self, work: Callable[_Arguments, _Result], *arguments: _Arguments.args, **named: _Arguments.kwargs
    ) -> _Result:
        """Work with files, of which callers hear no more than where they lie in the project."""
        try:
            return await in_thread(work, *arguments, **named)
        except InputError as error:
            raise InputError(str(error).replace(f"{self._project.folder}/", "")) from error


def _add(app: FastAPI, method: str, path: str, answer: Callable[[Request], Awaitable[Response]]) -> None:
    name = f"{method}_{path.removeprefix('/')}".lower()
    app.add_api_route(path, answer, methods=[method], response_model=None, operation_id=name)


def _case_id(request: Request) -> int:
    return _whole(request, "case_id")


def _whole(request: Request, name: str) -> int:
    return _as_id(request.path_params[name])


def _as_id(value: object) -> int:
    text = str(value)
    if isinstance(value, bool) or not (text.isascii() and text.isdecimal() and len(text) <= 9):
        raise Fault(404, f"the project has no case {shown(value)}")
    return int(text)


def _lock(case: Case) -> dict[str, str] | None:
    if case.holder is None or case.holder_until_ms is None:
        return None
    return {"user": case.holder, "until": moment(case.holder_until_ms)}


def _entry(entry: Entry) -> dict[str, object]:
    case = entry.case
    return {
        "id": str(case.id),
        "name": case.name,
        "state": case.state,
        "owner": case.owner,
        "lock": _lock(case),
        "num_slices": case.num_slices,
        "objects": list(entry.objects),
        "num_versions": entry.num_versions,
        "active_s": round(entry.active_s, 1),
        "updated": moment(case.updated_ms),
    }


def _version(version: Version) -> dict[str, object]:
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
