"""Put the reports of single scans together: what the data set holds, and what only shows across scans."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from medsam2.training.datasets.checking import ERROR, SHOWN_PERCENTILES, CaseReport, Finding, error, warning
from medsam2.training.datasets.scan import SPLITS, DataSet
from medsam2.training.datasets.splits import patients_in_two_splits

Range = tuple[float, float, float]
"""Lowest, median, highest."""


@dataclass(frozen=True, kw_only=True)
class LabelSummary:
    """One label in all masks."""

    value: int
    name: str
    num_cases: int
    volume_ml: Range


@dataclass(frozen=True, kw_only=True)
class SetReport:
    """A data set as it was found."""

    layout: str
    root: str
    num_cases: int
    num_patients: int
    splits: dict[str, int]
    """Cases in each split that the data set itself names."""
    modalities: dict[str, int]
    """Cases of each modality; "unknown" where neither file nor list says it."""
    labels: tuple[LabelSummary, ...]
    spacing_mm: tuple[Range, Range, Range] | None
    """Along x, y and z; None if no image could be read."""
    size_voxels: tuple[Range, Range, Range] | None
    intensities: dict[str, Range]
    """Percentile -> range over the cases."""
    findings: tuple[Finding, ...]
    """Findings about the data set, then about the cases in their order."""
    cases: tuple[CaseReport, ...]

    @property
    def num_errors(self) -> int:
        """Findings that make a scan unfit, or the split dishonest."""
        return sum(finding.severity == ERROR for finding in self.findings)

    @property
    def num_warnings(self) -> int:
        """Findings that a person should know of."""
        return len(self.findings) - self.num_errors


def summarise(data: DataSet, cases: Sequence[CaseReport]) -> SetReport:
    """Summarise a data set.

    Args:
        data: As listed.
        cases: The report of each of its scans, in their order.
    """
    names = {value: name for scan in data.scans for value, name in scan.labels.items()}
    used = {facts.value for case in cases for facts in case.labels}
    across = [
        *(error("row", text) for text in data.row_errors.values()),
        *(warning("gap", gap) for gap in data.gaps),
        *(
            error("patient-in-two-splits", f"the patient {patient} is in {' and '.join(splits)}")
            for patient, splits in patients_in_two_splits(data.scans).items()
        ),
        *_duplicates(cases),
        *(
            warning("label-unused", f"the label {value} ({name}) is in the table and in no mask")
            for value, name in sorted(names.items())
            if value not in used
        ),
    ]
    modalities = Counter(case.modality or "unknown" for case in cases if case.shape is not None)
    spacings = [case.spacing_mm for case in cases if case.spacing_mm is not None]
    sizes = [case.shape[::-1] for case in cases if case.shape is not None]
    return SetReport(
        layout=data.layout,
        root=str(data.root),
        num_cases=len(cases),
        num_patients=len({case.patient for case in cases}),
        splits={name: count for name in SPLITS if (count := sum(c.split == name for c in cases))},
        modalities=dict(sorted(modalities.items())),
        labels=_labels(names, cases),
        spacing_mm=_per_axis(spacings),
        size_voxels=_per_axis(sizes),
        intensities=_intensities(cases),
        findings=(*across, *(finding for case in cases for finding in case.findings)),
        cases=tuple(cases),
    )


def _duplicates(cases: Sequence[CaseReport]) -> list[Finding]:
    """Name images that are there twice, by their voxels; of one patient that is only a waste."""
    same: dict[str, list[CaseReport]] = defaultdict(list)
    for case in cases:
        if case.image_digest is not None:
            same[case.image_digest].append(case)
    found = []
    for first, *others in same.values():
        for other in others:
            is_leak = other.patient != first.patient or other.split != first.split
            is_relabelled = other.mask_digest != first.mask_digest
            masks = "with another mask" if is_relabelled else "with the same mask"
            why = ", so a split may have it on both sides" if is_leak else ""
            make = error if is_leak or is_relabelled else warning
            text = f"the image is that of {first.name} once more, {masks}{why}"
            found.append(make("duplicate", text, other.name))
    return found


def _labels(names: Mapping[int, str], cases: Sequence[CaseReport]) -> tuple[LabelSummary, ...]:
    volumes: dict[int, list[float]] = defaultdict(list)
    for case in cases:
        for facts in case.labels:
            volumes[facts.value].append(facts.volume_ml)
    return tuple(
        LabelSummary(
            value=value, name=names.get(value, str(value)), num_cases=len(found), volume_ml=_range(found)
        )
        for value, found in sorted(volumes.items())
    )


def _intensities(cases: Sequence[CaseReport]) -> dict[str, Range]:
    rows = [case.percentiles for case in cases if case.percentiles is not None]
    if not rows:
        return {}
    return {f"{p:g}": _range([row[i] for row in rows]) for i, p in enumerate(SHOWN_PERCENTILES)}


def _per_axis(rows: Sequence[Sequence[float]]) -> tuple[Range, Range, Range] | None:
    if not rows:
        return None
    x, y, z = (_range([row[axis] for row in rows]) for axis in range(3))
    return x, y, z


def _range(values: Sequence[float]) -> Range:
    return float(min(values)), float(median(values)), float(max(values))
