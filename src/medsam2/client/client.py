"""The client of a server: sessions, whole segmentations, the published contract."""

from __future__ import annotations

import base64
import json
import os
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from medsam2.client.connection import Connection, json_of, problem
from medsam2.client.session import RemoteSession
from medsam2.errors import InputError, MedSAM2Error, SessionError
from medsam2.imaging.arrays import as_volume
from medsam2.imaging.intensity import Window, resolve_window
from medsam2.imaging.io import read, write
from medsam2.imaging.labels import from_coco_counts
from medsam2.imaging.volume import Volume

_NIFTI = "scan.nii.gz"
_OF_TWO_FILES = (".mhd",)


@contextmanager
def file_to_send(
    scan: str | os.PathLike[str] | Volume, *, as_nifti: bool = False, frame: int | None = None
) -> Iterator[tuple[Path, int | None]]:
    """Make one file of a scan, gone afterwards if it was made for this.

    Args:
        scan: A file as it is, a folder with DICOM files as a .zip, a volume as .nii.gz.
        as_nifti: Turn every other format into .nii.gz as well.
        frame: Which volume of a 4D file is meant, from 0.

    Yields:
        The file, and which frame of it is meant: None where the file holds that frame alone.

    Raises:
        InputError: There is no such file, it cannot be read or written, or a volume has no such frame.
    """
    with tempfile.TemporaryDirectory(prefix="medsam2-") as name:
        made = Path(name) / _NIFTI
        if isinstance(scan, Volume):
            if frame is not None:
                raise InputError(
                    f"frame {frame} of a volume that was read already: read the file by this frame"
                )
            write(scan, made)
            yield made, None
            return
        path = Path(scan)
        if not path.exists():
            raise InputError(f"{path}: no such file")
        is_nifti = path.name.lower().endswith((".nii", ".nii.gz"))
        if path.suffix.lower() in _OF_TWO_FILES or (as_nifti and not is_nifti):
            write(read(path, frame=frame), made)
            yield made, None
        elif path.is_dir():
            yield _packed(path, made.with_suffix(".zip")), frame
        else:
            yield path, frame


def _packed(folder: Path, archive: Path) -> Path:
    with zipfile.ZipFile(archive, "x", zipfile.ZIP_DEFLATED, compresslevel=1) as packed:
        for place, _, names in os.walk(folder):
            for name in sorted(names):
                file = Path(place, name)
                if file.is_file():  # a pipe would be waited for
                    packed.write(file, file.relative_to(folder))
    return archive


_IMAGE, _FORMAT, _FRAME = "nii_image", "mask_format", "frame"
_URLS = ("http://", "https://")


@dataclass(frozen=True, kw_only=True, eq=False)
class ScoredMask:
    """The answer to one row of the contract's table."""

    mask: npt.NDArray[np.bool_]
    """`(z, y, x)` of the image."""
    metadata: Mapping[str, object]
    """As the contract has it: shape, spacing, origin, direction, the prompt."""


def table_of(rows: Sequence[Mapping[str, object]]) -> list[dict[str, object]]:
    """Make rows ready to be sent: images become text, masks come as run lengths.

    Raises:
        InputError: An image cannot be read, or is not an image.
    """
    return [{**row, **_cells_of(row), _FORMAT: "rle"} for row in rows]


def masks_of(answer: object) -> list[ScoredMask | MedSAM2Error]:
    """Read an answer: an object for one row, a list for several; a row that failed is an exception."""
    rows: list[Any] = answer if isinstance(answer, list) else [answer]
    return [problem(row["status"], row["error"]) if "error" in row else _scored(row) for row in rows]


def _cells_of(row: Mapping[str, object]) -> dict[str, object]:
    """A row's image as text, and the frame if the server is to choose it from the file."""
    image, frame = row.get(_IMAGE), row.get(_FRAME)
    if isinstance(image, str) and image.startswith(_URLS):
        return {}
    if not isinstance(image, (str, os.PathLike, Volume)):
        raise InputError(f"{_IMAGE} is a path, a Volume or a URL, not {type(image).__name__}")
    if frame is not None and (isinstance(frame, bool) or not isinstance(frame, int)):
        raise InputError(f"{_FRAME} is a whole number from 0, not {frame!r}")
    with file_to_send(image, as_nifti=True, frame=frame) as (path, left):
        text = base64.b64encode(path.read_bytes()).decode("ascii")
    return {_IMAGE: text, **({} if frame is None else {_FRAME: left})}


def _scored(row: Mapping[str, Any]) -> ScoredMask:
    metadata = row["metadata"]
    mask = np.zeros(tuple(metadata["shape"][::-1]), bool)
    for entry in row["mask"]:
        mask[entry["slice"]] = from_coco_counts(entry["counts"], tuple(entry["size"]))
    return ScoredMask(mask=mask, metadata=metadata)


_Window = str | tuple[float, float] | None
_SESSIONS = "/v1/sessions"
_TIMEOUT_S = 300.0  # the server's own default for an answer


