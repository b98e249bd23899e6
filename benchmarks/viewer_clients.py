"""Three clients of viewers as one interface: nnInteractive's own, and two made again from their requests.

The client of nnInteractive 2.x is the real one, which 3D Slicer, napari and MITK use. The requests of
SlicerNNInteractive 0.x and ITK-SNAP 4.4 are sent with the libraries of the one, and like those of the other.
"""

from __future__ import annotations

import base64
import gzip
import io
import json
from typing import Protocol

import httpx
import numpy as np
import requests
from nnInteractive.inference.remote import nnInteractiveRemoteInferenceSession
from requests_toolbelt import MultipartEncoder

from medsam2.imaging.volume import Volume

PATIENCE_S = 300
Place = tuple[int, int, int]


class Client(Protocol):
    """What a viewer does; voxels and arrays are `(z, y, x)`."""

    name: str

    def open(self, volume: Volume) -> Volume:
        """Send an image. Returns the image as the server has it, since some clients send no spacing."""

    def click(self, at: Place, *, is_positive: bool = True) -> np.ndarray:
        """Click on a voxel. Returns the mask."""

    def draw(self, array: np.ndarray, *, is_outline: bool, is_positive: bool = True) -> np.ndarray:
        """Draw voxels."""

    def box(self, first: Place, last: Place, *, is_positive: bool = True) -> np.ndarray | None:
        """Draw a box; None if the viewer has none."""

    def give(self, mask: np.ndarray) -> np.ndarray | None:
        """Begin a new object with a mask; None if the viewer cannot."""

    def undo(self) -> np.ndarray | None:
        """Take the last one back; None if the viewer does not ask the server."""

    def reset(self) -> np.ndarray | None:
        """Begin the next object; None if the answer has no mask."""


class NnInteractive:
    """The real client of nnInteractive 2.x."""

    name = "nninteractive-client 2.x"

    def __init__(self, address: str, window: str) -> None:
        self._client = nnInteractiveRemoteInferenceSession(f"{address}/viewers/{window}")

    def open(self, volume: Volume) -> Volume:
        spacing = list(volume.spacing[::-1])
        self._client.set_image(volume.array[None], {"spacing": spacing})
        self._client.set_target_buffer(np.zeros(volume.shape, np.uint8))
        return Volume(volume.array, np.diag([*volume.spacing, 1.0]))

    @property
    def _mask(self) -> np.ndarray:
        return self._client.target_buffer.copy() != 0

    def click(self, at: Place, *, is_positive: bool = True) -> np.ndarray:
        self._client.add_point_interaction(list(at), include_interaction=is_positive)
        return self._mask

    def draw(self, array: np.ndarray, *, is_outline: bool, is_positive: bool = True) -> np.ndarray:
        add = self._client.add_lasso_interaction if is_outline else self._client.add_scribble_interaction
        inside = np.argwhere(array)
        box = [[int(low), int(high) + 1] for low, high in zip(inside.min(0), inside.max(0), strict=True)]
        crop = array[tuple(slice(*pair) for pair in box)].astype(np.uint8)
        add(crop, include_interaction=is_positive, interaction_bbox=box)
        return self._mask

    def box(self, first: Place, last: Place, *, is_positive: bool = True) -> np.ndarray | None:
        pairs = [[low, high + 1] for low, high in zip(first, last, strict=True)]
        self._client.add_bbox_interaction(pairs, include_interaction=is_positive)
        return self._mask

    def give(self, mask: np.ndarray) -> np.ndarray | None:
        self._client.reset_interactions()
        self._client.add_initial_seg_interaction(mask.astype(np.uint8))
        return self._mask

    def undo(self) -> np.ndarray | None:
        assert self._client.undo()
        return self._mask

    def reset(self) -> np.ndarray | None:
        self._client.reset_interactions()
        return self._mask


