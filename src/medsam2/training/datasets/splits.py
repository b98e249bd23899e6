"""Share scans among training, validation and test so that no patient is in two of them."""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from medsam2.errors import InputError
from medsam2.training.datasets.scan import SPLITS, LabelledScan

DEFAULT_SHARES = (0.8, 0.2, 0.0)
FIXED_PARTS = 8
"""One of so many parts of a table's patients is for validation."""

Splits = Mapping[str, tuple[LabelledScan, ...]]


def patients_in_two_splits(scans: Sequence[LabelledScan]) -> dict[str, tuple[str, ...]]:
    """Return the patients whom the data set itself puts into several splits, and which these are."""
    found: dict[str, set[str]] = defaultdict(set)
    for scan in scans:
        if scan.split is not None:
            found[scan.patient].add(scan.split)
    return {
        patient: tuple(split for split in SPLITS if split in splits)
        for patient, splits in found.items()
        if len(splits) > 1
    }


def split_by_patient(
    scans: Sequence[LabelledScan], shares: tuple[float, float, float] = DEFAULT_SHARES, seed: int = 0
) -> Splits:
    """Divide scans by patient.

    Patients whom the data set puts into a split stay there. If it names any for validation, the others are
    for training; else the others are shared out at random. A share above 0 gets a patient at least.

    Args:
        scans: Of a data set.
        shares: Of the patients: training, validation, test; their sum is 1.
        seed: Of chance; the same patients and seed give the same splits, in whatever order they come.

    Returns:
        Name of the split -> its scans, in the order they came.

    Raises:
        InputError: The shares are impossible, the data set puts a patient into two splits, or there are
            fewer patients than splits.
    """
    if len(shares) != 3 or not all(math.isfinite(share) and share >= 0 for share in shares):
        raise InputError(f"shares are three numbers of at least 0 (train, validation, test), not {shares}")
    if abs(sum(shares) - 1) > 1e-6 or shares[0] == 0:
        raise InputError(
            f"the shares of {', '.join(SPLITS)} are to sum to 1, with some to train, not {shares}"
        )
    fixed = _fixed_splits(scans)
    free = sorted({scan.patient for scan in scans} - fixed.keys())
    if SPLITS[1] in fixed.values():
        drawn = dict.fromkeys(free, SPLITS[0])
    elif free:
        open_shares = shares if SPLITS[2] not in fixed.values() else _without_test(shares)
        drawn = _draw(free, open_shares, seed)
    else:
        drawn = {}
    return _divide(scans, {**fixed, **drawn})


def split_by_fixed_eighth(scans: Sequence[LabelledScan]) -> Splits:
    """Divide scans by patient so that a patient is in the same split whatever else is in the table.

    A patient is for validation if a hash of the name falls into a fixed eighth, else for training. Patients
    whom the data set puts into a split stay there.

    Returns:
        Name of the split -> its scans, in the order they came.

    Raises:
        InputError: The data set puts a patient into two splits, or nobody is left to train or validate on.
    """
    fixed = _fixed_splits(scans)
    of_patient = {
        patient: fixed.get(patient) or SPLITS[1 if is_validation_patient(patient) else 0]
        for patient in (scan.patient for scan in scans)
    }
    for split in SPLITS[:2]:
        if split not in of_patient.values():
            raise InputError(
                f"none of the {len(of_patient)} patients falls to {split} by the fixed eighth for "
                "validation; choose by --shares, for example 0.8 0.2 0"
            )
    return _divide(scans, of_patient)


def is_validation_patient(patient: str) -> bool:
    """Tell whether a patient belongs to the fixed eighth that is kept for validation."""
    digest = hashlib.blake2b(patient.encode(), digest_size=8).hexdigest()
    return int(digest, 16) % FIXED_PARTS == 0


def _fixed_splits(scans: Sequence[LabelledScan]) -> dict[str, str]:
    """Return patient -> split, where the data set names one; one patient may be in one split only."""
    for patient, splits in patients_in_two_splits(scans).items():
        raise InputError(
            f"the data set has the patient {patient!r} in {' and '.join(splits)}; it may be in one"
        )
    return {scan.patient: scan.split for scan in scans if scan.split is not None}


def _divide(scans: Sequence[LabelledScan], of_patient: Mapping[str, str]) -> Splits:
    return {split: tuple(scan for scan in scans if of_patient[scan.patient] == split) for split in SPLITS}


def _without_test(shares: tuple[float, float, float]) -> tuple[float, float, float]:
    train, validation, _ = shares
    return train / (train + validation), validation / (train + validation), 0.0


def _draw(patients: list[str], shares: tuple[float, float, float], seed: int) -> dict[str, str]:
    wanted = sum(share > 0 for share in shares)
    if len(patients) < wanted:
        raise InputError(
            f"{len(patients)} patients cannot be shared among {wanted} splits; a split needs one at least"
        )
    counts = [max(1, round(share * len(patients))) if share > 0 else 0 for share in shares]
    # Rounding and the patient that each gets at least may not add up; the largest makes up for it.
    while sum(counts) != len(patients):
        largest = counts.index(max(counts))
        counts[largest] += 1 if sum(counts) < len(patients) else -1
    order = np.random.default_rng(seed).permutation(len(patients))
    splits = np.repeat(np.array(SPLITS), counts)
    return {patients[place]: str(split) for place, split in zip(order, splits, strict=True)}
