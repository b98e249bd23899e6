"""What is kept beside each mask: how it was made, and the fingerprint of what it came from."""

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
    """For all cases; where a row of the table says otherwise, the row is followed."""

    weights: str = "compact"
    """Name or file."""
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
    """Whether each case gets a picture too."""
    max_download_mib: int = DEFAULT_DOWNLOAD_MIB
    """The most that is fetched of one image or mask."""


_FORMAT = 1  # of what is digested
# Where it is computed and what may be fetched change nothing that a batch should be done again for.
_NOT_LOOKED_AT = ("weights", "device", "max_download_mib")


def fingerprint(case: Case, settings: BatchSettings, weights_sha256: str) -> str:
    """Return the SHA-256 of the image's name, size and time, the prompts, the weights and the options.

    Files that prompts and masks refer to count as the image does. Nothing of them is read.

    Raises:
        InputError: One of the files is not there.
    """
    places = [case.place, *case.mask_places, *([] if case.source is None else [case.source])]
    options = {name: value for name, value in asdict(settings).items() if name not in _NOT_LOOKED_AT}
    content = {
        "format": _FORMAT,
        "case": {
            "image": case.image,
            "plane": case.plane,
            "frame": case.frame,
            "series": case.series,
            "source": case.source,
        },
        "files": [state_of(place) for place in places],
        "prompts": [sorted((key, repr(value)) for key, value in row.values.items()) for row in case.rows],
        "weights": weights_sha256,
        "options": options,
    }
    return sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


MASKS = "masks"
LOCK = ".medsam2-batch"
"""An empty file that marks the folder of a batch, and that is locked while one works in it."""
_LEFTOVERS = ".medsam2-*"  # temporary names of `imaging.replacing`
_RECORD = ".json"


@dataclass(frozen=True, kw_only=True)
class Task:
    """A case whose turn comes."""

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
    """Slices that it is in."""


@dataclass(frozen=True, kw_only=True)
class CaseRecord:
    """One case that is done."""

    case: str
    image: str
    """As the table has it."""
    fingerprint: str
    files: tuple[str, ...]
    """What was written, the mask first, beside this record."""
    objects: tuple[ObjectRecord, ...]
    num_slices: int
    """Of the image, along the axis that it was followed."""
    visited: int
    """Slices that the network looked at, each object's counted."""
    seconds: float
    """From the first byte that was read or fetched to the last that was written."""
    peak_mib: float | None
    """The most memory that its process had in use meanwhile; None where the system does not tell."""
    window: tuple[float, float]
    device: str
    precision: str
    threads: int
    """Of PyTorch. With another number sums run in another order, and a voxel may change."""
    weights: str
    versions: Mapping[str, str]
    notes: tuple[str, ...] = ()
    """Warnings, in words."""

    @property
    def volume_ml(self) -> float:
        """Of all objects."""
        return sum(one.volume_ml for one in self.objects)


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One case that is not done."""

    case: str
    error: str
    """Why, in a sentence."""
    is_changed: bool = False
    """Whether there is a mask, made from what the table or the image said before."""


@dataclass
class Tally:
    """How a run stands; counts, and what did not succeed."""

    kept: set[str] = field(default_factory=set)
    """Cases that were done before and were left as they are."""
    faults: dict[str, Fault] = field(default_factory=dict)


def masks_folder(folder: Path) -> Path:
    """Where masks and their records lie."""
    return folder / MASKS


def keep_record(record: CaseRecord, folder: Path) -> None:
    """Write a record beside its mask: from then on the case is done.

    The mask's bytes are on the disk first, so that a record never speaks of a file that a power cut emptied.

    Raises:
        InputError: It cannot be written.
    """
    masks = masks_folder(folder)
    for name in record.files:
        _flush(masks / name)
    with replacing(masks / f"{record.case}{_RECORD}", ".part") as temporary:
        text = json.dumps(asdict(record), ensure_ascii=False)
        # A name of a file that is no UTF-8 becomes an escape of JSON, which gives it back.
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
        _flush(temporary)


def read_record(name: str, folder: Path) -> CaseRecord | None:
    """Read a case's record; None if it is not done: there is none, or a file of it is missing or empty."""
    masks = masks_folder(folder)
    try:
        content = json.loads((masks / f"{name}{_RECORD}").read_text(encoding="utf-8"))
        content["objects"] = [ObjectRecord(**one) for one in content["objects"]]
        for key in ("objects", "files", "window", "notes"):
            content[key] = tuple(content[key])
        record = CaseRecord(**content)
        is_whole = all((masks / file).stat().st_size for file in record.files)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None  # of another version, or edited by hand: the case is done again
    return record if is_whole and record.files else None


@contextmanager
def working_in(folder: Path) -> Iterator[None]:
    """Make a folder the place of a batch, and keep other runs out of it meanwhile.

    The lock is the system's, so that a process that is killed leaves none behind.

    Raises:
        InputError: It cannot be made or written to, holds something else, or another run works in it.
    """
    import fcntl

    with _opened_lock(folder) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"{folder}: another run is at work in this folder") from None
        for left in (*folder.glob(f"{_LEFTOVERS}.*"), *masks_folder(folder).glob(_LEFTOVERS)):
            left.unlink(missing_ok=True)
        yield


def _opened_lock(folder: Path) -> TextIO:
    lock = folder / LOCK
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not lock.exists() and any(folder.iterdir()):
            raise InputError(f"{folder}: holds files and no batch; give a new folder for the results")
        masks_folder(folder).mkdir(exist_ok=True)
        return lock.open("a", encoding="utf-8")
    except (NotADirectoryError, FileExistsError):
        raise InputError(f"{folder}: is a file; give a folder for the results") from None
    except OSError as error:
        raise InputError(f"{folder}: cannot be written to: {error.strerror or error}") from error


def _flush(path: Path) -> None:
    with path.open("rb") as file, suppress(OSError):  # some network file systems refuse
        os.fsync(file.fileno())
