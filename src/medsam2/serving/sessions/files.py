"""Files that a session gives away: its volume, and its masks in every form that they are written in."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO

from starlette.background import BackgroundTask
from starlette.responses import Response, StreamingResponse

from medsam2.errors import InputError
from medsam2.imaging.io import write
from medsam2.imaging.outputs.write import NEEDS_SOURCE, SUFFIXES, write_labels
from medsam2.imaging.volume import Volume
from medsam2.serving.faults import Fault
from medsam2.serving.referring import Referring, leave_order
from medsam2.serving.service import Service
from medsam2.serving.sessions.store import OpenSession

_VOLUME = "volume.nii.gz"
_PART_SIZE = 1 << 18
_STEM_LENGTH = 60
_ENDINGS = re.compile(r"(\.nii|\.seg)?\.[A-Za-z0-9]{2,5}$")


async def volume_file(service: Service, opened: OpenSession) -> Response:
    """The volume as it was opened, on its own grid, for a viewer.

    Raises:
        Fault: 404, the session has ended.
        InputError: NIfTI has no such voxels.
    """
    async with opened.held() as session:
        path = opened.folder / _VOLUME
        if not path.exists():
            await service.hands.run(partial(write, session.volume, path))
        file = path.open("rb")  # it stays readable when the session ends
    return _sent(file, path, f"{_stem(opened.name)}.nii.gz")


async def masks_file(service: Service, opened: OpenSession, kind: str, names: Mapping[int, str]) -> Response:
    """The masks in one of the forms of `imaging.outputs.write`.

    Raises:
        Fault: 404, the session has ended; 422, the scan is not the DICOM series that this form refers to.
        InputError: The masks cannot be written so, or a name is not usable.
    """
    async with opened.held() as session:
        labels = await service.hands.run(session.result)
        with TemporaryDirectory(dir=opened.folder) as folder:
            path = Path(folder) / f"mask{SUFFIXES[kind][0]}"
            if kind in NEEDS_SOURCE:
                await _write_for_series(service, opened, labels, path, kind, names)
            else:
                path = await service.hands.run(partial(_write, labels, path, kind, names))
            file = path.open("rb")  # all that is left of it
    return _sent(file, path, f"{_stem(opened.name)}_{path.name}")


def _write(labels: Volume, path: Path, kind: str, names: Mapping[int, str]) -> Path:
    """Write masks to a file; of several, as with surfaces, make an archive."""
    try:
        written = write_labels(labels, path, kind=kind, names=names)
    except InputError as error:
        raise _about(error, path) from error
    if len(written) == 1:
        return written[0]
    archive = path.with_name("masks.zip")
    with zipfile.ZipFile(archive, "x", zipfile.ZIP_DEFLATED) as packed:
        for one in written:
            packed.write(one, one.name)
    return archive


async def _write_for_series(
    service: Service, opened: OpenSession, labels: Volume, path: Path, kind: str, names: Mapping[int, str]
) -> None:
    if opened.source is None:
        raise Fault(422, f"{kind} refers to a DICOM series, and this session was opened from another file")
    weights = Path(opened.weights).name
    order = Referring(kind=kind, target=path.name, names=names, weights=weights, frame=opened.frame)
    await service.hands.run(partial(leave_order, path.parent, labels, order))
    source = path.with_name(opened.source.name)
    source.symlink_to(opened.source.resolve())
    async with service.readers.lend() as reader:
        await reader.write(source)


def _about(error: InputError, path: Path) -> InputError:
    """The error without the place on this machine."""
    return type(error)(str(error).replace(f"{path}: ", "").replace(str(path.parent), "temporary files"))


def _sent(file: IO[bytes], path: Path, name: str) -> Response:
    headers = {
        "Content-Disposition": f'attachment; filename="{name}"',
        "Content-Length": str(file.seek(0, 2)),
    }
    file.seek(0)
    media_type = "application/gzip" if path.suffix == ".gz" else "application/octet-stream"
    return StreamingResponse(
        _parts(file), headers=headers, media_type=media_type, background=BackgroundTask(file.close)
    )


def _parts(file: IO[bytes]) -> Iterator[bytes]:
    while part := file.read(_PART_SIZE):
        yield part


def _stem(name: str) -> str:
    """What a user calls a scan as the beginning of a file's name: letters, digits and `._-` of it."""
    safe = re.sub(r"[^A-Za-z0-9._-]+", "_", _ENDINGS.sub("", name))[:_STEM_LENGTH].strip("._-")
    return safe or "scan"
