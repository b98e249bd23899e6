"""Read MONAI data lists: a JSON file with "training", "validation" and "testing"."""

from __future__ import annotations

from pathlib import Path

from medsam2.errors import InputError
from medsam2.training.datasets.listing import Table, channel_names, choose_channel, label_table, read_table
from medsam2.training.datasets.scan import (
    TRAIN,
    VALIDATION,
    DataSet,
    LabelledScan,
    ReadOptions,
    modality_of,
    patient_of,
    split_of,
    stem_of,
)

_LISTS = ("training", "validation", "testing", "test")


def recognises(path: Path) -> bool:
    """Say whether this is a JSON file with such a list, or a folder with exactly one."""
    return _find(path) is not None


def read(path: Path, options: ReadOptions) -> DataSet:
    """List the entries that have a label.

    With folds and no list "validation", the fold that `options.fold` names is for validation, the rest for
    training; without that option the list leaves the split open.

    Raises:
        InputError: There is no such list, or an entry lacks its image.
    """
    found = _find(path)
    if found is None:
        raise InputError(f'{path}: is no JSON file with a list "training", "validation" or "testing"')
    table = read_table(found)
    base = found.parent if options.base is None else options.base
    labels = label_table(table.get("labels"), found)
    names = channel_names(table, found)
    scans, gaps = [], []
    for part in _LISTS:
        entries = table.get(part, [])
        if not isinstance(entries, list):
            raise InputError(f"{found}: {part} is a list of entries, not {entries!r}")
        for number, entry in enumerate(entries):
            where = f"{found}: {part}[{number}]"
            image, channel = _image(entry, names, options, where)
            if not isinstance(entry, dict) or not isinstance(entry.get("label"), str):
                if part in ("training", "validation"):
                    gaps.append(f"{part}[{number}] ({image}): has no label")
                continue
            path_of_image = base / image
            stem = stem_of(path_of_image)
            patient = entry.get("patient", entry.get("patient_id", entry.get("subject")))
            is_named = patient is not None and options.patient is None
            scans.append(
                LabelledScan(
                    name=stem, image=path_of_image, mask=base / entry["label"], labels=labels.names,
                    ignored=labels.ignored, regions=labels.regions, channel=channel,
                    split=_split(part, entry, table, options, where),
                    patient=str(patient) if is_named else patient_of(path_of_image, base, options, stem),
                    modality=modality_of(names.get(channel or 0)),
                )
            )  # fmt: skip
    return DataSet(layout="monai", root=base, scans=tuple(scans), gaps=tuple(gaps))


def _find(path: Path) -> Path | None:
    files = [path] if path.is_file() else sorted(path.glob("*.json")) if path.is_dir() else []
    lists = [file for file in files if file.suffix.lower() == ".json" and _is_list(file)]
    return lists[0] if len(lists) == 1 else None


def _is_list(path: Path) -> bool:
    try:
        table = read_table(path)
    except InputError:
        return False
    return any(
        isinstance(entries := table.get(part), list) and entries and _has_image(entries[0]) for part in _LISTS
    )


def _has_image(entry: object) -> bool:
    return isinstance(entry, dict) and "image" in entry


def _image(entry: object, names: dict[int, str], options: ReadOptions, where: str) -> tuple[str, int | None]:
    """Return an entry's image and the frame of it: a list has a file for each channel, a text a 4D file."""
    image = entry.get("image") if isinstance(entry, dict) else None
    if isinstance(image, list) and image and all(isinstance(one, str) for one in image):
        listed = {number: names.get(number, str(number)) for number in range(len(image))}
        return image[choose_channel(options.channel, listed, Path(where))], None
    if not isinstance(image, str):
        raise InputError(f"{where}: lacks an image")
    if not names and options.channel is not None:
        if not options.channel.isdecimal():
            raise InputError(f"{where}: the list names no channels; give a number, not {options.channel!r}")
        return image, int(options.channel)
    return image, choose_channel(options.channel, names, Path(where)) if len(names) > 1 else None


def _split(part: str, entry: Table, table: Table, options: ReadOptions, where: str) -> str | None:
    fold = entry.get("fold")
    if part == "training" and fold is not None and not table.get("validation"):
        if options.fold is None:
            return None
        return VALIDATION if fold == options.fold else TRAIN
    if part == "training" and not table.get("validation"):
        return None
    return split_of(part, where)
