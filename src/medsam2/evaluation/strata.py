"""Parts of a list of cases that are looked at apart: by modality, reference, size, thickness and length."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medsam2.evaluation.ablation import SHORT_OBJECT
from medsam2.evaluation.protocol import is_by_hand
from medsam2.evaluation.runner import CaseResult

SCANS = "scans"
PICTURES = "pictures"

# Thin slices for 3D reading, those that CT and isotropic MR are read in, thick MR stacks.
THICKNESS_MM = (1.5, 3.0)


def stratify(results: Sequence[CaseResult]) -> dict[str, list[CaseResult]]:
    """Sort the runs that did not fail into strata; one case is in several of them.

    Scans and pictures are never mixed: distances and tolerances of a picture without a spacing are in pixels.
    Sizes are thirds of this list's scans, since what is small depends on what a list is about.

    Returns:
        Name of a stratum -> its runs, only those that have some. A stratum that holds the same cases as one
        before it is left out.
    """
    scans = [result for result in results if result.scores is not None and result.dimensions == 3]
    pictures = [result for result in results if result.scores is not None and result.dimensions == 2]
    strata = {SCANS: scans, PICTURES: pictures}
    for modality in dict.fromkeys(result.modality for result in results):
        for kind, part in ((SCANS, scans), (PICTURES, pictures)):
            strata[f"{modality} {kind}"] = [result for result in part if result.modality == modality]
    strata |= _by_reference(scans) | _by_size(scans) | _by_thickness(scans) | _by_length(scans)
    kept: dict[str, list[CaseResult]] = {}
    for name, part in strata.items():
        if part and part not in kept.values():
            kept[name] = part
    return kept


def _by_reference(scans: Sequence[CaseResult]) -> dict[str, list[CaseResult]]:
    by_hand = [result for result in scans if is_by_hand(result.reference)]
    others = [result for result in scans if not is_by_hand(result.reference)]
    return {"references by hand": by_hand, "other references": others} if by_hand else {}


def _by_size(scans: Sequence[CaseResult]) -> dict[str, list[CaseResult]]:
    sizes = [_measured(result, "true_volume_ml") for result in scans]
    if len(set(sizes)) < 3:
        return {}
    low, high = (float(edge) for edge in np.quantile(sizes, (1 / 3, 2 / 3)))
    return {
        f"small, below {low:.3g} ml": [r for r, size in zip(scans, sizes, strict=True) if size < low],
        f"medium, {low:.3g} to {high:.3g} ml": [
            r for r, size in zip(scans, sizes, strict=True) if low <= size < high
        ],
        f"large, from {high:.3g} ml": [r for r, size in zip(scans, sizes, strict=True) if size >= high],
    }


def _by_thickness(scans: Sequence[CaseResult]) -> dict[str, list[CaseResult]]:
    thin, thick = THICKNESS_MM
    steps = {id(result): _measured(result, "slice_mm") for result in scans}
    return {
        f"slices up to {thin:g} mm": [r for r in scans if steps[id(r)] <= thin],
        f"slices of {thin:g} to {thick:g} mm": [r for r in scans if thin < steps[id(r)] <= thick],
        f"slices above {thick:g} mm": [r for r in scans if steps[id(r)] > thick],
    }


def _by_length(scans: Sequence[CaseResult]) -> dict[str, list[CaseResult]]:
    lengths = {id(result): _measured(result, "object_slices") for result in scans}
    return {
        f"objects of up to {SHORT_OBJECT} slices": [r for r in scans if lengths[id(r)] <= SHORT_OBJECT],
        f"objects of more than {SHORT_OBJECT} slices": [r for r in scans if lengths[id(r)] > SHORT_OBJECT],
    }


def _measured(result: CaseResult, name: str) -> float:
    value = getattr(result.scores, name)
    return float("nan") if value is None else float(value)
