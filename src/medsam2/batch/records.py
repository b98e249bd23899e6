"""The record beside each mask: how it was made, and a fingerprint of what it was made from."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import TextIO

from medsam2.batch.cases import Case
from medsam2.batch.storage import state_of
from medsam2.errors import InputError
from medsam2.imaging.replacing import replacing

DEFAULT_DOWNLOAD_MIB = 4096


@dataclass(frozen=True, kw_only=True)
class BatchSettings:
    """Settings for all cases; a value in a row of the table has priority."""

    weights: str = "compact"
    """Weights, by name or as a file."""
    window: str | tuple[float, float] | None = None
    plane: str | None = None
    frame: int | None = None
    series: str | None = None
    memory: str = "recent"
    keep_component: bool | None = None
    stop_after: int | None = None
    device: str = "auto"
    precision: str = "auto"
    output_type: str = "nifti"
    """A key of `imaging.outputs.write.SUFFIXES`."""
    preview: bool = False
    """Whether to write a picture of each case."""
    max_download_mib: int = DEFAULT_DOWNLOAD_MIB
    """Largest image or mask that is downloaded."""


_FORMAT = 1  # of the fingerprinted content
# The SHA-256 stands for the weights; the others change a mask not at all or too little to segment it again.
_NOT_IN_FINGERPRINT = ("weights", "device", "max_download_mib")


def fingerprint(case: Case, settings: BatchSettings, weights_sha256: str) -> str:
    """Return the SHA-256 of the image's name, size and time, the prompts, the weights and the options.

    Files that prompts refer to count in the same manner as the image. No file is read.

    Raises:
        InputError: One of the files is missing.
    """
    places = [case.place, *case.mask_places, *([] if case.source is None else [case.source])]
    options = {name: value for name, value in asdict(settings).items() if name not in _NOT_IN_FINGERPRINT}
    content = {
        "format": _FORMAT,
        "case": {name: getattr(case, name) for name in ("image", "plane", "frame", "series", "source")},
        "files": [state_of(place) for place in places],
        "prompts": [sorted((key, repr(value)) for key, value in row.values.items()) for row in case.rows],
        "weights": weights_sha256,
        "options": options,
    }
    return sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


MASKS = "masks"
LOCK = ".medsam2-batch"
"""An empty file that marks the folder of a batch; a run locks it."""
_LEFTOVERS = ".medsam2-*"  # temporary names of `imaging.replacing`
_RECORD = ".json"


@dataclass(frozen=True, kw_only=True)
class Task:
    """A case to segment."""

    case: Case
    fingerprint: str


@dataclass(frozen=True, kw_only=True)
class ObjectRecord:
    """One object of a mask."""

    number: int
    """Its label."""
    name: str | None
    volume_ml: float
    longest_diameter_mm: float
    num_slices: int
    """Number of slices that contain it."""


@dataclass(frozen=True, kw_only=True)
class CaseRecord:
    """The record of a case that is done."""

    case: str
    image: str
    """Image, as the table names it."""
    fingerprint: str
    files: tuple[str, ...]
    """Names of the files beside this record, the mask first."""
    objects: tuple[ObjectRecord, ...]
    num_slices: int
    """Number of slices of the image, along the axis of propagation."""
    visited: int
    """Number of slices that the network saw, counted for each object."""
    seconds: float
    """Time from reading or downloading the image to the last written file."""
    peak_mib: float | None
    """Peak memory of the process during the case; None if the system does not report it."""
    window: tuple[float, float]
    device: str
    precision: str
    threads: int
    """Threads of PyTorch. Another number changes the order of sums, so a voxel may differ."""
    weights: str
    versions: Mapping[str, str]
    notes: tuple[str, ...] = ()
    """Warnings."""

    @property
    def volume_ml(self) -> float:
        """Return the volume of all objects."""
        return sum(one.volume_ml for one in self.objects)


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A case that is not done, and why."""

    case: str
    error: str
    """The reason, in a sentence."""
    is_changed: bool = False
    """Whether the case has a mask from before a change of its row, image or options."""


@dataclass
class Tally:
    """The state of a run."""

    kept: set[str] = field(default_factory=set)
    """Cases that were done before this run."""
    failures: dict[str, Failure] = field(default_factory=dict)


def masks_folder(folder: Path) -> Path:
    """Return the folder with the masks and their records."""
    return folder / MASKS


def keep_record(record: CaseRecord, folder: Path) -> None:
    """Write a record beside its mask; from then on the case is done.

    The mask's bytes are flushed to the disk first, so that after a power cut no record names an empty file.

    Raises:
        InputError: The record cannot be written.
    """
    masks = masks_folder(folder)
    for name in record.files:
        _flush(masks / name)
    with replacing(masks / f"{record.case}{_RECORD}", ".part") as temporary:
        text = json.dumps(asdict(record), ensure_ascii=False)
        # A file name that is not UTF-8 becomes an escape of JSON.
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
        _flush(temporary)


def read_record(name: str, folder: Path) -> CaseRecord | None:
    """Read a case's record; None if the case is not done or one of its files is missing or empty."""
    masks = masks_folder(folder)
    try:
        content = json.loads((masks / f"{name}{_RECORD}").read_text(encoding="utf-8"))
        content["objects"] = [ObjectRecord(**one) for one in content["objects"]]
        for key in ("objects", "files", "window", "notes"):
            content[key] = tuple(content[key])
        record = CaseRecord(**content)
        is_whole = all((masks / file).stat().st_size for file in record.files)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None  # from another version, or edited by hand: segment the case again
    return record if is_whole and record.files else None


@contextmanager
def working_in(folder: Path) -> Iterator[None]:
    """Make a folder the folder of a batch, and lock it against other runs.

    The system ends the lock when the process ends, even if it is killed.

    Raises:
        InputError: The folder cannot be made or written to, has other files, or another run is using it.
    """
    import fcntl

    with _opened_lock(folder) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"{folder}: another run is using this folder") from None
        for left in (*folder.glob(f"{_LEFTOVERS}.*"), *masks_folder(folder).glob(_LEFTOVERS)):
            left.unlink(missing_ok=True)
        yield


def _opened_lock(folder: Path) -> TextIO:
    lock = folder / LOCK
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not lock.exists() and any(folder.iterdir()):
            raise InputError(
                f"{folder}: has files that are not those of a batch; give a new folder for the results"
            )
        masks_folder(folder).mkdir(exist_ok=True)
        return lock.open("a", encoding="utf-8")
    except (NotADirectoryError, FileExistsError):
        raise InputError(f"{folder}: is a file; give a folder for the results") from None
    except OSError as error:
        raise InputError(f"{folder}: cannot be written to: {error.strerror or error}") from error


def _flush(path: Path) -> None:
    with path.open("rb") as file, suppress(OSError):  # some network file systems refuse
        os.fsync(file.fileno())
