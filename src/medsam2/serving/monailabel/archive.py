"""A DICOMweb archive as a datastore: images are its CT and MR series, approved labels its segmentations."""

from __future__ import annotations

import shutil
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from medsam2.serving.http_errors import Fault, shown
from medsam2.serving.monailabel.datastore import FINAL, ImageEntry, Info, LabelEntry, checked_tag
from medsam2.serving.monailabel.dicomweb import MODALITIES, Address, Archive, Segmentation, Series
from medsam2.serving.service import Service

_SUFFIX = ".dcm"
_LISTED_S = 10.0
"""How long a list stays good: viewers ask for it again after every label."""
_KEPT_SERIES = 8
_UNUSED_S = 120.0


@dataclass(kw_only=True)
class _Fetched:
    """A series that lies here for a while."""

    folder: Path
    num_instances: int
    used: float


@dataclass(frozen=True, kw_only=True)
class _Kept:
    """A label that is kept here and not in the archive."""

    path: Path
    suffix: str
    info: Info


class ArchiveStudies:
    """Series of an archive, by their UIDs. Labels that nobody has approved end with the server."""

    is_archive = True

    def __init__(self, url: str, service: Service) -> None:
        """Name an archive; it need not be there yet.

        Raises:
            InputError: This is no URL.
        """
        address = Address.of(url)
        self._host = address.host
        self._archive = Archive(address, timeout_s=service.settings.fetch_timeout_s)
        self._service = service
        self._lock = threading.Lock()
        self._fetching = threading.Lock()
        self._listed: tuple[float, dict[str, ImageEntry]] = (0.0, {})
        self._series: dict[str, Series] = {}
        self._segmentations: dict[str, Segmentation | None] = {}
        self._fetched: dict[str, _Fetched] = {}
        self._files: dict[str, Path] = {}
        self._kept: dict[tuple[str, str], _Kept] = {}
        self._infos: dict[tuple[str, str], dict[str, object]] = {}

    @property
    def name(self) -> str:
        """The archive's host."""
        return self._host

    def entries(self) -> Mapping[str, ImageEntry]:
        """All series, by UID, as they were a few seconds ago at most."""
        with self._lock:
            made, entries = self._listed
            if time.monotonic() - made < _LISTED_S and made:
                return entries
            labelled = self._labelled(self._archive.list_segmentations())
            series = [one for modality in MODALITIES for one in self._archive.list_series(modality)]
            entries = {one.series_uid: self._entry(one, labelled.get(one.series_uid)) for one in series}
            self._listed = (time.monotonic(), entries)
            return entries

    def find(self, image_id: str) -> ImageEntry:
        """A series by its UID.

        Raises:
            Fault: 404, there is none of this UID that is CT or MR.
        """
        series = self._archive.find_series(image_id)
        if series is None or series.modality not in MODALITIES:
            raise Fault(404, f"there is no CT or MR series {shown(image_id)} in the archive")
        with self._lock:
            labelled = self._labelled(self._archive.list_segmentations(series.study_uid))
            return self._entry(series, labelled.get(series.series_uid))

    def image_path(self, entry: ImageEntry) -> Path:
        """A folder with the series, fetched if it is not here.

        Raises:
            Fault: 413, it is too large; 502, the archive does not answer as one.
        """
        series = self._series[entry.image_id]
        with self._fetching:
            fetched = self._fetched.get(series.series_uid)
            if fetched is None or fetched.num_instances != series.num_instances:
                self._make_room()
                fetched = self._fetch(series)
            fetched.used = time.monotonic()
            return fetched.folder

    def label_path(self, entry: ImageEntry, tag: str) -> Path:
        """A file with a label: a segmentation of the archive, or what is kept here.

        Raises:
            Fault: 404, there is none; 502, the archive does not answer as one.
        """
        kept = self._kept.get((entry.image_id, tag))
        if kept is not None:
            return kept.path
        segmentation = self._segmentation(entry) if tag == FINAL else None
        if segmentation is None:
            tags = ", ".join(entry.labels) or "none"
            raise Fault(404, f"{shown(entry.image_id)} has no label tagged {shown(tag)}; its tags are {tags}")
        with self._fetching:
            path = self._files.get(segmentation.instance_uid)
            if path is None:
                path = self._folder("labels") / f"{uuid.uuid4()}{_SUFFIX}"
                self._archive.fetch_segmentation(segmentation, path)
                self._files[segmentation.instance_uid] = path
            return path

    def add_image(self, image_id: str, path: Path, suffix: str, info: Info) -> str:
        """Refuse: images come into an archive by their own ways.

        Raises:
            Fault: 501.
        """
        raise Fault(
            501, "images are not added to an archive here; send them to it, or open them in a session"
        )

    def store_label(self, entry: ImageEntry, tag: str, path: Path, suffix: str, info: Info) -> None:
        """Store an approved label in the archive, which gets it as a segmentation; keep others here.

        Raises:
            Fault: 422, nothing can be tagged so; 502, the archive does not take it.
        """
        checked_tag(tag)
        if tag == FINAL:
            self._archive.store(path)
        else:
            copy = self._folder("labels") / f"{uuid.uuid4()}{suffix}"
            shutil.copyfile(path, copy)
            self._kept[entry.image_id, tag] = _Kept(path=copy, suffix=suffix, info=info)
        self._infos[entry.image_id, tag] = {**info, "ts": int(time.time())}
        self._forget_list()

    def remove_image(self, entry: ImageEntry) -> None:
        """Refuse: an archive's images are not ours to delete.

        Raises:
            Fault: 501.
        """
        raise Fault(501, "images are not removed from an archive here")

    def remove_label(self, entry: ImageEntry, tag: str) -> None:
        """Remove the latest segmentation from the archive, or a label that is kept here.

        Raises:
            Fault: 404, there is none; 502, the archive does not do that.
        """
        kept = self._kept.pop((entry.image_id, tag), None)
        segmentation = self._segmentation(entry) if tag == FINAL else None
        if kept is not None:
            kept.path.unlink(missing_ok=True)
        elif segmentation is not None:
            self._archive.delete_instance(segmentation)
        else:
            raise Fault(404, f"{shown(entry.image_id)} has no label tagged {shown(tag)}")
        self._infos.pop((entry.image_id, tag), None)
        self._forget_list()

    def note(self, entry: ImageEntry, info: Info, tag: str | None = None) -> None:
        """Remember something for as long as the server runs."""
        known = self._infos.setdefault((entry.image_id, tag or ""), {})
        known.update(info)
        self._forget_list()

    def described(self) -> dict[str, object]:
        """All series, in the form of a folder's index."""
        objects = {
            image_id: {
                "image": {"ext": entry.suffix, "info": entry.info},
                "labels": {
                    tag: {"ext": label.suffix, "info": label.info} for tag, label in entry.labels.items()
                },
            }
            for image_id, entry in self.entries().items()
        }
        return {"name": self.name, "description": "A DICOMweb archive", "objects": objects}

    def _entry(self, series: Series, segmentation: Segmentation | None) -> ImageEntry:
        image_id = series.series_uid
        self._series[image_id] = series
        labels = {
            tag: LabelEntry(suffix=kept.suffix, info=self._infos.get((image_id, tag), {}))
            for (owner, tag), kept in self._kept.items()
            if owner == image_id
        }
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
        """The latest segmentation of each image that has one; a segmentation's header is asked for once."""
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

    def _segmentation(self, entry: ImageEntry) -> Segmentation | None:
        label = entry.labels.get(FINAL)
        return self._segmentations.get(str(label.info.get("SeriesInstanceUID"))) if label else None

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
        """Let go of series that nobody has looked at for a while, if there are many."""
        now = time.monotonic()
        for uid, fetched in sorted(self._fetched.items(), key=lambda item: item[1].used):
            if len(self._fetched) < _KEPT_SERIES or now - fetched.used < _UNUSED_S:
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
