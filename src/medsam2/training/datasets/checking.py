"""Look at one labelled scan and say what is wrong with it; nothing found stops the rest."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np

from medsam2.errors import GeometryError, InputError
from medsam2.imaging.formats.voxels import release
from medsam2.imaging.geometry import orientation_code, slices_along
from medsam2.imaging.intensity import PERCENTILES
from medsam2.imaging.volume import Volume, match_order
from medsam2.measure.sizes import volume_ml
from medsam2.training.datasets.contents import read_image, read_mask, whole_numbers
from medsam2.training.datasets.listing import layers_of
from medsam2.training.datasets.objects import slice_axis
from medsam2.training.datasets.scan import LabelledScan

ERROR, WARNING = "error", "warning"
SHOWN_PERCENTILES = (0.0, PERCENTILES[0], 50.0, PERCENTILES[1], 100.0)
_SAMPLE_PER_SCAN = 400_000
_DIGEST_BYTES = 16
# Hounsfield units: air, at -1000, is in or around every patient.
_HIGHEST_AIR = -500.0
_NORMALISED = 20.0  # nobody's tissue spans less than this many units


@dataclass(frozen=True, kw_only=True)
class CheckLimits:
    """From where on something is worth a warning."""

    smallest_area: int = 12
    """Pixels that an object needs in its largest slice; `DataConfig.min_area` draws no smaller ones."""
    largest_anisotropy: float = 4.0
    """Largest spacing over the smallest."""
    plane: str | None = None
    """Plane of the slices, "axial" say; the file's third axis if not given."""

    def __post_init__(self) -> None:
        """Check that the limits are limits."""
        if self.smallest_area < 1 or not self.largest_anisotropy >= 1:
            raise InputError(
                f"limits are an area of at least 1 and an anisotropy of at least 1, not "
                f"{self.smallest_area} and {self.largest_anisotropy:g}"
            )


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that is wrong, or odd."""

    severity: str
    """`ERROR` or `WARNING`."""
    code: str
    """Its kind, for machines: "grid-size", "mask-empty" ..."""
    case: str | None
    """Name of the scan; None for the data set as a whole."""
    text: str
    """One sentence for people."""


@dataclass(frozen=True, kw_only=True)
class LabelFacts:
    """One label in one mask."""

    value: int
    voxels: int
    volume_ml: float
    num_slices: int
    key_slice: int
    """The slice where it is largest."""
    key_area: int
    """Pixels there."""


@dataclass(frozen=True, kw_only=True)
class CaseReport:
    """What one scan is, as far as it could be read."""

    name: str
    patient: str
    split: str | None
    findings: tuple[Finding, ...]
    shape: tuple[int, int, int] | None = None
    """(z, y, x) of the image."""
    spacing_mm: tuple[float, float, float] | None = None
    """(x, y, z)."""
    orientation: str | None = None
    dtype: str | None = None
    modality: str | None = None
    percentiles: tuple[float, ...] | None = None
    """Intensities at `SHOWN_PERCENTILES`."""
    labels: tuple[LabelFacts, ...] = ()
    image_digest: str | None = None
    """Of the voxels, whatever the file's format and compression."""
    mask_digest: str | None = None
    is_paired: bool = False
    """Whether the mask lies on the image's grid."""


def check_scans(
    scans: Sequence[LabelledScan], limits: CheckLimits | None = None, workers: int = 1
) -> Iterator[CaseReport]:
    """Check scans one by one, in their order.

    Args:
        scans: Of a data set.
        limits: From where on to warn.
        workers: Processes that read; 1 reads here.
    """
    check = partial(check_scan, limits=CheckLimits() if limits is None else limits)
    if workers <= 1:
        yield from map(check, scans)
        return
    with ProcessPoolExecutor(workers) as pool:
        yield from pool.map(check, scans)


