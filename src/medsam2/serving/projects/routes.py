"""The routes of a project: cases, who has them, drafts, versions, rounds."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from fastapi import FastAPI, Request, Response
from starlette.responses import JSONResponse

from medsam2.annotation.cases import change_state, find_case, list_users, moment, open_case, release, renew
from medsam2.annotation.improvement import Rounds
from medsam2.annotation.journal import MAX_BYTES, find_draft, keep_draft, log_events
from medsam2.annotation.layout import thumbnail
from medsam2.annotation.overview import Overview
from medsam2.annotation.project import Project
from medsam2.annotation.report import POLICY, render_report
from medsam2.annotation.rounds import Improver, Round
from medsam2.annotation.versions import find_version, list_versions, read_version
from medsam2.serving.http_errors import Fault, shown
from medsam2.serving.projects.requests import (
    MaskUpload,
    as_number,
    case_of,
    entry_facts,
    in_folder,
    in_thread,
    lock_facts,
    read_object,
    version_facts,
)
from medsam2.serving.service import Service

_ACTIONS = ("start", "go on", "use", "back")
_BEGINNINGS = _ACTIONS[:2]
_BODY_MIB = 1


class RoundRoutes:
    """Each method parses a request, calls the library and encodes what it says."""

    def __init__(self, service: Service, rounds: Rounds) -> None:
        self._service = service
        self._rounds = rounds

    async def show(self, _: Request) -> Response:
        """List the rounds, whose weights are in use, and why no other can be started."""
        return JSONResponse(await in_thread(self._described))

    async def act(self, request: Request) -> Response:
        """Start a round, go on with one, take the weights of one, or go back to those before."""
        asked = await read_object(self._service, request, _BODY_MIB)
        action = asked.text("action", "start")
        if action == "start":
            await in_thread(self._rounds.start, asked.text("user"))
        elif action == "go on":
            await in_thread(self._rounds.go_on, asked.whole("round"))
        elif action == "use":
            await in_thread(self._rounds.use, asked.whole("round"))
        elif action == "back":
            await in_thread(self._rounds.back)
        else:
            raise Fault(422, f"action is {', '.join(_ACTIONS)}, not {shown(action)}")
        return JSONResponse(await in_thread(self._described), 202 if action in _BEGINNINGS else 200)

    def _described(self) -> dict[str, object]:
        return {
            "rounds": [_round(one) for one in self._rounds.all()],
            "current": self._rounds.current,
            "obstacle": self._rounds.obstacle(),
        }


def _round(one: Round) -> dict[str, object]:
    return {
        "round": one.number,
        "state": one.state,
        "user": one.user,
        "num_cases": one.num_cases,
        "started": moment(one.started_ms),
        "ended": None if one.ended_ms is None else moment(one.ended_ms),
        "progress": one.progress,
        "message": one.message,
        "before": one.before,
        "after": one.after,
        "in_use": one.is_in_use,
    }


_DRAFT_MIB = MAX_BYTES // 2**20 + 1  # with the names around it


class WorkRoutes:
    """Each method parses a request, calls the library and encodes what it says."""

    def __init__(self, service: Service, project: Project) -> None:
        self._service = service
        self._project = project
        self._uploads = MaskUpload(service, project)

    async def show_draft(self, request: Request) -> Response:
        """Return a user's unsaved work on a case."""
        user = request.query_params.get("user", "")
        draft = await in_thread(find_draft, self._project, case_of(request), user)
        return JSONResponse({"draft": draft})

    async def keep_draft(self, request: Request) -> Response:
        """Keep a user's unsaved work on a case."""
        asked = await read_object(self._service, request, _DRAFT_MIB)
        user, draft = asked.text("user"), asked.get("draft")
        await in_thread(keep_draft, self._project, case_of(request), user, draft)
        return Response(status_code=204)

    async def save(self, request: Request) -> Response:
        """Keep a mask as a new version."""
        asked = await read_object(self._service, request)
        version, case = await self._uploads.save(case_of(request), asked)
        return JSONResponse({**version_facts(version), "state": case.state}, 201)

    async def show_mask(self, request: Request) -> Response:
        """Return a version's file, having made sure that it is what was saved."""
        number = as_number(request.path_params["number"], "version")
        version = await in_thread(find_version, self._project, case_of(request), number)
        await in_folder(self._project.folder, read_version, self._project, version)
        path = self._project.folder / version.path
        return Response(await asyncio.to_thread(path.read_bytes), media_type="application/gzip")


