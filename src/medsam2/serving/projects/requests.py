"""What the requests of a project bring, and what is said of its cases."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import ParamSpec, TypeVar

from fastapi import Request

from medsam2.annotation.cases import Case, moment
from medsam2.annotation.overview import Entry
from medsam2.annotation.project import DONE, Project
from medsam2.annotation.rounds import list_rounds
from medsam2.annotation.versions import Version, Weights, save_version
from medsam2.errors import Conflict, DatabaseAway, InputError, MedSAM2Error, UnknownCase
from medsam2.imaging.volume import Volume
from medsam2.serving.http_errors import Fault, shown
from medsam2.serving.limits import read_body, usage_of
from medsam2.serving.rows import bytes_in, json_in
from medsam2.serving.service import Service
from medsam2.serving.settings import MIB

_Value = TypeVar("_Value")


class Fields:
    """A JSON object of a caller's."""

    def __init__(self, values: Mapping[str, object]) -> None:
        self._values = values

    def get(self, name: str) -> object:
        """Return what is there, None if nothing is."""
        return self._values.get(name)

    def text(self, name: str, default: str | None = None) -> str:
        """Return a text.

        Raises:
            Fault: 422, it is something else, or missing without a default.
        """
        return self._typed(name, str, "a text", default)

    def whole(self, name: str) -> int:
        """Return a whole number.

        Raises:
            Fault: 422, it is something else, or missing.
        """
        value = self._typed(name, int, "a whole number", None)
        if isinstance(value, bool):
            raise Fault(422, f"{name} is a whole number, not {shown(value)}")
        return value

    def items(self, name: str) -> list[object]:
        """Return a list, empty if it is missing.

        Raises:
            Fault: 422, it is something else.
        """
        return self._typed(name, list, "a list", [])

    def _typed(self, name: str, kind: type[_Value], called: str, default: _Value | None) -> _Value:
        value = self._values.get(name)
        if value is None and default is not None:
            return default
        if not isinstance(value, kind):
            raise Fault(422, f"{name} is {called}, not {shown(value)}")
        return value


async def read_object(service: Service, request: Request, max_mib: int | None = None) -> Fields:
    """Take in a request's body as a JSON object.

    Args:
        service: Its limits count.
        request: With the body.
        max_mib: A limit below the server's own.

    Raises:
        Fault: 400, it is no JSON object; 408, 413 and 503 as for every body.
        ClientDisconnect: The caller is gone.
    """
    usage = usage_of(request.scope)
    settings = service.settings
    if max_mib is not None and max_mib < settings.max_body:
        settings = settings.model_copy(update={"max_body": max_mib})
    body = await read_body(request.scope, request.receive, settings, usage.reservation)
    usage.num_bytes = len(body)
    try:
        values = json_in(body)
    except ValueError as error:
        raise Fault(400, f"the body is not JSON: {error}") from None
    if not isinstance(values, dict):
        raise Fault(400, f"the body is a JSON object, not {shown(values)}")
    return Fields(values)


_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")
_RETRY_S = 5


class Held(Fault):
    """A case that somebody else has, with who it is."""

    def __init__(self, conflict: Conflict) -> None:
        super().__init__(409, str(conflict))
        until = conflict.until_ms
        self._holder = {"user": conflict.holder, "until": None if until is None else moment(until)}

    @property
    def answer(self) -> dict[str, object]:
        """The contract's object for an error, and the holder."""
        return {**super().answer, "holder": self._holder}


async def in_thread(
    work: Callable[_Arguments, _Result], *arguments: _Arguments.args, **named: _Arguments.kwargs
) -> _Result:
    """Call a function of `annotation` and wait for it.

    Raises:
        Fault: 404, there is no such case; 409, others or the state stand in the way; 503, no database.
    """
    try:
        return await asyncio.to_thread(work, *arguments, **named)
    except Conflict as error:
        raise (Held(error) if error.holder else Fault(409, str(error))) from error
    except UnknownCase as error:
        raise Fault(404, str(error)) from error
    except DatabaseAway as error:
        raise Fault(
            503, "the project's database does not answer; try again", retry_after_s=_RETRY_S
        ) from error


async def in_folder(
    folder: Path, work: Callable[_Arguments, _Result], *arguments: _Arguments.args, **named: _Arguments.kwargs
) -> _Result:
    """Do the same with a project's files, of which a caller hears no more than where in the project they lie.

    Raises:
        Fault: As in `in_thread`, and 422, a file cannot be used.
    """
    try:
        return await in_thread(work, *arguments, **named)
    except InputError as error:
        raise Fault(422, str(error).replace(f"{folder}/", "")) from error


