"""The routes of a project: its cases, who has them, and how long the work took."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from fastapi import FastAPI, Request, Response
from starlette.responses import JSONResponse

from medsam2.annotation.cases import change_state, find_case, list_users, open_case, release, renew
from medsam2.annotation.drafts import find_draft
from medsam2.annotation.improvement import Rounds
from medsam2.annotation.journal import log_events
from medsam2.annotation.overview import Overview
from medsam2.annotation.page import POLICY, render_report
from medsam2.annotation.project import Project
from medsam2.annotation.rounds import Improver
from medsam2.annotation.thumbnails import thumbnail
from medsam2.annotation.versions import list_versions
from medsam2.serving.projects.case_answers import as_number, case_of, entry_facts, lock_facts, version_facts
from medsam2.serving.projects.json_object import read_object
from medsam2.serving.projects.off_loop import in_folder, in_thread
from medsam2.serving.projects.round_routes import RoundRoutes
from medsam2.serving.projects.work_routes import WorkRoutes
from medsam2.serving.service import Service

PREFIX = "/v1/project"
_CASE = PREFIX + "/cases/{case_id}"
_BODY_MIB = 1


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