class Slicer0x:
    """The requests of SlicerNNInteractive 0.x."""

    name = "SlicerNNInteractive 0.x (replay)"

    def __init__(self, address: str, window: str) -> None:
        self._address = f"{address}/viewers/{window}"
        self._shape: Place = (0, 0, 0)

    def _post(self, path: str, array: np.ndarray, is_positive: bool | None = None) -> requests.Response:
        target = io.BytesIO()
        np.save(target, array)
        is_packed = path != "/upload_image"
        content = gzip.compress(target.getvalue(), 1) if is_packed else target.getvalue()
        name = "volume.npy.gz" if is_packed else "volume.npy"
        fields = {"file": (name, content, "application/octet-stream")}
        form = MultipartEncoder(
            {**fields, **({} if is_positive is None else {"positive_click": str(is_positive)})}
        )
        headers = {"Content-Type": form.content_type, **({"Content-Encoding": "gzip"} if is_packed else {})}
        return requests.post(self._address + path, data=form, headers=headers, timeout=PATIENCE_S)

    def _shown(self, answer: requests.Response) -> np.ndarray:
        answer.raise_for_status()
        bits = np.unpackbits(np.frombuffer(answer.content, np.uint8))
        return bits[: int(np.prod(self._shape))].reshape(self._shape) != 0

    def _say(self, path: str, **values: object) -> np.ndarray:
        return self._shown(requests.post(self._address + path, json=values, timeout=PATIENCE_S))

    def open(self, volume: Volume) -> Volume:
        self._shape = volume.shape
        self._post("/upload_image", volume.array).raise_for_status()
        self.reset()
        return Volume(volume.array, np.eye(4))

    def click(self, at: Place, *, is_positive: bool = True) -> np.ndarray:
        return self._say("/add_point_interaction", voxel_coord=list(at), positive_click=is_positive)

    def draw(self, array: np.ndarray, *, is_outline: bool, is_positive: bool = True) -> np.ndarray:
        path = "/add_lasso_interaction" if is_outline else "/add_scribble_interaction"
        return self._shown(self._post(path, array.astype(np.uint8), is_positive))

    def box(self, first: Place, last: Place, *, is_positive: bool = True) -> np.ndarray | None:
        corners = {"outer_point_one": list(first), "outer_point_two": list(last)}
        return self._say("/add_bbox_interaction", **corners, positive_click=is_positive)

    def give(self, mask: np.ndarray) -> np.ndarray | None:
        self._post("/upload_segment", mask.astype(bool)).raise_for_status()
        return None

    def undo(self) -> np.ndarray | None:
        return None

    def reset(self) -> np.ndarray | None:
        self._post("/upload_segment", np.zeros(self._shape, bool)).raise_for_status()
        return None


class ItkSnap:
    """The requests of ITK-SNAP 4.4."""

    name = "ITK-SNAP 4.4 (replay)"

    def __init__(self, address: str, window: str) -> None:
        self._http = httpx.Client(base_url=f"{address}/viewers/{window}", timeout=PATIENCE_S)
        self._id = self._http.get("/start_session").json()["session_id"]
        self._facts: dict[str, object] = {}

    def _form(self, array: np.ndarray) -> dict[str, tuple[str | None, object, str]]:
        packed = gzip.compress(array.astype("<f4").tobytes(), 1)
        return {
            "file": ("image.gz", packed, "application/gzip"),
            "metadata": (None, json.dumps(self._facts), "application/json"),
        }

    def _shown(self, answer: httpx.Response) -> np.ndarray:
        answer.raise_for_status()
        packed = base64.b64decode(answer.json()["result"], validate=True)
        return np.frombuffer(gzip.decompress(packed), np.int8).reshape(self._shape) != 0

    def open(self, volume: Volume) -> Volume:
        self._shape = volume.shape
        grid = {
            "spacing": list(volume.spacing),
            "origin": [0.0, 0.0, 0.0],
            "direction": [1, 0, 0, 0, 1, 0, 0, 0, 1],
        }
        kind = {"components_per_pixel": 1, "component_type": "float32"}
        self._facts = {"dimensions": list(volume.shape[::-1]), **grid, **kind}
        self._http.post(
            f"/upload_raw/{self._id}?filename=i.gz", files=self._form(volume.array)
        ).raise_for_status()
        array = volume.array.astype(np.float32)
        return Volume.from_array(array, volume.spacing)

    def click(self, at: Place, *, is_positive: bool = True) -> np.ndarray:
        z, y, x = at
        values = {"x": x, "y": y, "z": z, "foreground": str(is_positive).lower()}
        return self._shown(self._http.get(f"/process_point_interaction/{self._id}", params=values))

    def draw(self, array: np.ndarray, *, is_outline: bool, is_positive: bool = True) -> np.ndarray:
        path = f"/process_{'lasso' if is_outline else 'scribble'}_interaction/{self._id}"
        values = {"foreground": str(is_positive).lower()}
        return self._shown(self._http.post(path, params=values, files=self._form(array)))

    def box(self, first: Place, last: Place, *, is_positive: bool = True) -> np.ndarray | None:
        return None

    def give(self, mask: np.ndarray) -> np.ndarray | None:
        return None

    def undo(self) -> np.ndarray | None:
        return None

    def reset(self) -> np.ndarray | None:
        self._http.get(f"/reset_interactions/{self._id}").raise_for_status()
        return None
