"""Means of an evaluation, over all cases and over parts of them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medsam2.evaluation.cases import is_by_hand
from medsam2.evaluation.runner import CaseResult

SCANS = "scans"
PICTURES = "pictures"
SHORT_OBJECT = 7  # slices; up to here all policies look back at the same memories

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


@dataclass(frozen=True, kw_only=True)
class Means:
    """Means over runs; those that failed are counted and left out, None stands for a mean of nothing."""

    num_runs: int
    num_failed: int
    num_missed: int
    """Runs that found nothing at all: in each mean but HD95 and ASSD, where they would be infinite."""
    dice: float | None
    surface_dice: float | None
    hd95_mm: float | None
    hd95_px: float | None
    key_slice_dice: float | None
    over_slices: float | None
    under_slices: float | None
    seconds: float | None
    strict_surface_dice: float | None
    assd_mm: float | None
    assd_px: float | None
    volume_error_percent: float | None
    """With its sign: what the masks are too large on average."""
    over_above_mm: float | None
    over_below_mm: float | None
    peak_mib: float | None
    dice_auc: float | None
    surface_dice_auc: float | None


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Means of an evaluation, over 3D scans and over 2D pictures apart."""

    volumes: Means
    stills: Means
    by_modality: dict[str, Means]
    """Modality -> means over all its cases, in the order in which they came."""


_COUNTS = ("num_runs", "num_failed", "num_missed")
_MEASURED = tuple(field.name for field in dataclasses.fields(Means) if field.name not in _COUNTS)


def summarise(results: Sequence[CaseResult]) -> Summary:
    """Return the means over 3D scans, over pictures, and by modality."""
    modalities = dict.fromkeys(result.modality for result in results)
    return Summary(
        volumes=_means([result for result in results if result.dimensions == 3]),
        stills=_means([result for result in results if result.dimensions == 2]),
        by_modality={
            name: _means([result for result in results if result.modality == name]) for name in modalities
        },
    )


def _means(results: Sequence[CaseResult]) -> Means:
    scores = [result.scores for result in results if result.scores is not None]

    def mean(name: str) -> float | None:
        values = [getattr(one, name) for one in scores]
        measured = [value for value in values if value is not None and math.isfinite(value)]
        return float(np.mean(measured)) if measured else None

    return Means(
        num_runs=len(results),
        num_failed=len(results) - len(scores),
        num_missed=sum(math.inf in (one.hd95_mm, one.hd95_px) for one in scores),
        **{name: mean(name) for name in _MEASURED},
    )
