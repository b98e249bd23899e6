"""A folder that is annotated in rounds: scans, corrected masks, prompts for those that wait."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from medsam2.errors import InputError
from medsam2.training.datasets import pairs
from medsam2.training.datasets.scan import LabelledScan, ReadOptions, files_by_stem

ROUGH = Path("labels") / "original"
PROPOSED = Path("labels") / "proposed"
PROMPTS = Path("prompts")
ROUNDS = Path("rounds")
RECORD = "round.json"

_PROMPT_SUFFIXES = (".json", ".csv", ".tsv")


@dataclass(frozen=True, kw_only=True)
class WaitingScan:
    """A scan without a corrected mask."""

    name: str
    image: Path
    prompts: Path | None = None
    """A file that says where its objects are, as `medsam2 segment --prompts` takes it."""
    rough: Path | None = None
    """A mask that somebody or something has made; each label's box in its largest slice is the prompt."""


@dataclass(frozen=True, kw_only=True)
class ScanFolder:
    """What is in a folder."""

    root: Path
    corrected: tuple[LabelledScan, ...]
    waiting: tuple[WaitingScan, ...]


def read_folder(root: Path, options: ReadOptions | None = None) -> ScanFolder:
    """List a folder as MONAI Label keeps it: scans in it, corrected masks of the same names in labels/final.

    Prompts lie in prompts/NAME.json, .csv or .tsv, rough masks in labels/original.

    Args:
        root: The folder.
        options: How to tell the patient of a scan, and the modality.

    Raises:
        InputError: There is no such folder, or no scan in it.
    """
    if not root.is_dir():
        raise InputError(f"{root}: no such folder")
    images = files_by_stem(root)
    if not images:
        raise InputError(
            f"{root}: holds no scan; scans lie in the folder itself, masks in {pairs.FINAL_MASKS}"
        )
    corrected = pairs.read_final(root, options or ReadOptions()).scans
    done = {scan.name for scan in corrected}
    said, rough = files_by_stem(root / PROMPTS, _PROMPT_SUFFIXES), files_by_stem(root / ROUGH)
    said = {path.stem: path for path in said.values()}
    return ScanFolder(
        root=root,
        corrected=corrected,
        waiting=tuple(
            WaitingScan(name=name, image=image, prompts=said.get(name), rough=rough.get(name))
            for name, image in images.items()
            if name not in done
        ),
    )


def round_folder(root: Path) -> tuple[int, Path]:
    """Return the number and the folder of the round to do: the first that has no record, from 1."""
    number = 1
    while (root / ROUNDS / f"{number:03d}" / RECORD).exists():
        number += 1
    return number, root / ROUNDS / f"{number:03d}"
