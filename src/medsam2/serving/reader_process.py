"""The process that reads files which are not trusted: `python -m medsam2.serving.reader_process`."""

from __future__ import annotations

import base64
import errno
import gzip
import json
import os
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, cast

import numpy as np

from medsam2.errors import MedSAM2Error, UnsupportedFormat
from medsam2.imaging.dicom.read import series_files
from medsam2.imaging.formats.archive import is_zip
from medsam2.imaging.formats.nifti import HEADER_SIZES, layout, parse
from medsam2.imaging.formats.voxels import GZIP_MAGIC
from medsam2.imaging.io import read
from medsam2.imaging.volume import Volume
from medsam2.serving.viewers.packed_arrays import unpack

_LABELS, _ORDER = "labels.npy", "order.json"


@dataclass(frozen=True, kw_only=True)
class MaskOrder:
    """How to write a mask that refers to a DICOM series."""

    kind: str
    """One of `imaging.outputs.write.NEEDS_SOURCE`."""
    target: str
    """Name of the file, in the folder of the order."""
    names: Mapping[int, str]
    """Object number to name."""
    weights: str
    """Their name."""
    frame: int | None = None
    """Of the series, where it has several."""


def leave_order(folder: Path, labels: Volume, order: MaskOrder) -> None:
    """Put labels and an order into a folder, for `write_for_series`."""
    np.save(folder / _LABELS, labels.array, allow_pickle=False)
    text = json.dumps({**asdict(order), "affine": labels.affine.tolist()})
    (folder / _ORDER).write_text(text, encoding="utf-8")


def write_for_series(source: Path) -> dict[str, object]:
    """Write the labels that lie beside a source, as the order there says.

    Args:
        source: A DICOM file, a folder of them or a .zip; the series that `imaging.io.read` reads is meant.

    Returns:
        Nothing.

    Raises:
        InputError: The source is no such series, or the labels cannot be written so.
    """
    # Imported here, so that readers start quickly.
    from pydicom import dcmread

    from medsam2.imaging.outputs.write import write_labels

    folder = source.parent
    order = json.loads((folder / _ORDER).read_text(encoding="utf-8"))
    labels = Volume(np.load(folder / _LABELS, allow_pickle=False), np.array(order["affine"], np.float64))
    files = series_files(source, frame=order["frame"])
    write_labels(
        labels,
        folder / order["target"],
        kind=order["kind"],
        names={int(number): name for number, name in order["names"].items()},
        source=[dcmread(BytesIO(one)) if isinstance(one, bytes) else one for one in files],
        weights=order["weights"],
    )
    return {}


VOXELS = "voxels.npy"
_EXIT_MEMORY = 3
_TOO_LARGE = (errno.ENOMEM, errno.EFBIG)
"""What the system says at the limits on memory and on files."""


def measure(path: Path) -> dict[str, object]:
    """Tell what reading a NIfTI file or a .zip would take, from its header or its directory alone.

    Returns:
        `num_voxels`, 0 where it is not known yet, and `num_bytes` of the voxels or of the unpacked files.

    Raises:
        UnsupportedFormat: It is no such file, or a damaged one.
        InputError: It is no volume.
    """
    return _measure_archive(path) if is_zip(path) else _measure_nifti(path)


def _measure_archive(path: Path) -> dict[str, object]:
    try:
        with zipfile.ZipFile(path) as archive:
            return {"num_voxels": 0, "num_bytes": sum(member.file_size for member in archive.infolist())}
    except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        raise UnsupportedFormat(f"{path}: cannot be read as .zip: {error}") from error


