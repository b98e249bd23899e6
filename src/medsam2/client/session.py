"""A session that runs on a server, with the methods of `inference.session.Session`."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from medsam2.client.connection import Connection, Json, events_of, json_of, problem
from medsam2.errors import InputError, MedSAM2Error, PromptError, SessionError
from medsam2.imaging.geometry import in_plane_mm, restore_axes
from medsam2.imaging.intensity import Window
from medsam2.imaging.labels import coco_counts, from_coco_counts
from medsam2.imaging.volume import Volume
from medsam2.measure.sizes import longest_diameter_mm, volume_ml
from medsam2.prompts.types import Prompt, prompt_from

_Mask = npt.NDArray[np.bool_]


class RemoteSession:
    """One volume on a server; made by `Client.session`, to be closed.

    Slices and pixels are those of the file, as in a session that runs here. What is refused raises the same
    exceptions, with the same words; a session that the server has ended raises SessionError.
    """

    def __init__(self, connection: Connection, opened: Json, volume: Callable[[str], Volume]) -> None:
        self._connection = connection
        self._opened: Mapping[str, Any] = opened
        self._volume = volume
        self._path = f"/v1/sessions/{self.id}"

    @property
    def id(self) -> str:
        """The key to this session: who has it, and may use the server, can use the session."""
        return str(self._opened["id"])

    @cached_property
    def volume(self) -> Volume:
        """The scan; fetched or read when it is first needed."""
        return self._volume(self._path)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of slices, and a slice's height and width in pixels."""
        num_z, height, width = self._opened["shape"]
        return num_z, height, width

    @property
    def axis(self) -> int:
        """File axis along which slices are stacked."""
        return int(self._opened["axis"])

    @property
    def pixel_mm(self) -> tuple[float, float]:
        """Spacing of a slice's pixels, (x, y)."""
        x_mm, y_mm = (step for axis, step in enumerate(self._opened["spacing"]) if axis != self.axis)
        return x_mm, y_mm

    @property
    def window(self) -> Window:
        """Intensities shown as black and as white."""
        lower, upper = self._opened["window"]
        return Window(lower, upper, source="server")

    @property
    def objects(self) -> list[int]:
        """Numbers of the objects."""
        return [one["number"] for one in self._state()["objects"]]

    @property
    def can_undo(self) -> bool:
        """Whether there is a change to take back."""
        return bool(self._state()["can_undo"])

    @property
    def can_redo(self) -> bool:
        """Whether there is a change to do again."""
        return bool(self._state()["can_redo"])

    @property
    def is_propagated(self) -> bool:
        """Whether every object has been followed as far as it goes since the last change."""
        return bool(self._state()["is_propagated"])

    def add(
        self,
        number: int,
        prompt: Prompt | None = None,
        *,
        slice: int | None = None,  # noqa: A002
        box: Sequence[float] | None = None,
        points: Sequence[Sequence[float]] | None = None,
        labels: Sequence[int] | None = None,
        mask: npt.ArrayLike | None = None,
    ) -> _Mask:
        """Prompt an object in one slice and see it there; see `Session.add`.

        Raises:
            PromptError: The prompt does not lie in the volume, or the number is not 1 to 255.
        """
        if prompt is None:
            prompt = prompt_from(slice, box=box, points=points, labels=labels, mask=mask)
        body = {"object": int(number), **_prompt_json(prompt.checked(self.shape))}
        try:
            answer = self._request("POST", "/prompts", body)
        except InputError as error:
            raise PromptError(str(error)) from None
        return self._mask(answer["mask"])

    def remove(self, number: int, *, slice: int | None = None) -> None:  # noqa: A002
        """Remove an object, or its prompt on one slice.

        Raises:
            SessionError: There is no object of this number or no prompt on the slice, or it is the only one.
        """
        query = "" if slice is None else f"?slice={int(slice)}"
        self._request("DELETE", f"/objects/{int(number)}{query}")

    def undo(self) -> bool:
        """Take back the last `add` or `remove` with all that followed from it; False if there is none."""
        return self._step("undo")

    def redo(self) -> bool:
        """Do again what was undone last, if nothing was added or removed since; False if there is nothing."""
        return self._step("redo")

    def propagate(self) -> Iterator[tuple[int, dict[int, _Mask]]]:
        """Propagate all objects through the volume, upwards from their prompts and then downwards.

        Leaving the loop stops the server's work; a change of the session does so as well.

        Yields:
            A slice's index and, for each object followed into it, its mask bool `(y, x)`.

        Raises:
            SessionError: No object has a prompt, or the session was changed meanwhile.
        """
        with self._connection.stream("POST", f"{self._path}/propagate") as response:
            for name, data in events_of(response.iter_lines()):
                event: Mapping[str, Any] = json_of(data, self._connection.shown)
                if name == "error":
                    raise problem(event["status"], event["error"])
                if name == "done":
                    return
                yield event["slice"], self._masks(event["confidence"], event["masks"])

    def finish(self) -> None:
        """Follow all objects to their ends, for callers who do not look at the slices on the way.

        Raises:
            SessionError: No object has a prompt, or the session was changed meanwhile.
        """
        for _ in self.propagate():
            pass

    def mask(self, number: int) -> _Mask:
        """One object in all slices visited so far, bool `(z, y, x)` along the session's axis.

        Raises:
            SessionError: There is no object of this number.
        """
        self._check(number)
        stack = np.zeros(self.shape, bool)
        for z, masks in self._request("GET", "/masks")["slices"].items():
            if str(number) in masks:
                stack[int(z)] = self._mask(masks[str(number)])
        return stack

    def scores(self, number: int) -> dict[int, float]:
        """How sure the network is of an object in each visited slice, 0..1.

        Raises:
            SessionError: There is no object of this number.
        """
        self._check(number)
        confidence = self._request("GET", "/masks")["confidence"]
        return {int(z): scores[str(number)] for z, scores in confidence.items() if str(number) in scores}

    def measurements(self, number: int) -> dict[str, float]:
        """Measure an object.

        Returns:
            `volume_ml`, `longest_diameter_mm` (in the plane of the slices) and `num_slices`.

        Raises:
            SessionError: There is no object of this number.
        """
        mask = self.mask(number)
        return {
            "volume_ml": volume_ml(int(np.count_nonzero(mask)), self.volume.affine),
            "longest_diameter_mm": longest_diameter_mm(mask, in_plane_mm(self.volume.affine, self.axis)),
            "num_slices": int(np.count_nonzero(mask.any(axis=(1, 2)))),
        }

    def result(self, number: int | None = None) -> Volume:
        """Return all objects as one uint8 label volume on the input's grid, or one object as 0 and 1.

        Raises:
            SessionError: There is no object of this number.
        """
        if number is not None:
            mask = restore_axes(self.mask(number).view(np.uint8), self.axis)
            return self.volume.with_array(np.ascontiguousarray(mask))
        packed = self._connection.request("GET", f"{self._path}/export", query={"type": "npz"})
        with np.load(io.BytesIO(packed), allow_pickle=False) as arrays:
            return self.volume.with_array(arrays["segs"])

    def export(self, kind: str, *, names: Mapping[int, str] | None = None) -> bytes:
        """The masks as the contents of a file.

        Args:
            kind: A key of `imaging.outputs.write.SUFFIXES`; several objects as STL come in a .zip.
            names: Object number to name, for the kinds that have a place for it.

        Raises:
            InputError: The masks cannot be written so.
        """
        query = {"type": kind}
        for name in (names or {}).values():
            if "," in name:
                raise InputError(f"a name cannot hold a comma on its way to a server: {name!r}")
        if names:
            query["names"] = ",".join(f"{number}:{name}" for number, name in names.items())
        return self._connection.request("GET", f"{self._path}/export", query=query)

    def close(self) -> None:
        """End the session; nothing is raised if it has ended already or the server is gone."""
        with suppress(MedSAM2Error):
            self._connection.request("DELETE", self._path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _request(self, method: str, path: str, body: Json | None = None) -> Mapping[str, Any]:
        return self._connection.request_json(method, f"{self._path}{path}", body=body)

    def _state(self) -> Mapping[str, Any]:
        return self._request("GET", "")

    def _step(self, what: str) -> bool:
        if not self._state()[f"can_{what}"]:
            return False
        self._request("POST", f"/{what}")
        return True

    def _check(self, number: int) -> None:
        objects = self.objects
        if number not in objects:
            raise SessionError(f"there is no object {number}; objects are {objects}")

    def _mask(self, counts: str) -> _Mask:
        _, height, width = self.shape
        return np.ascontiguousarray(from_coco_counts(counts, (height, width)))

    def _masks(self, followed: Mapping[str, float], counts: Mapping[str, str]) -> dict[int, _Mask]:
        """Masks of a slice; the server sends nothing for an object that is not in it."""
        empty = np.zeros(self.shape[1:], bool)
        return {
            int(number): self._mask(counts[number]) if number in counts else empty.copy()
            for number in followed
        }


def _prompt_json(prompt: Prompt) -> dict[str, object]:
    """A prompt in the server's JSON."""
    entries: dict[str, object] = {"slice": prompt.slice_index}
    if prompt.box is not None:
        entries["box"] = prompt.box.xyxy
    if prompt.points:
        entries["points"] = [(point.x, point.y) for point in prompt.points]
        entries["labels"] = [int(point.is_positive) for point in prompt.points]
    if prompt.mask is not None:
        entries["mask"] = coco_counts(prompt.mask.array)
    return entries