PREFIX = "/v1/project"
_CASE = PREFIX + "/cases/{case_id}"


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
        The project's rounds; a training ends with the server.
    """
    rounds = Rounds(project, improver, service.settings.weights)
    service.at_end.append(rounds.close)
    cases, work = _CaseRoutes(service, project), WorkRoutes(service, project)
    learning = RoundRoutes(service, rounds)
    for method, path, answer in (
        ("GET", PREFIX, cases.show_project),
        ("GET", _CASE + "/thumbnail", cases.show_thumbnail),
        ("POST", _CASE + "/open", cases.open),
        ("POST", _CASE + "/renew", cases.renew),
        ("POST", _CASE + "/release", cases.release),
        ("POST", _CASE + "/state", cases.change_state),
        ("GET", _CASE + "/draft", work.show_draft),
        ("PUT", _CASE + "/draft", work.keep_draft),
        ("POST", _CASE + "/versions", work.save),
        ("GET", _CASE + "/versions/{number}/mask", work.show_mask),
        ("POST", PREFIX + "/events", cases.log),
        ("GET", PREFIX + "/report", cases.show_report),
        ("GET", PREFIX + "/rounds", learning.show),
        ("POST", PREFIX + "/rounds", learning.act),
    ):
        _add(app, method, path, answer)
    return rounds


class _CaseRoutes:
    """Each method parses a request, calls the library and encodes what it says."""

    def __init__(self, service: Service, project: Project) -> None:
        self._service = service
        self._project = project
        self._overview = Overview(project)

    async def show_project(self, _: Request) -> Response:
        """List the cases and who has worked on them."""
        entries = await in_thread(self._overview.entries)
        users = await in_thread(list_users, self._project)
        cases = [entry_facts(entry) for entry in entries]
        return JSONResponse({"name": self._project.name, "cases": cases, "users": users})

    async def show_thumbnail(self, request: Request) -> Response:
        """Draw a case's middle slice."""
        case = await in_thread(find_case, self._project, case_of(request))
        folder = self._project.folder
        return Response(await in_folder(folder, thumbnail, folder, case.path), media_type="image/png")

    async def open(self, request: Request) -> Response:
        """Take a case for a user."""
        user, case_id = await self._user(request), case_of(request)
        case = await in_thread(open_case, self._project, case_id, user)
        draft = await in_thread(find_draft, self._project, case_id, user)
        versions = await in_thread(list_versions, self._project, case_id)
        return JSONResponse(
            {
                "lock": lock_facts(case),
                "path": case.path,
                "state": case.state,
                "draft": draft,
                "versions": [version_facts(version) for version in versions],
            }
        )

    async def renew(self, request: Request) -> Response:
        """Keep a case for longer."""
        user, case_id = await self._user(request), case_of(request)
        await in_thread(renew, self._project, case_id, user)
        return JSONResponse({"lock": lock_facts(await in_thread(find_case, self._project, case_id))})

    async def release(self, request: Request) -> Response:
        """Give a case back."""
        user = await self._user(request)
        case = await in_thread(release, self._project, case_of(request), user)
        return JSONResponse({"lock": lock_facts(case), "state": case.state})

    async def change_state(self, request: Request) -> Response:
        """Take a verdict on a case."""
        asked = await read_object(self._service, request, _BODY_MIB)
        user, state, comment = asked.text("user"), asked.text("state"), asked.text("comment", "")
        case = await in_thread(change_state, self._project, case_of(request), user, state, comment)
        return JSONResponse({"state": case.state})

    async def log(self, request: Request) -> Response:
        """Keep what a user did."""
        asked = await read_object(self._service, request, _BODY_MIB)
        case_id = as_number(asked.get("case"), "case")
        await in_thread(log_events, self._project, case_id, asked.text("user"), asked.get("events"))
        return Response(status_code=204)

    async def show_report(self, _: Request) -> Response:
        """Write the report as it stands."""
        page = await in_folder(self._project.folder, render_report, self._project)
        return Response(page, media_type="text/html", headers={"Content-Security-Policy": POLICY})

    async def _user(self, request: Request) -> str:
        return (await read_object(self._service, request, _BODY_MIB)).text("user")


def _add(app: FastAPI, method: str, path: str, answer: Callable[[Request], Awaitable[Response]]) -> None:
    name = f"{method}_{path.removeprefix('/')}".lower()
    app.add_api_route(path, answer, methods=[method], response_model=None, operation_id=name)