def _measure_nifti(path: Path) -> dict[str, object]:
    with path.open("rb") as file:
        is_compressed = file.read(len(GZIP_MAGIC)) == GZIP_MAGIC
        file.seek(0)
        try:
            stream = cast(BinaryIO, gzip.GzipFile(fileobj=file)) if is_compressed else file
            block = stream.read(HEADER_SIZES[-1])
        except (OSError, EOFError, zlib.error) as error:
            raise UnsupportedFormat(f"{path}: its compressed data are damaged: {error}") from error
    stored = layout(parse(block, path), path)
    num_z, num_y, num_x = stored.shape
    # Voxels that the header scales become floats.
    itemsize = stored.dtype.itemsize if (stored.slope, stored.inter) == (1.0, 0.0) else 8
    num_voxels = num_z * num_y * num_x
    return {"num_voxels": num_voxels, "num_bytes": num_voxels * itemsize}


def read_into(path: Path, voxels_path: Path, frame: int | None = None) -> dict[str, object]:
    """Read a volume, or one frame of a file, write its voxels to a file and return the rest of it."""
    volume = read(path, frame=frame)
    np.save(voxels_path, volume.array, allow_pickle=False)
    return _described(volume)


def _described(volume: Volume) -> dict[str, object]:
    header = volume.nifti_header
    return {
        "affine": volume.affine.tolist(),
        "modality": volume.modality,
        "window": volume.window,
        "nifti_header": None if header is None else base64.b64encode(header).decode("ascii"),
        "itk_grid": None if volume.itk_grid is None else asdict(volume.itk_grid),
    }


def _obey(order: dict[str, Any]) -> dict[str, object]:
    """Obey an order of the server; an error of the file is an answer as well."""
    # Messages then hold bare names, and no paths of this machine.
    os.chdir(order["folder"])
    tempfile.tempdir = order["folder"]  # the server removes it with all that lies in it
    path = Path(order["name"])
    try:
        return {"done": _ORDERS[order["do"]](path, order["frame"])}
    except OSError as error:
        if error.errno in _TOO_LARGE:
            raise MemoryError from error
        raise
    except MedSAM2Error as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno in _TOO_LARGE:
            raise MemoryError from error
        # A caller does not learn where temporary files lie.
        text = str(error).removeprefix(f"{path}: ").replace(order["folder"], "temporary files")
        return {"wrong": text}


_ORDERS: Mapping[str, Callable[[Path, int | None], dict[str, object]]] = MappingProxyType(
    {
        "measure": lambda path, _: measure(path),
        "read": lambda path, frame: read_into(path, path.with_name(VOXELS), frame),
        "unpack": lambda path, _: unpack(path, path.with_name(VOXELS)),
        "write": lambda path, _: write_for_series(path),
    }
)


def _limit(memory_bytes: int) -> None:
    """Limit memory, files and core dumps; `memory_bytes` come on top of what the imports took."""
    try:
        import resource
    except ModuleNotFoundError:  # on Windows only the server's own clock limits the time
        return
    taken = _address_space()
    for what, limit in (
        (resource.RLIMIT_AS, taken + memory_bytes),
        (resource.RLIMIT_FSIZE, memory_bytes),
        (resource.RLIMIT_CORE, 0),
    ):
        with suppress(ValueError, OSError):  # macOS refuses some
            resource.setrlimit(what, (limit, limit))


def _address_space() -> int:
    try:
        return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def _limit_time(seconds: float) -> None:
    """Let the next file have so many seconds of the processor, then SIGXCPU ends the process."""
    try:
        import resource
    except ModuleNotFoundError:
        return
    usage = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CPU, (int(usage.ru_utime + usage.ru_stime + seconds) + 1, hard))


def main() -> None:
    """Obey orders until standard input ends."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # so that prints of libraries do not mix with the answers

    def say(answer: dict[str, object]) -> None:
        channel.write(json.dumps(answer) + "\n")
        channel.flush()

    limits = json.loads(sys.stdin.readline())
    _limit(limits["memory_bytes"])
    say({"done": {}})
    for line in sys.stdin:
        _limit_time(limits["seconds"])
        try:
            answer = _obey(json.loads(line))
        except MemoryError:
            # The rest of the memory may be too little for the next file.
            say({"too_large": True})
            sys.exit(_EXIT_MEMORY)
        say(answer)


if __name__ == "__main__":
    main()
