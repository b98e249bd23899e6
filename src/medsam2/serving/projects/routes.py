"""The routes of a project: cases, who has them, drafts, versions, rounds."""

from __future__ import annotations

import asyncio
from typing import TypeVar

from fastapi import APIRouter, FastAPI, Request, Response
from starlette.responses import JSONResponse

from medsam2.annotation.cases import (
    MAX_DRAFT_BYTES,
    change_state,
    find_case,
    find_draft,
    keep_draft,
    list_users,
    open_case,
    release,
    renew,
)
from medsam2.annotation.improvement import Rounds
from medsam2.annotation.journal import Overview, log_events
from medsam2.annotation.layout import thumbnail
from medsam2.annotation.project import Project
from medsam2.annotation.report import POLICY, render_report
from medsam2.annotation.rounds import Improver
from medsam2.annotation.versions import find_version, list_versions, read_version
from medsam2.errors import InputError
from medsam2.serving.http_errors import NotFound, shown
from medsam2.serving.limits import read_body
from medsam2.serving.projects.schemas import (
    CaseInfo,
    CaseState,
    DraftAnswer,
    DraftMessage,
    EventsMessage,
    Lock,
    LockAnswer,
    OpenedCase,
    ProjectInfo,
    ProjectMessage,
    ReleasedCase,
    RoundInfo,
    RoundList,
    RoundMessage,
    SavedVersion,
    StateMessage,
    UserMessage,
    VersionInfo,
    VersionMessage,
)
from medsam2.serving.projects.uploads import MaskUpload, in_folder, in_thread
from medsam2.serving.schemas import error_responses, json_body, json_response, read_message
from medsam2.serving.service import Service
from medsam2.serving.settings import MIB

PREFIX = "/v1/project"
_CASE = "/cases/{case_id}"
_BODY_MIB = 1
_DRAFT_MIB = MAX_DRAFT_BYTES // MIB + 1  # with the names around it
_MAX_DIGITS = 9  # of a number, so that every database takes it

_Message = TypeVar("_Message", bound=ProjectMessage)


def add_projects(
    app: FastAPI, service: Service, project: Project, improver: Improver | None = None
) -> Rounds:
    """Add the routes of a project to an application.

    Args:
        app: Before its first request.
        service: The server's parts.
        project: An open project; the caller closes it.
        improver: Trains on finished cases and changes the weights; without one no round can be started.

    Returns:
        The project's rounds; a training ends with the server.
    """
    rounds = Rounds(project, improver, service.settings.weights)
    service.at_end.append(rounds.close)
    router = APIRouter(
        prefix=PREFIX,
        tags=["project"],
        responses=error_responses(),
    )
    _add_cases(router, service, project)
    _add_work(router, service, project)
    _add_rounds(router, service, rounds)
    app.include_router(router)
    return rounds


async def _read(
    service: Service, request: Request, model: type[_Message], max_mib: int | None = None
) -> _Message:
    """Take in the JSON of a request.

    Raises:
        HttpError: The body is not JSON, too large or too slow.
        InputError: A value is not usable.
        ClientDisconnect: The caller is gone.
    """
    max_bytes = None if max_mib is None else max_mib * MIB
    return read_message(model, await read_body(request, service.settings, max_bytes))


def _number(value: object, what: str) -> int:
    """A number that a caller gave, as such or as a text.

    Raises:
        NotFound: Nothing here has such a number.
    """
    text = str(value)
    if isinstance(value, bool) or not (text.isascii() and text.isdecimal() and len(text) <= _MAX_DIGITS):
        raise NotFound(f"the project has no {what} {shown(value)}")
    return int(text)


