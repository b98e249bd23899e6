"""Write masks that refer to a DICOM series: a stranger's files, and so for the process that reads them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path

import numpy as np

from medsam2.imaging.dicom import series_files
from medsam2.imaging.volume import Volume

_LABELS, _ORDER = "labels.npy", "order.json"


@dataclass(frozen=True, kw_only=True)
class Referring:
    """What to write, beside the labels."""

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


def leave_order(folder: Path, labels: Volume, order: Referring) -> None:
    """Put into a folder what `write_for_series` takes from there."""
    np.save(folder / _LABELS, labels.array, allow_pickle=False)
    text = json.dumps({**asdict(order), "affine": labels.affine.tolist()})
    (folder / _ORDER).write_text(text, encoding="utf-8")


def write_for_series(source: Path) -> dict[str, object]:
    """Write the labels that lie beside a source, as the order there says.

    Args:
        source: A DICOM file, a folder of them or a .zip; the series that `imaging.io.read` reads is meant.

    Returns:
        Nothing to tell.

    Raises:
        InputError: The source is no such series, or the labels cannot be written so.
    """
    # Not before it is asked for: every reader would start later by what this brings along.
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