def check_scan(scan: LabelledScan, limits: CheckLimits) -> CaseReport:
    """Read a scan and its mask and compare them; what cannot be read is a finding like any other."""
    notes = _Notes(scan.name)
    image = _opened(partial(read_image, scan), notes, "image-unreadable")
    mask = _opened(partial(read_mask, scan), notes, "mask-unreadable")
    if scan.mask.name.lower().endswith((".jpg", ".jpeg")):
        notes.warn("mask-lossy", "the mask is a JPEG, whose compression changes labels; PNG keeps them")
    if image is None:
        return CaseReport(name=scan.name, patient=scan.patient, split=scan.split, findings=tuple(notes.found))
    values = _check_image(image, scan, notes, limits)
    labels: tuple[LabelFacts, ...] = ()
    is_paired, mask_digest = False, None
    if mask is not None:
        is_paired = _check_grid(image, mask, notes)
        mask_digest = _digest(mask.array)
        labels = _check_mask(mask, scan, notes, limits)
    return CaseReport(
        name=scan.name,
        patient=scan.patient,
        split=scan.split,
        findings=tuple(notes.found),
        shape=image.shape,
        spacing_mm=image.spacing,
        orientation=orientation_code(image.affine),
        dtype=str(image.array.dtype),
        modality=image.modality,
        percentiles=values,
        labels=labels,
        image_digest=_digest(image.array),
        mask_digest=mask_digest,
        is_paired=is_paired,
    )


class _Notes:
    """Findings of one case while it is looked at."""

    def __init__(self, case: str) -> None:
        self.case = case
        self.found: list[Finding] = []

    def fault(self, code: str, text: str) -> None:
        self.found.append(Finding(severity=ERROR, code=code, case=self.case, text=text))

    def warn(self, code: str, text: str) -> None:
        self.found.append(Finding(severity=WARNING, code=code, case=self.case, text=text))


def _opened(read: Callable[[], Volume], notes: _Notes, code: str) -> Volume | None:
    try:
        return read()
    except (InputError, OSError) as error:
        notes.fault(code, str(error))
        return None


def _check_grid(image: Volume, mask: Volume, notes: _Notes) -> bool:
    try:
        ordered = match_order(mask, image)
    except GeometryError as error:
        code = "grid-place" if image.shape == mask.shape else "grid-size"
        notes.fault(code, f"mask and image are on different grids: {error}")
        return False
    is_same_order = ordered.shape == mask.shape and np.allclose(image.affine, mask.affine, atol=1e-2)
    if not is_same_order:
        notes.warn(
            "grid-order",
            f"the mask's voxels run {orientation_code(mask.affine)}, the image's "
            f"{orientation_code(image.affine)}; they fit once turned",
        )
    return True


def _check_image(
    image: Volume, scan: LabelledScan, notes: _Notes, limits: CheckLimits
) -> tuple[float, ...] | None:
    """Check intensities and spacing; return the intensities at `SHOWN_PERCENTILES`."""
    shortest, longest = min(image.spacing), max(image.spacing)
    if longest > limits.largest_anisotropy * shortest:
        spacing = " x ".join(f"{step:.3g}" for step in image.spacing)
        notes.warn(
            "anisotropy", f"voxels are {spacing} mm; slices far apart have little to do with each other"
        )
    num_bad, lowest, highest = _extremes(image.array)
    if num_bad:
        notes.fault("image-not-finite", f"{num_bad} of {image.array.size} voxels are NaN or infinite")
    if num_bad == image.array.size:
        return None
    if lowest == highest:
        notes.fault("image-constant", f"every voxel of the image is {lowest:g}")
        return (lowest,) * len(SHOWN_PERCENTILES)
    if scan.storage == "volume" and image.shape[0] > 1 and image.array.dtype == np.uint8:
        notes.warn("image-uint8", "the image is stored in 8 bits: somebody's window is burnt in")
    elif image.modality == "CT" and scan.storage == "volume":
        _check_hounsfield(lowest, highest, notes)
    sample = _sample(image.array)
    inner = np.percentile(sample, SHOWN_PERCENTILES[1:-1])
    return (lowest, *(float(value) for value in inner), highest)


def _check_hounsfield(lowest: float, highest: float, notes: _Notes) -> None:
    if highest - lowest < _NORMALISED:
        notes.fault(
            "ct-not-hu", f"a CT with values from {lowest:g} to {highest:g} is not in Hounsfield units"
        )
    elif lowest >= 0 and highest > 255:
        notes.fault(
            "ct-not-hu",
            f"a CT with values from {lowest:g} to {highest:g} is not in Hounsfield units; "
            "the rescale intercept, -1024 in most scanners, is missing",
        )
    elif lowest > _HIGHEST_AIR:
        notes.warn("ct-clipped", f"the lowest value of a CT is {lowest:g}: it was clipped, or shows no air")


