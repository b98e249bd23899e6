"""List the .npz files of MedSAM and MedSAM2: `imgs`, `gts` and sometimes `spacing` in each."""

from __future__ import annotations

import zipfile
from pathlib import Path

from medsam2.training.datasets.scan import DataSet, LabelledScan, ReadOptions, patient_of

KEYS = ("imgs", "gts")


def recognises(path: Path) -> bool:
    """Say whether this is such a file, or a folder with at least one, however deep."""
    return any(_has_keys(file) for file in _files(path))


def read(path: Path, options: ReadOptions) -> DataSet:
    """List the files that have an image and a mask; each is a scan of its own.

    Raises:
        InputError: The patient cannot be found in a path.
    """
    root = path.parent if path.is_file() else path
    scans, gaps = [], []
    for file in _files(path):
        if not _has_keys(file):
            gaps.append(f"{file.relative_to(root)}: has no {' and '.join(KEYS)}")
            continue
        patient = patient_of(file, root, options, file.stem)
        scans.append(
            LabelledScan(
                name=file.stem, image=file, mask=file, labels={}, patient=patient, storage="npz",
                modality=_modality(file.name),
            )
        )  # fmt: skip
    return DataSet(layout="npz", root=root, scans=tuple(scans), gaps=tuple(gaps))


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path] if path.suffix.lower() == ".npz" else []
    return sorted(file for file in path.rglob("*.npz") if not file.name.startswith("."))


def _has_keys(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return all(f"{key}.npy" in archive.namelist() for key in KEYS)
    except (OSError, zipfile.BadZipFile):
        return False


def _modality(name: str) -> str | None:
    """The names of the published sets begin with the modality: CT_Abd_..., MR_..., US3D_..."""
    word = name.partition("_")[0].upper()
    return {"CT": "CT", "MR": "MR", "MRI": "MR", "US": "US", "US3D": "US"}.get(word)