_LONGEST_NUMBER = 9  # digits that every database takes


def case_of(request: Request) -> int:
    """Return the number of the case in a request's path.

    Raises:
        Fault: 404, it is no number.
    """
    return as_number(request.path_params["case_id"], "case")


def as_number(value: object, what: str) -> int:
    """Return a number that a caller gave, as such or as a text.

    Raises:
        Fault: 404, it is none that anything here has.
    """
    text = str(value)
    if isinstance(value, bool) or not (text.isascii() and text.isdecimal() and len(text) <= _LONGEST_NUMBER):
        raise Fault(404, f"the project has no {what} {shown(value)}")
    return int(text)


def lock_facts(case: Case) -> dict[str, str] | None:
    """Say who has a case open and until when; None if nobody has."""
    if case.holder is None or case.holder_until_ms is None:
        return None
    return {"user": case.holder, "until": moment(case.holder_until_ms)}


def entry_facts(entry: Entry) -> dict[str, object]:
    """Say what the list shows of a case."""
    case = entry.case
    return {
        "id": str(case.id),
        "name": case.name,
        "state": case.state,
        "owner": case.owner,
        "lock": lock_facts(case),
        "num_slices": case.num_slices,
        "objects": list(entry.objects),
        "num_versions": entry.num_versions,
        "active_s": round(entry.active_s, 1),
        "updated": moment(case.updated_ms),
    }


def version_facts(version: Version) -> dict[str, object]:
    """Say whose a version is and what is in it."""
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


_GZIP_MAGIC = b"\x1f\x8b"


class MaskUpload:
    """Takes masks for the cases of one project."""

    def __init__(self, service: Service, project: Project) -> None:
        self._service = service
        self._project = project
        self._known: dict[str, Weights] = {}

    async def save(self, case_id: int, asked: Fields) -> tuple[Version, Case]:
        """Keep a mask as a new version of a case.

        Raises:
            Fault: The request cannot be, or the mask is no file of labels on the scan's grid.
        """
        prompts = asked.items("prompts")
        mask = await self._read(asked.text("mask"))
        # Without a prompt no model took part, whichever is loaded.
        used = self._used_in(asked.text("session", ""))
        weights = await in_thread(self._facts_of, used) if prompts else None
        return await in_folder(
            self._project.folder, save_version, self._project, case_id, asked.text("user"), mask,
            objects=asked.get("objects"), prompts=prompts, state=asked.text("state", DONE), weights=weights,
        )  # fmt: skip

    async def _read(self, text: str) -> Volume:
        try:
            content = bytes_in(text)
        except ValueError as error:
            raise Fault(422, f"mask: is not base64 ({error}); base64 of a .nii.gz file is expected") from None
        suffix = ".nii.gz" if content.startswith(_GZIP_MAGIC) else ".nii"
        with tempfile.TemporaryDirectory(dir=self._service.folder, ignore_cleanup_errors=True) as folder:
            path = Path(folder) / f"mask{suffix}"
            path.write_bytes(content)
            async with self._service.readers.lend() as reader:
                try:
                    claim = await reader.measure(path)
                    limit = self._service.settings.max_volume
                    if claim.num_bytes > limit * MIB:
                        raise Fault(
                            413, f"claims {claim.num_bytes} bytes of voxels; at most {limit} MiB are taken"
                        )
                    return await reader.read(path)
                except Fault as fault:
                    raise Fault(fault.status, f"mask: {fault}") from fault

    def _used_in(self, session_id: str) -> str:
        """Name or file of the weights that a session was opened with, or of those in use if it has ended."""
        with suppress(Fault):
            return self._service.sessions.get(session_id).weights
        return self._service.model.loaded.weights

    def _facts_of(self, weights: str) -> Weights | None:
        """What is kept of the weights that helped, None if that cannot be told."""
        from medsam2.checkpoints import file_digest, resolve

        for one in list_rounds(self._project):
            if one.weights == weights:
                return Weights(name=one.title, sha256=one.weights_sha256 or "")
        if weights not in self._known:
            try:
                self._known[weights] = Weights(name=weights, sha256=file_digest(resolve(weights)))
            except (MedSAM2Error, OSError):
                return None
        return self._known[weights]
