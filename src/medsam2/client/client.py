"""A server's front door: sessions, whole segmentations, the published contract."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy.typing as npt

from medsam2.client.connection import Connection, json_of
from medsam2.client.score import ScoredMask, masks_of, table_of
from medsam2.client.session import RemoteSession
from medsam2.client.upload import file_to_send
from medsam2.errors import InputError, MedSAM2Error, SessionError
from medsam2.imaging.intensity import Window, resolve_window
from medsam2.imaging.io import read
from medsam2.imaging.volume import Volume

_Window = str | tuple[float, float] | None
_SESSIONS = "/v1/sessions"
_TIMEOUT_S = 300.0  # as long as the server takes for an answer if nobody says otherwise


class Client:
    """A medsam2 server, asked over HTTP.

    Args:
        url: Of the server, `http://127.0.0.1:8000`.
        key: What the server asks for, if it asks for one.
        timeout_s: How long to wait for the next part of an answer.

    Raises:
        InputError: The URL is none, or httpx is not installed.
    """

    def __init__(self, url: str, key: str | None = None, *, timeout_s: float = _TIMEOUT_S) -> None:
        self._connection = Connection(url, key, timeout_s)

    def session(
        self,
        scan: str | os.PathLike[str] | Volume,
        *,
        window: _Window = None,
        plane: str | None = None,
        memory: str = "recent",
        frame: int | None = None,
    ) -> RemoteSession:
        """Send a scan and open it for prompts, corrections and propagation.

        Args:
            scan: A file or folder that `medsam2.read` reads, or a volume.
            window: Name of a CT window, `(lower, upper)` in the scan's units, or None to find one.
            plane: Cut slices in this plane, `axial`, `coronal` or `sagittal`; along the file's third axis
                without one.
            memory: Name of the memory policy.
            frame: Which volume of a 4D file, from 0.

        Raises:
            InputError: The scan or a choice is not usable, or the key is not right.
            ServerError: The server is not there, is full or has failed.
        """
        if isinstance(scan, Volume):
            # What a file does not keep of a volume, its modality above all, decides which window is found.
            found = resolve_window(scan, window)
            window = found.lower, found.upper
        limits = _checked(window)
        query = {"memory": memory}
        if limits is not None:
            query["window"] = limits if isinstance(limits, str) else f"{limits[0]!r},{limits[1]!r}"
        if plane is not None:
            query["plane"] = plane
        with file_to_send(scan, frame=frame) as (path, left), path.open("rb") as file:
            if left is not None:
                query["frame"] = str(left)
            answer = self._connection.ask("POST", _SESSIONS, query={**query, "name": path.name}, file=file)

        opened = json_of(answer, self._connection.shown)
        if isinstance(scan, Volume):  # the file had its numbers in float32
            return RemoteSession(self._connection, {**opened, "spacing": scan.spacing}, lambda _: scan)
        return RemoteSession(self._connection, opened, lambda _: read(scan, frame=frame))

    def open(
        self,
        path: str,
        *,
        window: _Window = None,
        plane: str | None = None,
        memory: str = "recent",
        frame: int | None = None,
    ) -> RemoteSession:
        """Open a scan that the server has itself, as `session` does.

        Args:
            path: From the folder that the server was started with.
            window: See `session`, as `plane`, `memory` and `frame`.
            plane: See `session`.
            memory: See `session`.
            frame: See `session`.

        Raises:
            InputError: There is no such file in the folder, or the scan or a choice is not usable.
            ServerError: The server is not there, is full or has failed.
        """
        said: dict[str, object] = {
            "path": path, "window": _checked(window), "plane": plane, "memory": memory
        }  # fmt: skip
        if frame is not None:  # an older server does not know the key
            said["frame"] = frame
        try:
            opened = self._connection.ask_json("POST", _SESSIONS, said=said)
        except SessionError as error:  # what is not there is a file, not a session
            raise InputError(str(error)) from None
        return RemoteSession(self._connection, opened, self._fetch)

    def segment(
        self,
        scan: str | os.PathLike[str] | Volume,
        *,
        slice: int,  # noqa: A002
        box: Sequence[float] | None = None,
        points: Sequence[Sequence[float]] | None = None,
        labels: Sequence[int] | None = None,
        mask: npt.ArrayLike | None = None,
        window: _Window = None,
        plane: str | None = None,
        memory: str = "recent",
        frame: int | None = None,
    ) -> Volume:
        """Segment one object from what is said about one slice; see `Predictor.segment`.

        Returns:
            A uint8 mask of 0 and 1 on the scan's grid.

        Raises:
            InputError: The scan, the prompt or a choice is not usable.
            ServerError: The server is not there, is full or has failed.
        """
        with self.session(scan, window=window, plane=plane, memory=memory, frame=frame) as session:
            session.add(1, slice=slice, box=box, points=points, labels=labels, mask=mask)
            for _ in session.propagate():
                pass
            return session.result()

    def score(self, rows: Sequence[Mapping[str, object]]) -> list[ScoredMask | MedSAM2Error]:
        """Ask for masks as the published contract has it.

        Args:
            rows: The contract's columns by name: `nii_image` (a path, a volume, or a URL that the server may
                fetch), `key_slice_idx`, `dicom_window`, `bbox` or `points`, and the optional ones.

        Returns:
            In the order of the rows a mask, or the exception that says why there is none.

        Raises:
            InputError: The request as a whole, or its only row, is not usable.
            ServerError: The server is not there, is busy or has failed.
        """
        return masks_of(json.loads(self._connection.ask("POST", "/score", said={"inputs": table_of(rows)})))

    def close(self) -> None:
        """Hang up; sessions that are still open end on the server when nobody has used them for a while."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _fetch(self, session_path: str) -> Volume:
        with tempfile.TemporaryDirectory(prefix="medsam2-") as folder:
            path = Path(folder) / "volume.nii.gz"
            path.write_bytes(self._connection.ask("GET", f"{session_path}/volume"))
            return read(path)


def _checked(window: _Window) -> _Window:
    """A window as plain numbers, which its text then gives back exactly; names are the server's business."""
    if window is None or isinstance(window, str):
        return window
    try:
        lower, upper = (float(limit) for limit in window)
    except (TypeError, ValueError):
        raise InputError(f"a window is a preset's name or a pair (lower, upper), not {window!r}") from None
    checked = Window(lower, upper, source="caller")
    return checked.lower, checked.upper
