"""Keep `datastore_v2.json`, MONAI Label's index of what is known of a folder's images and labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson

from medsam2.errors import InputError, MedSAM2Error
from medsam2.imaging.replacing import replacing

FILE = "datastore_v2.json"

_NEW: Mapping[str, object] = {
    "name": "medsam2",
    "description": "Images and labels of this folder",
    "images_dir": ".",
    "labels_dir": "labels",
    "objects": {},
}
_UNKNOWN = (0, 0)
Document = dict[str, Any]


class Index:
    """The index of one folder, read again when somebody else has changed it; used under a lock."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / FILE
        self._stamp: tuple[int, int] | None = None
        self._document: Document = {**_NEW, "objects": {}}

    def document(self) -> Document:
        """What stands in it; whoever changes it calls `save`.

        Raises:
            MedSAM2Error: It cannot be read, or is no index, or puts files outside of the folder.
        """
        try:
            stat = self._path.stat()
            stamp = (stat.st_mtime_ns, stat.st_size)
            if stamp != self._stamp:
                self._document = _checked(orjson.loads(self._path.read_bytes()), self._path)
                self._stamp = stamp
        except FileNotFoundError:
            if self._stamp is not None:
                self._stamp, self._document = None, {**_NEW, "objects": {}}
        except (orjson.JSONDecodeError, OSError) as error:
            raise MedSAM2Error(
                f"{FILE} cannot be read: {_reason(error)}; mend it, or move it away"
            ) from error
        return self._document

    def save(self) -> None:
        """Write it, whole or not at all.

        Raises:
            MedSAM2Error: It cannot be written.
        """
        # Whatever fails now, what was to be written is not taken for what stands there.
        self._stamp = _UNKNOWN
        with writing(self._path, ".json") as temporary:
            temporary.write_bytes(orjson.dumps(self._document, option=orjson.OPT_INDENT_2))
        stat = self._path.stat()
        self._stamp = (stat.st_mtime_ns, stat.st_size)

    def object(self, image_id: str) -> Document:
        """What is known of an image, made if nothing is: `image` and `labels`."""
        known: Document = self.document()["objects"].setdefault(image_id, {})
        image = known.setdefault("image", {})
        image.setdefault("ext", "")
        image.setdefault("info", {})
        known.setdefault("labels", {})
        return known

    def place(self, key: str) -> Path:
        """The folder of the images, `images_dir`, or of the labels, `labels_dir`."""
        return self._folder / str(self.document()[key])


@contextmanager
def writing(path: Path, suffix: str) -> Iterator[Path]:
    """Replace a file of the folder as `imaging.replacing` does, but without its path in what is raised.

    Raises:
        MedSAM2Error: It cannot be written.
    """
    try:
        with replacing(path, suffix) as temporary:
            yield temporary
    except InputError as error:
        raise MedSAM2Error(
            f"the datastore's folder cannot be written to: {_reason(error.__cause__)}"
        ) from error


def info_of(known: object) -> dict[str, object]:
    """What is known of one image or label in the index."""
    info = known.get("info") if isinstance(known, dict) else None
    return dict(info) if isinstance(info, dict) else {}


def _reason(error: BaseException | None) -> str:
    """What went wrong, without the place on this machine."""
    return error.strerror or type(error).__name__ if isinstance(error, OSError) else str(error)


def _checked(found: object, path: Path) -> Document:
    if not isinstance(found, dict):
        raise MedSAM2Error(f"{FILE} is no index of a datastore; move it away")
    document: Document = {**_NEW, **found}
    if not isinstance(document["objects"], dict):
        raise MedSAM2Error(f"{FILE} holds no objects by id; mend it, or move it away")
    root = path.parent.resolve()
    for key in ("images_dir", "labels_dir"):
        document[key] = str(document[key] or _NEW[key])
        if not (root / document[key]).resolve().is_relative_to(root):
            raise MedSAM2Error(f"{FILE} names a folder outside of its own as {key}; mend it")
    document["objects"] = {name: one for name, one in document["objects"].items() if isinstance(one, dict)}
    return document
