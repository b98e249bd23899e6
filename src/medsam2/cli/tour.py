"""The scan of the annotator's tour: generated, so that its answer is known and it belongs to nobody."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np

from medsam2.imaging.intensity import WINDOW_PRESETS
from medsam2.imaging.io import write
from medsam2.imaging.volume import Volume
from medsam2.prompts.simulate import tight_box
from medsam2.synthesis.scan import STRUCTURES, generate_scan

if TYPE_CHECKING:
    from medsam2.serving.pages import Tour

SEED = 7
STRUCTURE = "right kidney"
NAME = "tour.nii.gz"


def make_tour() -> Tour:
    """Generate the scan, and find the slice and the box that the hints speak of."""
    from medsam2.serving.pages import Tour

    scan = generate_scan(SEED)
    truth: np.ndarray = np.equal(scan.labels, STRUCTURES.index(STRUCTURE) + 1)
    key_slice = int(truth.sum(axis=(1, 2)).argmax())
    x_min, y_min, x_max, y_max = (int(end) for end in tight_box(truth[key_slice]).xyxy)
    volume = Volume.from_array(scan.image, scan.spacing_mm, modality="CT")
    return Tour(
        name=NAME,
        structure=STRUCTURE,
        slice_index=key_slice,
        box_xyxy=(x_min, y_min, x_max, y_max),
        window=WINDOW_PRESETS["abdomen"],
        scan=_as_file(volume),
        answer=_as_file(volume.with_array(truth.astype(np.uint8))),
    )


def _as_file(volume: Volume) -> bytes:
    with TemporaryDirectory(prefix="medsam2-") as folder:
        path = Path(folder) / NAME
        write(volume, path)
        return path.read_bytes()
