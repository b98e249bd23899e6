"""A folder as a datastore, laid out as MONAI Label does, with its index `datastore_v2.json`."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson

from medsam2.errors import InputError, MedSAM2Error
from medsam2.imaging.dicom.header import looks_like_dicom
from medsam2.imaging.replacing import replacing
from medsam2.serving.http_errors import NotFound, NotOffered, shown
from medsam2.serving.monailabel.datastore import (
    IMAGES,
    LABELS,
    ImageEntry,
    Info,
    LabelEntry,
    checked_id,
    checked_tag,
    document_of,
    split_name,
)

FILE = "datastore_v2.json"

_NEW: Mapping[str, object] = {
    "name": "medsam2",
    "description": "Images and labels of this folder",
    "images_dir": ".",
    "labels_dir": "labels",
    "objects": {},
}
_SERIES = ".dcm"
"""It is added to the id of a series if a file in the same place has this id."""
_LOOKED_AT = 8  # files of a folder, to see whether it holds a series: other files may lie beside it
_HEAD_BYTES = 132

Document = dict[str, Any]


class Index:
    """The index of one folder, read again when another program has changed it; used under a lock."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / FILE
        self._stamp: tuple[int, int] | None = None
        self._document: Document = {**_NEW, "objects": {}}

    def document(self) -> Document:
        """The content; call `save` after a change.

        Raises:
            MedSAM2Error: It cannot be read, or is not an index, or puts files outside of the folder.
        """
        try:
            stamp = stamp_of(self._path)
            if stamp != self._stamp:
                self._document = _checked(orjson.loads(self._path.read_bytes()), self._path)
                self._stamp = stamp
        except FileNotFoundError:
            if self._stamp is not None:
                self._stamp, self._document = None, {**_NEW, "objects": {}}
        except (orjson.JSONDecodeError, OSError) as error:
            raise MedSAM2Error(
                f"{FILE} cannot be read: {_reason(error)}; repair it, or move it away"
            ) from error
        return self._document

    def save(self) -> None:
        """Write it, whole or not at all.

        Raises:
            MedSAM2Error: It cannot be written.
        """
        self._stamp = (0, 0)  # if writing fails, the next call must read what is on the disk
        with writing(self._path, ".json") as temporary:
            temporary.write_bytes(orjson.dumps(self._document, option=orjson.OPT_INDENT_2))
        self._stamp = stamp_of(self._path)

    def object(self, image_id: str) -> Document:
        """The entry of an image with `image` and `labels`, made if there is none."""
        known: Document = self.document()["objects"].setdefault(image_id, {})
        known["image"] = {"ext": "", "info": {}, **known.get("image", {})}
        known.setdefault("labels", {})
        return known

    def place(self, key: str) -> Path:
        """The folder of the images, `images_dir`, or of the labels, `labels_dir`."""
        return self._folder / str(self.document()[key])


def stamp_of(path: Path) -> tuple[int, int]:
    """Time of change and size of a file."""
    stat = path.stat()
    return stat.st_mtime_ns, stat.st_size