def _add_cases(router: APIRouter, service: Service, project: Project) -> None:
    overview = Overview(project)

    async def user_of(request: Request) -> str:
        return (await _read(service, request, UserMessage, _BODY_MIB)).user

    @router.get("", response_model=ProjectInfo)
    async def show_project() -> Response:
        """List the cases and who has worked on them."""
        entries = await in_thread(overview.entries)
        users = await in_thread(list_users, project)
        cases = [CaseInfo.of(entry) for entry in entries]
        return json_response(ProjectInfo(name=project.name, cases=cases, users=users))

    @router.get(_CASE + "/thumbnail", response_class=Response)
    async def show_thumbnail(case_id: str) -> Response:
        """Draw a case's middle slice."""
        case = await in_thread(find_case, project, _number(case_id, "case"))
        picture = await in_folder(project.folder, thumbnail, project.folder, case.path)
        return Response(picture, media_type="image/png")

    @router.post(_CASE + "/open", response_model=OpenedCase, openapi_extra=json_body(UserMessage))
    async def take_case(case_id: str, request: Request) -> Response:
        """Take a case for a user."""
        user, number = await user_of(request), _number(case_id, "case")
        case = await in_thread(open_case, project, number, user)
        draft = await in_thread(find_draft, project, number, user)
        versions = await in_thread(list_versions, project, number)
        opened = OpenedCase(
            lock=Lock.of(case),
            path=case.path,
            state=case.state,
            versions=[VersionInfo.of(version) for version in versions],
        )
        return JSONResponse({**opened.model_dump(), "draft": draft})  # not by pydantic: see `show_draft`

    @router.post(_CASE + "/renew", response_model=LockAnswer, openapi_extra=json_body(UserMessage))
    async def renew_lock(case_id: str, request: Request) -> Response:
        """Keep a case for longer."""
        user, number = await user_of(request), _number(case_id, "case")
        await in_thread(renew, project, number, user)
        return json_response(LockAnswer(lock=Lock.of(await in_thread(find_case, project, number))))

    @router.post(_CASE + "/release", response_model=ReleasedCase, openapi_extra=json_body(UserMessage))
    async def release_case(case_id: str, request: Request) -> Response:
        """Give a case back."""
        user = await user_of(request)
        case = await in_thread(release, project, _number(case_id, "case"), user)
        return json_response(ReleasedCase(lock=Lock.of(case), state=case.state))

    @router.post(_CASE + "/state", response_model=CaseState, openapi_extra=json_body(StateMessage))
    async def set_state(case_id: str, request: Request) -> Response:
        """Take a verdict on a case."""
        verdict = await _read(service, request, StateMessage, _BODY_MIB)
        number = _number(case_id, "case")
        case = await in_thread(change_state, project, number, verdict.user, verdict.state, verdict.comment)
        return json_response(CaseState(state=case.state))

    @router.post("/events", status_code=204, openapi_extra=json_body(EventsMessage))
    async def log(request: Request) -> Response:
        """Keep what a user did."""
        message = await _read(service, request, EventsMessage, _BODY_MIB)
        number = _number(message.case, "case")
        await in_thread(log_events, project, number, message.user, message.events)
        return Response(status_code=204)

    @router.get("/report", response_class=Response)
    async def show_report() -> Response:
        """Write the report as it stands."""
        page = await in_folder(project.folder, render_report, project)
        return Response(page, media_type="text/html", headers={"Content-Security-Policy": POLICY})


def _add_work(router: APIRouter, service: Service, project: Project) -> None:
    uploads = MaskUpload(service, project)

    @router.get(_CASE + "/draft", response_model=DraftAnswer)
    async def show_draft(case_id: str, user: str = "") -> Response:
        """Return a user's unsaved work on a case."""
        draft = await in_thread(find_draft, project, _number(case_id, "case"), user)
        return JSONResponse({"draft": draft})  # not by pydantic, which gives up on JSON that is nested deeply

    @router.put(_CASE + "/draft", status_code=204, openapi_extra=json_body(DraftMessage))
    async def save_draft(case_id: str, request: Request) -> Response:
        """Keep a user's unsaved work on a case."""
        message = await _read(service, request, DraftMessage, _DRAFT_MIB)
        await in_thread(keep_draft, project, _number(case_id, "case"), message.user, message.draft)
        return Response(status_code=204)

    @router.post(
        _CASE + "/versions", response_model=SavedVersion, status_code=201,
        openapi_extra=json_body(VersionMessage),
    )  # fmt: skip
    async def save_mask(case_id: str, request: Request) -> Response:
        """Keep a mask as a new version."""
        message = await _read(service, request, VersionMessage)
        version, case = await uploads.save(_number(case_id, "case"), message)
        return json_response(SavedVersion.of(version, state=case.state), 201)

    @router.get(_CASE + "/versions/{version}/mask", response_class=Response)
    async def show_mask(case_id: str, version: str) -> Response:
        """Return a version's file, having made sure that it is what was saved."""
        case, number = _number(case_id, "case"), _number(version, "version")
        found = await in_thread(find_version, project, case, number)
        await in_folder(project.folder, read_version, project, found)
        content = await asyncio.to_thread((project.folder / found.path).read_bytes)
        return Response(content, media_type="application/gzip")


def _add_rounds(router: APIRouter, service: Service, rounds: Rounds) -> None:
    def describe() -> RoundList:
        described = [RoundInfo.of(one) for one in rounds.all()]
        return RoundList(rounds=described, current=rounds.current, obstacle=rounds.obstacle())

    @router.get("/rounds", response_model=RoundList)
    async def show_rounds() -> Response:
        """List the rounds, whose weights are in use, and why no other can be started."""
        return json_response(await in_thread(describe))

    @router.post("/rounds", response_model=RoundList, openapi_extra=json_body(RoundMessage))
    async def act(request: Request) -> Response:
        """Start a round, go on with one, take the weights of one, or go back to those before."""
        message = await _read(service, request, RoundMessage, _BODY_MIB)
        if message.action == "start":
            await in_thread(rounds.start, _required(message.user, "user is missing; a text is expected"))
        elif message.action == "back":
            await in_thread(rounds.back)
        else:
            number = _required(message.round, "round is missing; a whole number, 0 or more, is expected")
            await in_thread(rounds.go_on if message.action == "go on" else rounds.use, number)
        begins = message.action in ("start", "go on")
        return json_response(await in_thread(describe), 202 if begins else 200)


_Value = TypeVar("_Value")


def _required(value: _Value | None, text: str) -> _Value:
    if value is None:
        raise InputError(text)
    return value
