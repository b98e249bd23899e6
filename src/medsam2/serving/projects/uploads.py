"""Calls of a project's functions for requests, and the masks that are saved as versions."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import ParamSpec, TypeVar

from medsam2.annotation.cases import Case, moment
from medsam2.annotation.project import Project
from medsam2.annotation.rounds import list_rounds
from medsam2.annotation.versions import Version, Weights, save_version
from medsam2.errors import Conflict, DatabaseAway, InputError, MedSAM2Error
from medsam2.imaging.formats.voxels import GZIP_MAGIC
from medsam2.imaging.volume import Volume
from medsam2.serving.http_errors import Busy, NotFound, StateConflict, reworded
from medsam2.serving.limits import Reservation
from medsam2.serving.projects.schemas import VersionMessage
from medsam2.serving.schemas import bytes_in
from medsam2.serving.service import Service
from medsam2.serving.volumes import read_volume

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")
_RETRY_S = 5


async def in_thread(
    work: Callable[_Arguments, _Result], *arguments: _Arguments.args, **named: _Arguments.kwargs
) -> _Result:
    """Call a function of `annotation` in a thread.

    Raises:
        StateConflict: Somebody else has the case; the answer says who.
        Busy: The database does not answer.
    """
    try:
        return await asyncio.to_thread(work, *arguments, **named)
    except Conflict as error:
        if not error.holder:
            raise
        until = None if error.until_ms is None else moment(error.until_ms)
        details = {"holder": {"user": error.holder, "until": until}}
        raise StateConflict(str(error), details=details) from error
    except DatabaseAway as error:
        text = "the project's database does not answer; try again"
        raise Busy(text, retry_after_s=_RETRY_S) from error


async def in_folder(
    folder: Path, work: Callable[_Arguments, _Result], *arguments: _Arguments.args, **named: _Arguments.kwargs
) -> _Result:
    """Do the same with a project's files; messages name them by their path in the project's folder.

    Raises:
        InputError: A file is not usable; see `in_thread` as well.
    """
    try:
        return await in_thread(work, *arguments, **named)
    except InputError as error:
        raise reworded(error, str(error).replace(f"{folder}/", "")) from error


class MaskUpload:
    """Takes masks for the cases of one project."""

    def __init__(self, service: Service, project: Project) -> None:
        self._service = service
        self._project = project
        self._known: dict[str, Weights] = {}

    async def save(self, case_id: int, message: VersionMessage) -> tuple[Version, Case]:
        """Keep a mask as a new version of a case.

        Raises:
            InputError: The mask is not a file of labels on the scan's grid, or an entry is not usable.
        """
        mask = await self._read(message.mask)
        # Without a prompt no model took part, whichever is loaded.
        used = self._used_in(message.session)
        weights = await in_thread(self._describe_weights, used) if message.prompts else None
        return await in_folder(
            self._project.folder, save_version, self._project, case_id, message.user, mask,
            objects=message.objects, prompts=message.prompts, state=message.state, weights=weights,
        )  # fmt: skip

    async def _read(self, text: str) -> Volume:
        try:
            content = bytes_in(text)
        except ValueError as error:
            raise InputError(f"mask: is not base64 ({error}); base64 of a .nii.gz file is expected") from None
        suffix = ".nii.gz" if content.startswith(GZIP_MAGIC) else ".nii"
        with tempfile.TemporaryDirectory(dir=self._service.folder, ignore_cleanup_errors=True) as folder:
            path = Path(folder) / f"mask{suffix}"
            path.write_bytes(content)
            try:
                with closing(Reservation(self._service.budget)) as reservation:
                    return await read_volume(path, self._service, reservation)
            except MedSAM2Error as error:
                raise reworded(error, f"mask: {error}") from error

    def _used_in(self, session_id: str) -> str:
        """Name or file of the weights that a session was opened with, or of those in use if it has ended."""
        with suppress(NotFound):
            return self._service.sessions.get(session_id).weights
        return self._service.model.loaded.weights

    def _describe_weights(self, weights: str) -> Weights | None:
        """Name and checksum of the weights that made a mask; None if their file cannot be read."""
        from medsam2.checkpoints import resolve
        from medsam2.hub import file_digest

        for one in list_rounds(self._project):
            if one.weights == weights:
                return Weights(name=one.title, sha256=one.weights_sha256 or "")
        if weights not in self._known:
            try:
                self._known[weights] = Weights(name=weights, sha256=file_digest(resolve(weights)))
            except (MedSAM2Error, OSError):
                return None
        return self._known[weights]
