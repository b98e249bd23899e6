"""Check single scans and their masks; a finding about one scan does not stop the others."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from medsam2.errors import GeometryError, InputError
from medsam2.imaging.formats.voxels import release
from medsam2.imaging.geometry import orientation_code, slices_along
from medsam2.imaging.intensity import PERCENTILES
from medsam2.imaging.volume import Volume, match_order
from medsam2.measure.sizes import volume_ml
from medsam2.training.datasets.contents import read_image, read_mask, whole_numbers
from medsam2.training.datasets.objects import slice_axis
from medsam2.training.datasets.scan import LabelledScan, layers_of
from medsam2.training.stack_files import map_in_processes

ERROR, WARNING = "error", "warning"
SHOWN_PERCENTILES = (0.0, PERCENTILES[0], 50.0, PERCENTILES[1], 100.0)
_SAMPLE_PER_SCAN = 400_000
_DIGEST_BYTES = 16
# Hounsfield units: air, at -1000, is in or around every patient.
_HIGHEST_AIR = -500.0
_NORMALISED = 20.0  # nobody's tissue spans less than this many units


@dataclass(frozen=True, kw_only=True)
class CheckLimits:
    """Limits beyond which there is a warning."""

    smallest_area: int = 12
    """Pixels that an object needs in its largest slice; `DataConfig.min_area` draws no smaller ones."""
    largest_anisotropy: float = 4.0
    """Largest spacing over the smallest."""
    plane: str | None = None
    """Plane of the slices, such as "axial"; the file's third axis if not given."""

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
    """Facts and findings about one scan, as far as it could be read."""

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
    """Digest of the voxels, whatever the file's format and compression."""
    mask_digest: str | None = None
    is_paired: bool = False
    """Whether the mask lies on the image's grid."""


def check_scans(
    scans: Sequence[LabelledScan], limits: CheckLimits | None = None, workers: int = 1
) -> Iterator[CaseReport]:
    """Check scans one by one, in their order.

    Args:
        scans: Of a data set.
        limits: Limits beyond which to warn.
        workers: Processes that read; 1 reads here.
    """
    check = partial(check_scan, limits=CheckLimits() if limits is None else limits)
    return map_in_processes(check, scans, workers)


def check_scan(scan: LabelledScan, limits: CheckLimits) -> CaseReport:
    """Read a scan and its mask and compare them; what cannot be read is a finding like any other."""
    found: list[Finding] = []
    facts: dict[str, Any] = {}
    image, mask = (
        _read(read, scan, f"{what}-unreadable", found)
        for what, read in (("image", read_image), ("mask", read_mask))
    )
    if scan.mask.name.lower().endswith((".jpg", ".jpeg")):
        text = "the mask is a JPEG, whose compression changes labels; PNG keeps them"
        found.append(warning("mask-lossy", text))
    if image is not None:
        facts = {
            "shape": image.shape,
            "spacing_mm": image.spacing,
            "orientation": orientation_code(image.affine),
            "dtype": str(image.array.dtype),
            "modality": image.modality,
            "percentiles": _check_image(image, scan, limits, found),
            "image_digest": _digest(image.array),
        }
    if image is not None and mask is not None:
        facts |= {
            "is_paired": _check_grid(image, mask, found),
            "mask_digest": _digest(mask.array),
            "labels": _check_mask(mask, scan, limits, found),
        }
    named = tuple(dataclasses.replace(finding, case=scan.name) for finding in found)
    return CaseReport(name=scan.name, patient=scan.patient, split=scan.split, findings=named, **facts)


def _read(
    read: Callable[[LabelledScan], Volume], scan: LabelledScan, code: str, found: list[Finding]
) -> Volume | None:
    try:
        return read(scan)
    except (InputError, OSError) as problem:
        found.append(error(code, str(problem)))
        return None


def error(code: str, text: str, case: str | None = None) -> Finding:
    """Return a finding that makes a scan unfit, or a split dishonest."""
    return Finding(severity=ERROR, code=code, case=case, text=text)


def warning(code: str, text: str, case: str | None = None) -> Finding:
    """Return a finding that a person should know of."""
    return Finding(severity=WARNING, code=code, case=case, text=text)


def _check_grid(image: Volume, mask: Volume, found: list[Finding]) -> bool:
    """Check that the mask lies on the image's grid."""
    try:
        ordered = match_order(mask, image)
    except GeometryError as problem:
        code = "grid-place" if image.shape == mask.shape else "grid-size"
        found.append(error(code, f"mask and image are on different grids: {problem}"))
        return False
    if ordered.shape != mask.shape or not np.allclose(image.affine, mask.affine, atol=1e-2):
        orders = [orientation_code(volume.affine) for volume in (mask, image)]
        text = f"the mask's voxels run {orders[0]}, the image's {orders[1]}; they fit once turned"
        found.append(warning("grid-order", text))
    return True


