"""A mask that a page sends: read as a stranger's file is, and kept as a version."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from pathlib import Path

from medsam2.annotation.cases import Case
from medsam2.annotation.project import Project
from medsam2.annotation.rounds import list_rounds
from medsam2.annotation.states import DONE
from medsam2.annotation.versions import Version, Weights, save_version
from medsam2.errors import MedSAM2Error
from medsam2.imaging.volume import Volume
from medsam2.serving.encodings import bytes_in
from medsam2.serving.faults import Fault
from medsam2.serving.projects.json_object import Fields
from medsam2.serving.projects.off_loop import in_folder, in_thread
from medsam2.serving.service import Service
from medsam2.serving.settings import MIB

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
