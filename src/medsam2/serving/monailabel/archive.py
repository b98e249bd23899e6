"""A DICOMweb archive as a datastore: images are its image series, approved labels its segmentations."""

from __future__ import annotations

import shutil
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from medsam2.imaging.dicom.series import PICTURE_MODALITIES, VOLUME_MODALITIES
from medsam2.serving.http_errors import NotFound, NotOffered, shown
from medsam2.serving.monailabel.datastore import (
    FINAL,
    LABELS,
    ImageEntry,
    Info,
    LabelEntry,
    checked_tag,
    document_of,
    split_name,
)
from medsam2.serving.monailabel.dicomweb import Address, Archive, Segmentation, Series
from medsam2.serving.service import Service

_NO_IMAGES = ("SEG", "RTSTRUCT", "RTPLAN", "RTDOSE", "SR", "PR", "KO", "REG", "DOC", "")
# Of these modalities the DICOM reader takes series of one file: a picture, or a volume of many frames.
_ONE_FILE = tuple(one for one in PICTURE_MODALITIES if one not in VOLUME_MODALITIES)
_SUFFIX = ".dcm"
_LISTED_S = 10.0
"""How long a list is used: viewers ask for it again after every label."""
_MAX_SERIES = 8
_UNUSED_S = 120.0


@dataclass(kw_only=True)
class _Fetched:
    """A series that lies on the server for a while."""

    folder: Path
    num_instances: int
    used: float


