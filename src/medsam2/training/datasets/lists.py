"""Data sets that a JSON file describes: nnU-Net folders, decathlon folders and MONAI data lists."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from medsam2.errors import InputError
from medsam2.prompts.tables import read_text
from medsam2.training.datasets.scan import (
    TEST,
    TRAIN,
    VALIDATION,
    DataSet,
    LabelledScan,
    ReadOptions,
    files_by_stem,
    label_table,
    modality_of,
    patient_of,
    split_of,
    stem_of,
)

LARGEST_LIST_BYTES = 64 * 2**20
"""A larger JSON file or table is taken for something else and is not read."""
TABLE = "dataset.json"
_CHANNEL = re.compile(r"(?P<case>.+)_(?P<number>\d{4})")
_PARTS = (("imagesTr", "labelsTr", None), ("imagesTs", "labelsTs", TEST))
_LISTS = ("training", "validation", "testing", "test")

Table = dict[str, object]


def _read_table(path: Path) -> Table:
    """Read a JSON file that holds one object."""
    text = read_text(path, most_bytes=LARGEST_LIST_BYTES, limit="lists of scans have")
    try:
        table = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON: {error}") from error
    if not isinstance(table, dict):
        raise InputError(f"{path}: describes a data set by a JSON object, not by a {type(table).__name__}")
    return table


def _channel_names(table: Table, path: Path) -> dict[int, str]:
    """Return number -> name of a data set's channels, from `channel_names` or `modality`."""
    named = table.get("channel_names", table.get("modality"))
    if named is None:
        return {}
    if isinstance(named, str):
        return {0: named}
    if isinstance(named, list):
        return {number: str(name) for number, name in enumerate(named)}
    if isinstance(named, dict) and all(str(number).isdecimal() for number in named):
        return {int(number): str(name) for number, name in named.items()}
    raise InputError(f'{path}: channels are listed as {{"0": "CT", ...}}, not as {named!r}')


def _choose_channel(wanted: str | None, names: Mapping[int, str], path: Path | str) -> int:
    """Return the number of the channel that a person named by number or name, or of the only one."""
    listed = ", ".join(f"{number} ({name})" for number, name in sorted(names.items()))
    if wanted is None:
        if len(names) > 1:
            raise InputError(f"{path}: scans have {len(names)} channels, {listed}; choose one by --channel")
        return next(iter(names), 0)
    for number, name in names.items():
        if wanted == str(number) or wanted.strip().lower() == name.strip().lower():
            return number
    raise InputError(f"{path}: no channel is called {wanted!r}; there are {listed or 'none that have names'}")


def _scan_with_labels(table: Table, path: Path) -> partial[LabelledScan]:
    """Return what makes a scan of a list, with the list's label table filled in."""
    labels = label_table(table.get("labels"), path)
    return partial(LabelledScan, labels=labels.names, ignored=labels.ignored, regions=labels.regions)


def is_decathlon(path: Path) -> bool:
    """Tell whether this is a folder whose dataset.json has modalities and lists pairs."""
    if not (path / TABLE).is_file():
        return False
    table = _read_table(path / TABLE)
    return isinstance(table.get("training"), list) and "modality" in table


def read_decathlon(root: Path, options: ReadOptions) -> DataSet:
    """List the scans under "training"; those under "test" have no masks. Channels are 4D frames."""
    table = _read_table(root / TABLE)
    pairs = table.get("training")
    if not isinstance(pairs, list):
        raise InputError(f'{root / TABLE}: has no list "training" of pairs')
    make_scan = _scan_with_labels(table, root / TABLE)
    names = _channel_names(table, root / TABLE)
    channel = _choose_channel(options.channel, names, root)
    scans, gaps = [], []
    for number, pair in enumerate(pairs):
        if not isinstance(pair, dict) or not all(isinstance(pair.get(k), str) for k in ("image", "label")):
            raise InputError(f"{root / TABLE}: training[{number}] lacks image or label")
        image, mask = root / pair["image"], root / pair["label"]
        missing = [path for path in (image, mask) if not path.exists()]
        if missing:
            gaps.append(f"{missing[0].relative_to(root)}: is listed but not there")
            continue
        stem = stem_of(image)
        scan = make_scan(name=stem, image=image, mask=mask, patient=patient_of(image, root, options, stem),
                         modality=modality_of(names.get(channel)),
                         channel=channel if len(names) > 1 else None)  # fmt: skip
        scans.append(scan)
    return DataSet(layout="msd", root=root, scans=tuple(scans), gaps=tuple(gaps))


def is_nnunet(path: Path) -> bool:
    """Tell whether images in imagesTr end in a channel's number, or dataset.json names channels."""
    has_table = (path / TABLE).is_file()
    if any(_CHANNEL.fullmatch(stem) for stem in files_by_stem(path / "imagesTr")):
        return True
    return has_table and "channel_names" in _read_table(path / TABLE)