@contextmanager
def writing(path: Path, suffix: str) -> Iterator[Path]:
    """Replace a file of the folder as `imaging.replacing` does, but leave its path out of errors.

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
    """The facts about one image or label in the index."""
    info = known.get("info") if isinstance(known, dict) else None
    return dict(info) if isinstance(info, dict) else {}


def _reason(error: BaseException | None) -> str:
    """The reason of an error, without a path of this machine."""
    return error.strerror or type(error).__name__ if isinstance(error, OSError) else str(error)


def _checked(found: object, path: Path) -> Document:
    if not isinstance(found, dict):
        raise MedSAM2Error(f"{FILE} is not an index of a datastore; move it away")
    document: Document = {**_NEW, **found}
    if not isinstance(document["objects"], dict):
        raise MedSAM2Error(f"{FILE} holds no objects by id; repair it, or move it away")
    root = path.parent.resolve()
    for key in ("images_dir", "labels_dir"):
        document[key] = str(document[key] or _NEW[key])
        if not (root / document[key]).resolve().is_relative_to(root):
            raise MedSAM2Error(f"{FILE} names a folder outside of its own as {key}; repair it")
    document["objects"] = {name: one for name, one in document["objects"].items() if isinstance(one, dict)}
    return document


class FolderDatastore:
    """Images of a folder. A caller's name is looked up among the files there, never made into a path."""

    is_archive = False

    def __init__(self, folder: Path) -> None:
        """Open a folder.

        Raises:
            InputError: It does not exist, or its index cannot be used.
        """
        if not folder.is_dir():
            raise InputError(
                f"{folder}: no such folder; the studies are a folder with images, or a DICOMweb URL"
            )
        self._folder = folder
        self._index = Index(folder)
        self._lock = threading.Lock()
        try:
            self.entries()
        except MedSAM2Error as error:
            raise InputError(f"{folder}: {error}") from error

    def entries(self) -> Mapping[str, ImageEntry]:
        """All images, by id, in the order of their names."""
        with self._lock:
            return self._listed()

    def find(self, image_id: str) -> ImageEntry:
        """An image by its id, or by its file's name."""
        found = self.entries()
        stem, suffix = split_name(image_id, IMAGES)
        entry = found.get(image_id) or (found.get(stem) if suffix else None)
        if entry is None:
            raise NotFound(f"there is no image {shown(image_id)} in the datastore")
        return entry

    def image_path(self, entry: ImageEntry) -> Path:
        """The image's file, or the folder of a series."""
        return self._index.place("images_dir") / entry.name

    def label_path(self, entry: ImageEntry, tag: str) -> Path:
        """The label's file."""
        return self._index.place("labels_dir") / tag / f"{entry.image_id}{entry.label(tag).suffix}"

    def add_image(self, image_id: str, path: Path, suffix: str, info: Info) -> str:
        """Copy a file into the folder."""
        stem = checked_id(split_name(image_id, IMAGES)[0])
        with self._lock:
            images = self._index.place("images_dir")
            earlier = self._listed().get(stem)
            if earlier is not None and not earlier.suffix:
                raise InputError(f"{shown(stem)} is a DICOM series here; give the image another name")
            _put(path, images / stem, suffix, earlier)
            known = self._index.object(stem)["image"]
            known["ext"] = suffix
            known["info"] = {**info_of(known), **info, "ts": int(time.time()), "name": f"{stem}{suffix}"}
            self._index.save()
        return stem

    def store_label(self, entry: ImageEntry, tag: str, path: Path, suffix: str, info: Info) -> None:
        """Copy a file below `labels`."""
        with self._lock:
            folder = self._index.place("labels_dir") / checked_tag(tag)
            folder.mkdir(parents=True, exist_ok=True)
            _put(path, folder / entry.image_id, suffix, entry.labels.get(tag))
            facts = {**info, "ts": int(time.time()), "name": f"{entry.image_id}{suffix}"}
            self._known(entry)["labels"][tag] = {"ext": suffix, "info": facts}
            self._index.save()

    def remove_image(self, entry: ImageEntry) -> None:
        """Delete an image's file and its labels'."""
        if not entry.suffix:
            raise NotOffered(f"{shown(entry.image_id)} is a folder with a series; it is not removed here")
        with self._lock:
            for tag in entry.labels:
                self.label_path(entry, tag).unlink(missing_ok=True)
            self.image_path(entry).unlink(missing_ok=True)
            self._index.document()["objects"].pop(entry.image_id, None)
            self._index.save()

    def remove_label(self, entry: ImageEntry, tag: str) -> None:
        """Delete a label's file."""
        with self._lock:
            self.label_path(entry, tag).unlink(missing_ok=True)
            self._known(entry)["labels"].pop(tag, None)
            self._index.save()

    def note(self, entry: ImageEntry, info: Info, tag: str | None = None) -> None:
        """Add facts about an image or a label to the index."""
        suffix = "" if tag is None else entry.label(tag).suffix
        with self._lock:
            known = self._known(entry)
            one = known["image"] if tag is None else known["labels"].setdefault(tag, {"ext": suffix})
            one["info"] = {**info_of(one), **info}
            self._index.save()

    def document(self) -> dict[str, object]:
        """The index, with exactly the files that are in the folder."""
        with self._lock:
            return document_of(self._index.document(), self._listed())

    def _known(self, entry: ImageEntry) -> Document:
        known = self._index.object(entry.image_id)
        known["image"]["ext"] = entry.suffix
        known["image"]["info"].setdefault("name", entry.name)
        return known

    def _listed(self) -> dict[str, ImageEntry]:
        objects = self._index.document()["objects"]
        labels = self._listed_labels()
        found: dict[str, ImageEntry] = {}
        images = self._index.place("images_dir")
        for name in _names(images):
            stem, suffix = split_name(name, IMAGES)
            if suffix:
                image_id = name if stem in found else stem  # the same scan in two formats stays two images
                found[image_id] = _entry(image_id, name, suffix, objects, labels)
        for name in _names(images, folders=True):
            if images / name != self._index.place("labels_dir") and _holds_series(images / name):
                image_id = name
                while image_id in found:
                    image_id += _SERIES
                found[image_id] = _entry(image_id, name, "", objects, labels)
        return found

    def _listed_labels(self) -> dict[str, dict[str, str]]:
        """Image id -> tag -> suffix, of all label files."""
        found: dict[str, dict[str, str]] = {}
        root = self._index.place("labels_dir")
        for tag in _names(root, folders=True):
            for name in _names(root / tag):
                image_id, suffix = split_name(name, LABELS)
                if suffix:
                    found.setdefault(image_id, {})[tag] = suffix
        return found


def _entry(
    image_id: str, name: str, suffix: str, objects: Document, labels: Mapping[str, Mapping[str, str]]
) -> ImageEntry:
    known = objects.get(image_id, {})
    infos = known.get("labels") if isinstance(known.get("labels"), dict) else {}
    return ImageEntry(
        image_id=image_id,
        name=name,
        suffix=suffix,
        info={"name": name, **info_of(known.get("image"))},
        labels={
            tag: LabelEntry(suffix=ending, info=info_of(infos.get(tag)))
            for tag, ending in labels.get(image_id, {}).items()
        },
    )


def _holds_series(folder: Path) -> bool:
    """Whether one of the first files of a folder is DICOM; a folder that cannot be read holds none."""
    try:
        for name in _names(folder)[:_LOOKED_AT]:
            with (folder / name).open("rb") as file:
                if looks_like_dicom(file.read(_HEAD_BYTES)):
                    return True
    except OSError:
        pass
    return False


def _names(folder: Path, *, folders: bool = False) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return sorted(
                one.name
                for one in entries
                if not one.name.startswith(".") and (one.is_dir() if folders else one.is_file())
            )
    except FileNotFoundError:
        return []


def _put(source: Path, stem: Path, suffix: str, earlier: ImageEntry | LabelEntry | None) -> None:
    """Copy a file to a path without suffix, in place of an earlier file that may have another suffix."""
    with writing(stem.with_name(stem.name + suffix), suffix) as temporary:
        shutil.copyfile(source, temporary)
    if earlier is not None and earlier.suffix != suffix:
        stem.with_name(stem.name + earlier.suffix).unlink(missing_ok=True)