class ArchiveDatastore:
    """Series of an archive, by their UIDs. Labels that nobody has approved end with the server."""

    is_archive = True

    def __init__(self, url: str, service: Service) -> None:
        """Name an archive; it is not contacted yet.

        Raises:
            InputError: This is not a URL.
        """
        address = Address.of(url)
        self.name = address.host
        self._archive = Archive(address, timeout_s=service.settings.fetch_timeout_s)
        self._service = service
        self._lock = threading.Lock()
        self._fetching = threading.Lock()
        self._listed: tuple[float, dict[str, ImageEntry]] = (0.0, {})
        self._series: dict[str, Series] = {}
        self._segmentations: dict[str, Segmentation | None] = {}
        self._fetched: dict[str, _Fetched] = {}
        self._files: dict[str, Path] = {}
        self._local: dict[tuple[str, str], Path] = {}  # labels that are not in the archive
        self._infos: dict[tuple[str, str], dict[str, object]] = {}

    def entries(self) -> Mapping[str, ImageEntry]:
        """All series, by UID, as they were a few seconds ago at most."""
        with self._lock:
            made, entries = self._listed
            if time.monotonic() - made < _LISTED_S and made:
                return entries
            labelled = self._labelled(self._archive.list_segmentations())
            series = [
                one
                for modality in (*VOLUME_MODALITIES, *_ONE_FILE)
                for one in self._archive.list_series(modality)
                if modality in VOLUME_MODALITIES or one.num_instances == 1
            ]
            entries = {one.series_uid: self._entry(one, labelled.get(one.series_uid)) for one in series}
            self._listed = (time.monotonic(), entries)
            return entries

    def find(self, image_id: str) -> ImageEntry:
        """A series by its UID."""
        series = self._archive.find_series(image_id)
        if series is None or series.modality in _NO_IMAGES:
            raise NotFound(f"there is no series of images {shown(image_id)} in the archive")
        with self._lock:
            labelled = self._labelled(self._archive.list_segmentations(series.study_uid))
            return self._entry(series, labelled.get(series.series_uid))

    def image_path(self, entry: ImageEntry) -> Path:
        """A folder with the series, fetched if it is not here."""
        series = self._series[entry.image_id]
        with self._fetching:
            fetched = self._fetched.get(series.series_uid)
            if fetched is None or fetched.num_instances != series.num_instances:
                self._make_room()
                fetched = self._fetch(series)
            fetched.used = time.monotonic()
            return fetched.folder

    def label_path(self, entry: ImageEntry, tag: str) -> Path:
        """A file with a label: a segmentation of the archive, or a label kept on the server."""
        local = self._local.get((entry.image_id, tag))
        if local is not None:
            return local
        segmentation = self._segmentation(entry, tag)
        with self._fetching:
            path = self._files.get(segmentation.instance_uid)
            if path is None:
                path = self._folder("labels") / f"{uuid.uuid4()}{_SUFFIX}"
                self._archive.fetch_segmentation(segmentation, path)
                self._files[segmentation.instance_uid] = path
            return path

    def add_image(self, image_id: str, path: Path, suffix: str, info: Info) -> str:
        """Refuse: scanners and workstations send images to an archive themselves."""
        raise NotOffered(
            "images are not added to an archive here; send them to it, or open them in a session"
        )

    def store_label(self, entry: ImageEntry, tag: str, path: Path, suffix: str, info: Info) -> None:
        """Store an approved label in the archive, as a segmentation; keep others on the server."""
        checked_tag(tag)
        if tag == FINAL:
            self._archive.store(path)
        else:
            copy = self._folder("labels") / f"{uuid.uuid4()}{suffix}"
            self._local[entry.image_id, tag] = Path(shutil.copyfile(path, copy))
        self._infos[entry.image_id, tag] = {**info, "ts": int(time.time())}
        self._forget_list()

    def remove_image(self, entry: ImageEntry) -> None:
        """Refuse: images of an archive are not deleted from here."""
        raise NotOffered("images are not removed from an archive here")

    def remove_label(self, entry: ImageEntry, tag: str) -> None:
        """Remove the latest segmentation from the archive, or a label that is kept on the server."""
        local = self._local.pop((entry.image_id, tag), None)
        if local is not None:
            local.unlink(missing_ok=True)
        else:
            self._archive.delete_instance(self._segmentation(entry, tag))
        self._infos.pop((entry.image_id, tag), None)
        self._forget_list()

    def note(self, entry: ImageEntry, info: Info, tag: str | None = None) -> None:
        """Remember facts for as long as the server runs."""
        self._infos.setdefault((entry.image_id, tag or ""), {}).update(info)
        self._forget_list()

    def document(self) -> dict[str, object]:
        """All series, in the form of a folder's index."""
        return document_of({"name": self.name, "description": "A DICOMweb archive"}, self.entries())

    def _entry(self, series: Series, segmentation: Segmentation | None) -> ImageEntry:
        image_id = series.series_uid
        self._series[image_id] = series
        labels = {}
        for (owner, tag), path in self._local.items():
            if owner == image_id:
                suffix = split_name(path.name, LABELS)[1]
                labels[tag] = LabelEntry(suffix=suffix, info=self._infos.get((image_id, tag), {}))
        if segmentation is not None:
            info = {
                "SeriesInstanceUID": segmentation.series_uid,
                "SOPInstanceUID": segmentation.instance_uid,
                **self._infos.get((image_id, FINAL), {}),
            }
            labels[FINAL] = LabelEntry(suffix=_SUFFIX, info=info)
        info = {
            "StudyInstanceUID": series.study_uid,
            "SeriesInstanceUID": series.series_uid,
            "Modality": series.modality,
            **self._infos.get((image_id, ""), {}),
        }
        return ImageEntry(image_id=image_id, name=image_id, suffix="", info=info, labels=labels)

    def _labelled(self, series: list[Series]) -> dict[str, Segmentation]:
        """The latest segmentation of each image that has one; a segmentation's header is fetched once."""
        found: dict[str, Segmentation] = {}
        for one in series:
            if one.series_uid not in self._segmentations:
                self._segmentations[one.series_uid] = self._archive.describe_segmentation(one)
            segmentation = self._segmentations[one.series_uid]
            if segmentation is None:
                continue
            earlier = found.get(segmentation.source_uid)
            if earlier is None or earlier.made <= segmentation.made:
                found[segmentation.source_uid] = segmentation
        return found

    def _segmentation(self, entry: ImageEntry, tag: str) -> Segmentation:
        found = self._segmentations.get(str(entry.label(tag).info.get("SeriesInstanceUID")))
        if found is None:
            raise NotFound(f"{shown(entry.image_id)} has no segmentation in the archive")
        return found

    def _fetch(self, series: Series) -> _Fetched:
        folder = self._folder("series") / str(uuid.uuid4())
        folder.mkdir()
        try:
            self._archive.fetch_series(series, folder, self._service.settings.max_volume)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        fetched = _Fetched(folder=folder, num_instances=series.num_instances, used=time.monotonic())
        earlier = self._fetched.get(series.series_uid)
        self._fetched[series.series_uid] = fetched
        if earlier is not None:
            shutil.rmtree(earlier.folder, ignore_errors=True)
        return fetched

    def _make_room(self) -> None:
        """Remove series that nobody has used for a while, if there are many."""
        now = time.monotonic()
        for uid, fetched in sorted(self._fetched.items(), key=lambda item: item[1].used):
            if len(self._fetched) < _MAX_SERIES or now - fetched.used < _UNUSED_S:
                return
            shutil.rmtree(fetched.folder, ignore_errors=True)
            del self._fetched[uid]

    def _folder(self, name: str) -> Path:
        folder = self._service.folder / f"archive-{name}"
        folder.mkdir(exist_ok=True)
        return folder

    def _forget_list(self) -> None:
        with self._lock:
            self._listed = (0.0, {})
