"""Read folders of the Medical Segmentation Decathlon: dataset.json lists pairs, channels are 4D frames."""

from __future__ import annotations

from pathlib import Path

from medsam2.errors import InputError
from medsam2.training.datasets.listing import channel_names, choose_channel, label_table, read_table
from medsam2.training.datasets.scan import (
    DataSet,
    LabelledScan,
    ReadOptions,
    modality_of,
    patient_of,
    stem_of,
)

TABLE = "dataset.json"


def recognises(path: Path) -> bool:
    """Say whether this is a folder whose dataset.json has modalities and lists pairs."""
    if not (path / TABLE).is_file():
        return False
    table = read_table(path / TABLE)
    return isinstance(table.get("training"), list) and "modality" in table


def read(root: Path, options: ReadOptions) -> DataSet:
    """List the scans under "training"; those under "test" have no masks.

    Raises:
        InputError: The table is none, or no such channel is there, or several are and none is chosen.
    """
    table = read_table(root / TABLE)
    pairs = table.get("training")
    if not isinstance(pairs, list):
        raise InputError(f'{root / TABLE}: has no list "training" of pairs')
    labels = label_table(table.get("labels"), root / TABLE)
    names = channel_names(table, root / TABLE)
    channel = choose_channel(options.channel, names, root)
    scans, gaps = [], []
    for number, pair in enumerate(pairs):
        if not isinstance(pair, dict) or not all(isinstance(pair.get(k), str) for k in ("image", "label")):
            raise InputError(f"{root / TABLE}: training[{number}] lacks image or label")
        image, mask = root / pair["image"], root / pair["label"]
        missing = [path for path in (image, mask) if not path.exists()]
        if missing:
            gaps.append(f"{missing[0].relative_to(root)}: is listed but not there")
            continue
        scans.append(
            LabelledScan(
                name=stem_of(image), image=image, mask=mask, labels=labels.names, ignored=labels.ignored,
                regions=labels.regions,
                patient=patient_of(image, root, options, stem_of(image)),
                modality=modality_of(names.get(channel)), channel=channel if len(names) > 1 else None,
            )
        )  # fmt: skip
    return DataSet(layout="msd", root=root, scans=tuple(scans), gaps=tuple(gaps))
