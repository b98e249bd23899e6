"""Write labels as the MedSAM family's challenges want them, an .npz file with `segs` and `spacing`."""

from pathlib import Path

import numpy as np

from medsam2.imaging.replacing import replacing
from medsam2.imaging.volume import Volume


def write_npz(labels: Volume, path: Path) -> None:
    """Write `segs`, (z, y, x) uint8 or uint16, and `spacing`, (x, y, z) in mm; compressed, without pickles.

    The same labels give the same bytes every time.

    Raises:
        InputError: The file cannot be written.
    """
    spacing = np.asarray(labels.spacing, np.float64)
    with replacing(path, ".npz") as temporary, temporary.open("xb") as file:
        np.savez_compressed(file, allow_pickle=False, segs=labels.array, spacing=spacing)
