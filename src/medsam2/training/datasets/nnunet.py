"""Read nnU-Net folders, version 1 or 2: imagesTr, labelsTr, a number of four digits for each channel."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from medsam2.errors import InputError
from medsam2.training.datasets.listing import Table, channel_names, choose_channel, label_table, read_table
from medsam2.training.datasets.scan import (
    TEST,
    DataSet,
    LabelledScan,
    ReadOptions,
    files_by_stem,
    modality_of,
    patient_of,
    stem_of,
)

TABLE = "dataset.json"
_CHANNEL = re.compile(r"(?P<case>.+)_(?P<number>\d{4})")
_PARTS = (("imagesTr", "labelsTr", None), ("imagesTs", "labelsTs", TEST))

Channels = Mapping[str, Mapping[int, Path]]


def recognises(path: Path) -> bool:
    """Say whether images in imagesTr end in a channel's number, or the table has channels."""
    if not (path / "imagesTr").is_dir() and not (path / TABLE).is_file():
        return False
    has_channels = any(_CHANNEL.fullmatch(stem) for stem in files_by_stem(path / "imagesTr"))
    if not (path / TABLE).is_file():
        return has_channels
    return has_channels or "channel_names" in read_table(path / TABLE)


def read(root: Path, options: ReadOptions) -> DataSet:
    """List the labelled scans of an nnU-Net folder; those of imagesTs count if labelsTs is there.

    Raises:
        InputError: The table is none, or no such channel is there, or several are and none is chosen.
    """
    has_table = (root / TABLE).is_file()
    table = read_table(root / TABLE) if has_table else {}
    labels = label_table(table.get("labels"), root / TABLE)
    parts = [(_by_channel(root / images), root / masks, split) for images, masks, split in _PARTS]
    listed = _listed(table, root)
    names = channel_names(table, root / TABLE)
    found = {number for channels, _, _ in parts for files in channels.values() for number in files}
    names = {number: names.get(number, str(number)) for number in sorted(found | names.keys())}
    channel = choose_channel(options.channel, names, root)
    scans, gaps = [], []

    def add(case: str, images: Mapping[int, Path], mask: Path, split: str | None) -> None:
        if channel not in images:
            gaps.append(f"{mask.name}: the case {case} has no image of channel {channel}")
            return
        image = images[channel]
        scans.append(
            LabelledScan(
                name=case, image=image, mask=mask, labels=labels.names, ignored=labels.ignored,
                regions=labels.regions, split=split,
                patient=patient_of(image, root, options, case), modality=modality_of(names.get(channel)),
            )
        )  # fmt: skip

    for case, (images, mask) in listed.items():
        add(case, images, mask, None)
    for channels, folder, split in parts:
        if listed and split is None:
            continue
        masks = files_by_stem(folder)
        for case, mask in masks.items():
            add(case, channels.get(case, {}), mask, split)
        if split is None:
            gaps += [f"{case}: no mask in {folder.name}" for case in channels if case not in masks]
    return DataSet(layout="nnunet", root=root, scans=tuple(scans), gaps=tuple(gaps))


def _by_channel(folder: Path) -> Channels:
    """Return case -> number -> file of a folder of images; a name without a number is channel 0."""
    found: dict[str, dict[int, Path]] = {}
    for stem, path in files_by_stem(folder).items():
        match = _CHANNEL.fullmatch(stem)
        case, number = (match["case"], int(match["number"])) if match else (stem, 0)
        found.setdefault(case, {})[number] = path
    return found


def _listed(table: Table, root: Path) -> dict[str, tuple[dict[int, Path], Path]]:
    """Return the cases that version 2 lists in its table where images lie elsewhere."""
    listed = table.get("dataset")
    if not isinstance(listed, dict):
        return {}
    cases = {}
    for case, entry in listed.items():
        if not isinstance(entry, dict) or not isinstance(entry.get("images"), list) or "label" not in entry:
            raise InputError(f"{root / TABLE}: the case {case!r} lacks images or label")
        paths = [root / str(image) for image in entry["images"]]
        numbers = [_CHANNEL.fullmatch(stem_of(path)) for path in paths]
        images = {
            int(match["number"]) if match else place: path
            for place, (match, path) in enumerate(zip(numbers, paths, strict=True))
        }
        cases[str(case)] = (images, root / str(entry["label"]))
    return cases