class Client:
    """A medsam2 server that is reached over HTTP.

    Args:
        url: Of the server, `http://127.0.0.1:8000`.
        key: The server's key, if it needs one.
        timeout_s: How long to wait for the next part of an answer.

    Raises:
        InputError: The URL is none, or httpx is not installed.

    Example:
        >>> client = medsam2.Client("http://127.0.0.1:8000")
        >>> client
        Client('http://127.0.0.1:8000')
        >>> client.check()  # raises a ServerError if nobody answers
        >>> mask = client.segment("scan.nii.gz", slice=12, box=(30, 25, 50, 45))
        >>> with client.session("scan.nii.gz") as session:
        ...     shown = session.add(1, slice=12, box=(30, 25, 50, 45))
        ...     session.finish()
        ...     labels = session.result()
        >>> client.close()
    """

    def __init__(self, url: str, key: str | None = None, *, timeout_s: float = _TIMEOUT_S) -> None:
        self._connection = Connection(url, key, timeout_s)

    def __repr__(self) -> str:
        """Name the server; the key is left out."""
        return f"Client({self._connection.url!r})"

    def check(self) -> None:
        """Ask whether the server answers requests.

        Raises:
            ServerError: It is not there, or is starting or ending.
        """
        self._connection.request("GET", "/readyz")

    def session(
        self,
        scan: object,
        *,
        spacing: Sequence[float] | None = None,
        window: _Window = None,
        plane: str | None = None,
        memory: str = "recent",
        frame: int | None = None,
    ) -> RemoteSession:
        """Send a scan and open it for prompts, corrections and propagation.

        Args:
            scan: A file or folder that `medsam2.read` reads, which is sent as it is; or a volume, a numpy
                array `(z, y, x)` or what else `medsam2.as_volume` takes.
            spacing: `(x, y, z)` in mm, of a numpy array alone; 1 mm without it.
            window: Name of a CT window, `(lower, upper)` in the scan's units, or None to find one.
            plane: Cut slices in this plane, `axial`, `coronal` or `sagittal`; along the file's third axis
                without one.
            memory: Name of the memory policy.
            frame: Which volume of a 4D file, from 0.

        Raises:
            InputError: The scan or a choice is not usable, or the key is not right.
            ServerError: The server is not there, is full or has failed.
        """
        if not isinstance(scan, (str, os.PathLike)):
            scan = as_volume(scan, spacing=spacing)
            # The window depends on the modality, which a NIfTI file does not keep.
            found = resolve_window(scan, window)
            window = found.lower, found.upper
        limits = _checked(window)
        text = limits if isinstance(limits, str | None) else f"{limits[0]!r},{limits[1]!r}"
        choices = {"memory": memory, "window": text, "plane": plane}
        query = {key: choice for key, choice in choices.items() if choice is not None}
        with file_to_send(scan, frame=frame) as (path, left), path.open("rb") as file:
            if left is not None:
                query["frame"] = str(left)
            answer = self._connection.request(
                "POST", _SESSIONS, query={**query, "name": path.name}, file=file
            )

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
        opening: dict[str, object] = {
            "path": path, "window": _checked(window), "plane": plane, "memory": memory
        }  # fmt: skip
        if frame is not None:  # an older server does not know the key
            opening["frame"] = frame
        try:
            opened = self._connection.request_json("POST", _SESSIONS, body=opening)
        except SessionError as error:  # a file is missing, not a session
            raise InputError(str(error)) from None
        return RemoteSession(self._connection, opened, self._fetch)

    def segment(
        self,
        scan: object,
        *,
        slice: int,  # noqa: A002
        box: Sequence[float] | None = None,
        points: Sequence[Sequence[float]] | None = None,
        labels: Sequence[int] | None = None,
        mask: npt.ArrayLike | None = None,
        spacing: Sequence[float] | None = None,
        window: _Window = None,
        plane: str | None = None,
        memory: str = "recent",
        frame: int | None = None,
    ) -> Volume:
        """Segment one object from a prompt in one slice; see `Predictor.segment`.

        Returns:
            A uint8 mask of 0 and 1 on the scan's grid; `mask.like(scan)` is of the scan's kind.

        Raises:
            InputError: The scan, the prompt or a choice is not usable.
            ServerError: The server is not there, is full or has failed.
        """
        with self.session(
            scan, spacing=spacing, window=window, plane=plane, memory=memory, frame=frame
        ) as session:
            session.add(1, slice=slice, box=box, points=points, labels=labels, mask=mask)
            session.finish()
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
        return masks_of(
            json.loads(self._connection.request("POST", "/score", body={"inputs": table_of(rows)}))
        )

    def close(self) -> None:
        """Close the connection; the server ends open sessions when they were left alone for a while."""
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
            path.write_bytes(self._connection.request("GET", f"{session_path}/volume"))
            return read(path)


def _checked(window: _Window) -> _Window:
    """A window as plain numbers, which text keeps exactly; the server checks names."""
    if window is None or isinstance(window, str):
        return window
    try:
        lower, upper = (float(limit) for limit in window)
    except (TypeError, ValueError):
        raise InputError(f"a window is a preset's name or a pair (lower, upper), not {window!r}") from None
    checked = Window(lower, upper, source="caller")
    return checked.lower, checked.upper
