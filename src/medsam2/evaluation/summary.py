"""Means of an evaluation over scans, over pictures and by modality."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medsam2.evaluation.runner import CaseResult


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
