"""A folder that is annotated in rounds, and the masks proposed for scans that wait."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from medsam2.errors import InputError
from medsam2.imaging import io
from medsam2.imaging.geometry import slices_along
from medsam2.imaging.volume import Volume, match_order
from medsam2.inference.predictor import Predictor
from medsam2.inference.prompting import objects_in_mask, objects_of
from medsam2.inference.session import Session
from medsam2.prompts.files import read_prompts
from medsam2.prompts.simulate import tight_box
from medsam2.prompts.types import Box, Prompt
from medsam2.training.datasets.contents import read_image, read_mask, whole_numbers
from medsam2.training.datasets.folders import FINAL_MASKS, read_final_masks
from medsam2.training.datasets.objects import slice_axis
from medsam2.training.datasets.scan import LabelledScan, ReadOptions, files_by_stem

ROUGH_FOLDER = Path("labels") / "original"
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
    """A file of prompts, as `medsam2 segment --prompts` takes it."""
    rough: Path | None = None
    """A rough mask; the prompt is each label's box in its largest slice."""


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
        raise InputError(f"{root}: holds no scan; scans lie in the folder itself, masks in {FINAL_MASKS}")
    corrected = read_final_masks(root, options or ReadOptions()).scans
    done = {scan.name for scan in corrected}
    prompts, rough = files_by_stem(root / PROMPTS, _PROMPT_SUFFIXES), files_by_stem(root / ROUGH_FOLDER)
    prompts = {path.stem: path for path in prompts.values()}
    return ScanFolder(
        root=root,
        corrected=corrected,
        waiting=tuple(
            WaitingScan(name=name, image=image, prompts=prompts.get(name), rough=rough.get(name))
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


Place = tuple[float, float, float, float, float]
"""Slice, and box (x_min, y_min, x_max, y_max), each as a part of the scan's length, 0..1."""


def usual_places(scans: Sequence[LabelledScan], plane: str | None) -> dict[int, Place]:
    """Find each label's usual place: the medians of its largest slice and of its box there.

    Args:
        scans: With corrected masks.
        plane: Of the slices; the file's third axis if not given.

    Raises:
        InputError: A scan cannot be read.
    """
    found: dict[int, list[Place]] = {}
    for scan in scans:
        image = read_image(scan)
        axis = slice_axis(image, plane)
        labels = slices_along(whole_numbers(match_order(read_mask(scan), image)), axis)
        for label in (int(value) for value in np.unique(labels) if value):
            found.setdefault(label, []).append(_place(labels == label))
    return {
        label: tuple(float(part) for part in np.median(places, axis=0))  # type: ignore[misc]
        for label, places in found.items()
    }


def prompts_at(places: Mapping[int, Place], shape: tuple[int, int, int]) -> dict[int, list[Prompt]]:
    """Prompt a scan of `(z, y, x)` slices, rows and columns with boxes where objects usually lie."""
    num_slices, height, width = shape
    prompts = {}
    for label, (part_z, *parts) in places.items():
        x_min, y_min, x_max, y_max = (
            round(part * (size - 1)) for part, size in zip(parts, (width, height) * 2, strict=True)
        )
        box = Box(x_min=x_min, y_min=y_min, x_max=max(x_max, x_min + 1), y_max=max(y_max, y_min + 1))
        prompts[label] = [Prompt(slice_index=round(part_z * (num_slices - 1)), box=box)]
    return prompts


def _place(mask: np.ndarray) -> Place:
    key = int(mask.sum(axis=(1, 2)).argmax())
    num_slices, height, width = (max(1, size - 1) for size in mask.shape)
    x_min, y_min, x_max, y_max = tight_box(mask[key]).xyxy
    return key / num_slices, x_min / width, y_min / height, x_max / width, y_max / height


FROM_PROMPTS, FROM_MASK, USUAL_PLACE = "prompts", "rough mask", "usual place"


@dataclass(frozen=True, kw_only=True, eq=False)
class Proposal:
    """A mask for a person to correct."""

    name: str
    labels: Volume
    """uint8 labels on the scan's grid."""
    confidence: float
    """Mean of the objects', 0..1."""
    confidences: Mapping[int, float]
    """For each object, its predicted overlap with the truth, averaged over the slices in which it was found;
    0 for one that was not found at all."""
    looks: npt.NDArray[np.float32]
    """What the scan's objects look like to the network, of length 1: to find scans that are alike."""
    source: str
    """What the prompt was made of: prompts, a rough mask, or the usual place of the object."""


def propose(
    predictor: Predictor,
    scan: WaitingScan,
    places: Mapping[int, Place],
    *,
    window: str | tuple[float, float] | None = None,
    plane: str | None = None,
) -> Proposal:
    """Segment a scan by its prompts, its rough mask or its objects' usual places.

    Args:
        predictor: With the round's weights.
        scan: What is segmented.
        places: Where objects usually lie, for a scan without prompts and rough mask.
        window: Of the intensities; chosen by the scan if not given.
        plane: Of the slices; the file's third axis if not given.

    Raises:
        InputError: The scan or its prompts cannot be read, or there is nothing to prompt it with.
    """
    session = predictor.session(io.read(scan.image), window=window, plane=plane)
    prompts, source = _prompts(scan, session, places)
    session.add_all(prompts)
    looks = _looks(session, prompts)
    session.finish()
    confidences = {number: _confidence(session, number) for number in session.status.objects}
    return Proposal(
        name=scan.name,
        labels=session.result(),
        confidence=float(np.mean(list(confidences.values()))),
        confidences=confidences,
        looks=looks,
        source=source,
    )


def _prompts(
    scan: WaitingScan, session: Session, places: Mapping[int, Place]
) -> tuple[Mapping[int, Sequence[Prompt]], str]:
    if scan.prompts is not None:
        read = read_prompts(scan.prompts, image=scan.image, num_slices=session.grid.shape[0])
        return objects_of(read, scan.prompts, session.grid).prompts, FROM_PROMPTS
    if scan.rough is not None:
        return objects_in_mask(scan.rough, session.grid, drawn_as="box").prompts, FROM_MASK
    if not places:
        raise InputError(
            f"{scan.image}: nothing says where its objects are; give prompts/{scan.name}.json, a rough mask "
            "in labels/original, or a corrected mask of another scan in labels/final"
        )
    return prompts_at(places, session.grid.shape), USUAL_PLACE


def _looks(session: Session, prompts: Mapping[int, Sequence[Prompt]]) -> npt.NDArray[np.float32]:
    """The mean of the objects' pointers in the slices that are prompted, of length 1."""
    pointers = [
        session.object(number)
        .frame(placed[0].slice_index)
        .pointer.detach()
        .float()
        .cpu()
        .numpy()
        .mean(axis=0)
        for number, placed in prompts.items()
    ]
    mean = np.mean([pointer / max(float(np.linalg.norm(pointer)), 1e-6) for pointer in pointers], axis=0)
    looks: npt.NDArray[np.float32] = mean / max(float(np.linalg.norm(mean)), 1e-6)
    return looks


def _confidence(session: Session, number: int) -> float:
    # Beyond the object's end the score says nothing about the mask.
    found = np.asarray(session.object(number).mask().any(axis=(1, 2)))
    scores = [score for z, score in session.object(number).scores().items() if found[z]]
    return float(np.mean(scores)) if scores else 0.0
