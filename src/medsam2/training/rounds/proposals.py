"""Propose a mask for a scan that waits, and say how sure the network is of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medsam2.errors import InputError
from medsam2.imaging import io
from medsam2.imaging.volume import Volume
from medsam2.inference.predictor import Predictor
from medsam2.inference.prompting import add_prompts, prompts_in_mask, prompts_of
from medsam2.inference.session import Session
from medsam2.prompts.files import read_prompts
from medsam2.prompts.types import Prompt
from medsam2.training.rounds.folder import WaitingScan
from medsam2.training.rounds.places import Place, prompts_at

SAID, ROUGH, USUAL = "prompts", "rough mask", "usual place"


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
    """What the scan's objects look like to the network, of length 1: to tell scans that are alike."""
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
    """Segment a scan from what there is to prompt it with.

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
    add_prompts(session, prompts)
    looks = _looks(session, prompts)
    for _ in session.propagate():
        pass
    confidences = {number: _confidence(session, number) for number in session.objects}
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
        said = read_prompts(scan.prompts, image=scan.image, num_slices=session.shape[0])
        return prompts_of(said, session), SAID
    if scan.rough is not None:
        return prompts_in_mask(scan.rough, session, drawn_as="box"), ROUGH
    if not places:
        raise InputError(
            f"{scan.image}: nothing says where its objects are; give prompts/{scan.name}.json, a rough mask "
            "in labels/original, or a corrected mask of another scan in labels/final"
        )
    return prompts_at(places, session.shape), USUAL


def _looks(session: Session, prompts: Mapping[int, Sequence[Prompt]]) -> npt.NDArray[np.float32]:
    """The mean of the objects' pointers in the slices that are prompted, of length 1."""
    pointers = [
        session.frame(number, said[0].slice_index).pointer.detach().float().cpu().numpy().mean(axis=0)
        for number, said in prompts.items()
    ]
    mean = np.mean([pointer / max(float(np.linalg.norm(pointer)), 1e-6) for pointer in pointers], axis=0)
    looks: npt.NDArray[np.float32] = mean / max(float(np.linalg.norm(mean)), 1e-6)
    return looks


def _confidence(session: Session, number: int) -> float:
    # Where the object has ended, the score says nothing of the mask.
    found = np.asarray(session.mask(number).any(axis=(1, 2)))
    scores = [score for z, score in session.scores(number).items() if found[z]]
    return float(np.mean(scores)) if scores else 0.0
