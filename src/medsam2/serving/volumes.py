"""Have an image of a request read in another process, counted against the memory for requests."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from medsam2.imaging.volume import Volume
from medsam2.serving.admission import Reservation
from medsam2.serving.faults import Fault
from medsam2.serving.folder import size_of
from medsam2.serving.service import Service
from medsam2.serving.settings import MIB

_MEASURED = (".nii.gz", ".nii", ".zip")
_LABEL_COPIES = 2  # bytes per voxel while masks become labels


async def read_volume(
    path: Path, service: Service, reservation: Reservation, frame: int | None = None
) -> Volume:
    """Read an image; its voxels are pages of a file that has no name any more.

    Args:
        path: In a folder of ours; a link, it may be. A folder holds a series.
        service: Lends the process.
        reservation: Grows by the image and by the labels that will lie on it, before either is there. NIfTI
            files and archives say what they take; of others it is their size, until they are read.
        frame: Which volume of a 4D file, from 0.

    Raises:
        Fault: 413, too large; 422, it cannot be read; 503, no memory; 504, too slow.
    """
    async with service.readers.lend() as reader:
        if path.name.endswith(_MEASURED):
            claim = await reader.measure(path)
            num_bytes, num_voxels = claim.num_bytes, claim.num_voxels
        else:
            num_bytes, num_voxels = await service.hands.run(partial(size_of, path)), 0
        _check_size(service, num_bytes)
        counted = num_bytes + _LABEL_COPIES * num_voxels
        reservation.grow(counted)
        volume = await reader.read(path, frame)
    array = volume.array
    _check_size(service, array.nbytes)
    reservation.shrink(counted)
    reservation.grow(array.nbytes + _LABEL_COPIES * array.size)
    return volume


def _check_size(service: Service, num_bytes: int) -> None:
    limit = service.settings.max_volume
    if num_bytes > limit * MIB:
        raise Fault(
            413, f"the file holds {num_bytes} bytes once it is unpacked; at most {limit} MiB are taken"
        )