def read_nnunet(root: Path, options: ReadOptions) -> DataSet:
    """List the labelled scans of an nnU-Net folder, version 1 or 2; imagesTs counts if labelsTs is there."""
    table = _read_table(root / TABLE) if (root / TABLE).is_file() else {}
    make_scan = _scan_with_labels(table, root / TABLE)
    listed = _listed_cases(table, root)
    parts = [(_by_channel(root / images), root / masks, split) for images, masks, split in _PARTS]
    names = _channel_names(table, root / TABLE)
    found = {number for channels, _, _ in parts for files in channels.values() for number in files}
    names = {number: names.get(number, str(number)) for number in sorted(found | names.keys())}
    channel = _choose_channel(options.channel, names, root)
    cases: list[tuple[str, Mapping[int, Path], Path, str | None]] = []
    gaps: list[str] = []
    scans = []
    cases += [(case, images, mask, None) for case, (images, mask) in listed.items()]
    without_mask = []
    for channels, folder, split in parts:
        if listed and split is None:
            continue
        masks = files_by_stem(folder)
        cases += [(case, channels.get(case, {}), mask, split) for case, mask in masks.items()]
        if split is None:
            without_mask = [f"{case}: no mask in {folder.name}" for case in channels if case not in masks]
    for case, images, mask, split in cases:
        if channel not in images:
            gaps.append(f"{mask.name}: the case {case} has no image of channel {channel}")
            continue
        patient = patient_of(images[channel], root, options, case)
        scans.append(make_scan(name=case, image=images[channel], mask=mask, split=split, patient=patient,
                               modality=modality_of(names.get(channel))))  # fmt: skip
    return DataSet(layout="nnunet", root=root, scans=tuple(scans), gaps=(*gaps, *without_mask))


def _by_channel(folder: Path) -> dict[str, dict[int, Path]]:
    """Return case -> channel -> file of a folder of images; a name without a number is channel 0."""
    found: dict[str, dict[int, Path]] = {}
    for stem, path in files_by_stem(folder).items():
        match = _CHANNEL.fullmatch(stem)
        case, number = (match["case"], int(match["number"])) if match else (stem, 0)
        found.setdefault(case, {})[number] = path
    return found


def _listed_cases(table: Table, root: Path) -> dict[str, tuple[dict[int, Path], Path]]:
    """Return the cases that version 2 lists in its table where images lie elsewhere."""
    listed = table.get("dataset")
    if not isinstance(listed, dict):
        return {}
    cases = {}
    for case, entry in listed.items():
        if not isinstance(entry, dict) or not isinstance(entry.get("images"), list) or "label" not in entry:
            raise InputError(f"{root / TABLE}: the case {case!r} lacks images or label")
        images = {}
        for place, path in enumerate(root / str(image) for image in entry["images"]):
            match = _CHANNEL.fullmatch(stem_of(path))
            images[int(match["number"]) if match else place] = path
        cases[str(case)] = (images, root / str(entry["label"]))
    return cases


def is_monai_list(path: Path) -> bool:
    """Tell whether this is a JSON file with such a list, or a folder with exactly one."""
    return _find_list(path) is not None


def read_monai_list(path: Path, options: ReadOptions) -> DataSet:
    """List the entries of "training", "validation" and "testing" that have a label.

    With folds and no list "validation", the fold that `options.fold` names is for validation, the rest for
    training; without that option the list leaves the split open.
    """
    found = _find_list(path)
    if found is None:
        raise InputError(f'{path}: is no JSON file with a list "training", "validation" or "testing"')
    table = _read_table(found)
    base = found.parent if options.base is None else options.base
    make_scan = _scan_with_labels(table, found)
    names = _channel_names(table, found)
    scans, gaps = [], []
    for part in _LISTS:
        entries = table.get(part, [])
        if not isinstance(entries, list):
            raise InputError(f"{found}: {part} is a list of entries, not {entries!r}")
        for number, entry in enumerate(entries):
            where = f"{found}: {part}[{number}]"
            image, channel = _image_of(entry, names, options, where)
            if not isinstance(entry, dict) or not isinstance(entry.get("label"), str):
                if part in ("training", "validation"):
                    gaps.append(f"{part}[{number}] ({image}): has no label")
                continue
            path_of_image = base / image
            stem = stem_of(path_of_image)
            patient = entry.get("patient", entry.get("patient_id", entry.get("subject")))
            if patient is None or options.patient is not None:
                patient = patient_of(path_of_image, base, options, stem)
            scan = make_scan(name=stem, image=path_of_image, mask=base / entry["label"], channel=channel,
                             split=_split_of_entry(part, entry, table, options, where), patient=str(patient),
                             modality=modality_of(names.get(channel or 0)))  # fmt: skip
            scans.append(scan)
    return DataSet(layout="monai", root=base, scans=tuple(scans), gaps=tuple(gaps))


def _find_list(path: Path) -> Path | None:
    files = [path] if path.is_file() else sorted(path.glob("*.json")) if path.is_dir() else []
    lists = [file for file in files if file.suffix.lower() == ".json" and _is_list(file)]
    return lists[0] if len(lists) == 1 else None


def _is_list(path: Path) -> bool:
    try:
        table = _read_table(path)
    except InputError:
        return False
    firsts = [entries[0] for part in _LISTS if isinstance(entries := table.get(part), list) and entries]
    return any(isinstance(first, dict) and "image" in first for first in firsts)


def _image_of(
    entry: object, names: dict[int, str], options: ReadOptions, where: str
) -> tuple[str, int | None]:
    """Return an entry's image and its frame: a list has a file for each channel, a text names a 4D file."""
    image = entry.get("image") if isinstance(entry, dict) else None
    if isinstance(image, list) and image and all(isinstance(one, str) for one in image):
        listed = {number: names.get(number, str(number)) for number in range(len(image))}
        return image[_choose_channel(options.channel, listed, where)], None
    if not isinstance(image, str):
        raise InputError(f"{where}: lacks an image")
    if not names and options.channel is not None:
        if not options.channel.isdecimal():
            raise InputError(f"{where}: the list names no channels; give a number, not {options.channel!r}")
        return image, int(options.channel)
    return image, _choose_channel(options.channel, names, where) if len(names) > 1 else None


def _split_of_entry(part: str, entry: Table, table: Table, options: ReadOptions, where: str) -> str | None:
    if part != "training" or table.get("validation"):
        return split_of(part, where)
    fold = entry.get("fold")
    if fold is None or options.fold is None:
        return None
    return VALIDATION if fold == options.fold else TRAIN