def _check_mask(
    mask: Volume, scan: LabelledScan, notes: _Notes, limits: CheckLimits
) -> tuple[LabelFacts, ...]:
    try:
        values = whole_numbers(mask.array)
    except InputError as error:
        notes.fault("mask-values", str(error))
        return ()
    if mask.array.dtype.kind == "f":
        notes.warn(
            "mask-float", f"the mask is stored as {mask.array.dtype}, though its labels are whole numbers"
        )
    axis = slice_axis(mask, limits.plane, scan.row)
    found = _measure(mask, values, axis)
    named = {value: {value} for value in scan.labels} | dict(scan.regions)
    known = scan.ignored.union(*named.values())
    unknown = [facts.value for facts in found if scan.labels and facts.value not in known]
    if scan.regions:
        found = tuple(
            facts for layer in layers_of(values, scan.regions) for facts in _measure(mask, layer, axis)
        )
    labels = tuple(
        sorted((facts for facts in found if facts.value not in scan.ignored), key=lambda facts: facts.value)
    )
    if not labels:
        notes.fault("mask-empty", "the mask is empty")
    if unknown:
        table = ", ".join(
            f"{'+'.join(map(str, sorted(named[value])))} ({name})" for value, name in scan.labels.items()
        )
        notes.fault(
            "label-unknown", f"the mask has {', '.join(map(str, unknown))}, the table of labels {table}"
        )
    for facts in labels:
        if facts.key_area < limits.smallest_area:
            name = scan.labels.get(facts.value, str(facts.value))
            notes.warn(
                "object-tiny",
                f"{name} has {facts.key_area} pixels in its largest slice, {facts.key_slice}; "
                f"training draws none below {limits.smallest_area}",
            )
    return labels


def _measure(mask: Volume, values: np.ndarray, axis: int) -> tuple[LabelFacts, ...]:
    """Count the voxels of each label slice by slice."""
    slices = slices_along(values, axis)
    length = int(values.max()) + 1
    totals = np.zeros(length, np.int64)
    num_slices, key_slice, key_area = (np.zeros(length, np.int64) for _ in range(3))
    for z, plane in enumerate(slices):
        areas = np.bincount(plane.ravel(), minlength=length)
        totals += areas
        num_slices += areas > 0
        key_slice[areas > key_area] = z
        key_area = np.maximum(key_area, areas)
    return tuple(
        LabelFacts(
            value=int(value),
            voxels=int(totals[value]),
            volume_ml=volume_ml(int(totals[value]), mask.affine),
            num_slices=int(num_slices[value]),
            key_slice=int(key_slice[value]),
            key_area=int(key_area[value]),
        )
        for value in np.flatnonzero(totals)
        if value != 0
    )


def _extremes(array: np.ndarray) -> tuple[int, float, float]:
    """Return how many voxels are not finite, and the extremes of the others."""
    num_bad, lowest, highest = 0, math.inf, -math.inf
    for plane in array:
        finite = plane[np.isfinite(plane)] if plane.dtype.kind == "f" else plane
        num_bad += plane.size - finite.size
        if finite.size:
            lowest, highest = min(lowest, float(finite.min())), max(highest, float(finite.max()))
        release(plane)
    return num_bad, lowest, highest


def _sample(array: np.ndarray) -> np.ndarray:
    """Finite voxels, the same ones every time, evenly from all slices."""
    rng = np.random.default_rng(0)
    per_slice = max(1, _SAMPLE_PER_SCAN // len(array))
    parts = []
    for plane in array:
        flat = plane.ravel()
        parts.append(flat if flat.size <= per_slice else flat[rng.integers(0, flat.size, per_slice)])
        release(plane)
    sample = np.concatenate(parts).astype(np.float64)
    return sample[np.isfinite(sample)]


def _digest(array: np.ndarray) -> str:
    digest = hashlib.blake2b(repr(array.shape).encode(), digest_size=_DIGEST_BYTES)
    for plane in array:
        digest.update(np.ascontiguousarray(plane, np.float32).tobytes())
        release(plane)
    return digest.hexdigest()
