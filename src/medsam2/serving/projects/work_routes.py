"""The routes for what users draw: drafts that are not saved yet, and versions that are."""

from __future__ import annotations

import asyncio

from fastapi import Request
from fastapi import Response
from starlette.responses import JSONResponse

from medsam2.annotation.drafts import MAX_BYTES, find_draft, keep_draft
from medsam2.annotation.project import Project
from medsam2.annotation.versions import find_version, read_version
from medsam2.serving.projects.case_answers import as_number, case_of, version_facts
from medsam2.serving.projects.json_object import read_object
from medsam2.serving.projects.mask_upload import MaskUpload
from medsam2.serving.projects.off_loop import in_folder, in_thread
from medsam2.serving.service import Service

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