def _check_image(
    image: Volume, scan: LabelledScan, limits: CheckLimits, found: list[Finding]
) -> tuple[float, ...] | None:
    """Check intensities and spacing; return the intensities at `SHOWN_PERCENTILES`."""
    if max(image.spacing) > limits.largest_anisotropy * min(image.spacing):
        spacing = " x ".join(f"{step:.3g}" for step in image.spacing)
        text = f"voxels are {spacing} mm; slices far apart have little to do with each other"
        found.append(warning("anisotropy", text))
    num_bad, lowest, highest = _extremes(image.array)
    if num_bad:
        text = f"{num_bad} of {image.array.size} voxels are NaN or infinite"
        found.append(error("image-not-finite", text))
    if num_bad == image.array.size:
        return None
    if lowest == highest:
        found.append(error("image-constant", f"every voxel of the image is {lowest:g}"))
        return (lowest,) * len(SHOWN_PERCENTILES)
    if scan.storage == "volume" and image.shape[0] > 1 and image.array.dtype == np.uint8:
        text = "the image is stored in 8 bits: somebody's window is burnt in"
        found.append(warning("image-uint8", text))
    elif scan.storage == "volume" and image.modality == "CT":
        found += _check_hounsfield(lowest, highest)
    inner = np.percentile(_sample(image.array), SHOWN_PERCENTILES[1:-1])
    return (lowest, *(float(value) for value in inner), highest)


def _check_hounsfield(lowest: float, highest: float) -> list[Finding]:
    text = f"a CT with values from {lowest:g} to {highest:g} is not in Hounsfield units"
    if highest - lowest < _NORMALISED:
        return [error("ct-not-hu", text)]
    if lowest >= 0 and highest > 255:
        return [error("ct-not-hu", f"{text}; the rescale intercept, -1024 in most scanners, is missing")]
    if lowest > _HIGHEST_AIR:
        text = f"the lowest value of a CT is {lowest:g}: it was clipped, or shows no air"
        return [warning("ct-clipped", text)]
    return []


def _check_mask(
    mask: Volume, scan: LabelledScan, limits: CheckLimits, found: list[Finding]
) -> tuple[LabelFacts, ...]:
    """Check the labels of a mask and measure them."""
    try:
        values = whole_numbers(mask.array)
    except InputError as problem:
        found.append(error("mask-values", str(problem)))
        return ()
    if mask.array.dtype.kind == "f":
        text = f"the mask is stored as {mask.array.dtype}, though its labels are whole numbers"
        found.append(warning("mask-float", text))
    axis = slice_axis(mask, limits.plane, scan.row)
    measured = _measure(mask, values, axis)
    named = {value: {value} for value in scan.labels} | dict(scan.regions)
    known = scan.ignored.union(*named.values())
    unknown = [str(facts.value) for facts in measured if scan.labels and facts.value not in known]
    if scan.regions:
        layers = layers_of(values, scan.regions)
        measured = [facts for layer in layers for facts in _measure(mask, layer, axis)]
    labels = sorted(
        (facts for facts in measured if facts.value not in scan.ignored), key=lambda facts: facts.value
    )
    if not labels:
        found.append(error("mask-empty", "the mask is empty"))
    if unknown:
        table = ", ".join(
            f"{'+'.join(map(str, sorted(named[value])))} ({name})" for value, name in scan.labels.items()
        )
        text = f"the mask has {', '.join(unknown)}, the table of labels {table}"
        found.append(error("label-unknown", text))
    for facts in labels:
        if facts.key_area < limits.smallest_area:
            name = scan.labels.get(facts.value, str(facts.value))
            text = (
                f"{name} has {facts.key_area} pixels in its largest slice, {facts.key_slice}; "
                f"training draws none below {limits.smallest_area}"
            )
            found.append(warning("object-tiny", text))
    return tuple(labels)


def _measure(mask: Volume, values: np.ndarray, axis: int) -> list[LabelFacts]:
    """Count the voxels of each label slice by slice."""
    length = int(values.max()) + 1
    present = np.flatnonzero(np.bincount(values.ravel()))
    present = present[present > 0]
    slices = slices_along(values, axis)
    areas = np.array([np.bincount(plane.ravel(), minlength=length)[present] for plane in slices])
    return [
        LabelFacts(
            value=value,
            voxels=int(area.sum()),
            volume_ml=volume_ml(int(area.sum()), mask.affine),
            num_slices=int(np.count_nonzero(area)),
            key_slice=int(area.argmax()),
            key_area=int(area.max()),
        )
        for value, area in zip(present.tolist(), areas.T, strict=True)
    ]


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
