"""Map a scan's intensities to the 8-bit greys that the network reads."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np

from medsam2.errors import InputError
from medsam2.imaging.formats.voxels import release
from medsam2.imaging.volume import Volume

WINDOW_PRESETS: Mapping[str, tuple[float, float]] = MappingProxyType(
    {
        "abdomen": (-160.0, 240.0),
        "bone": (-500.0, 1300.0),
        "brain": (0.0, 80.0),
        "liver": (-45.0, 105.0),
        "lung": (-1350.0, 150.0),
        "mediastinum": (-125.0, 225.0),
        "soft-tissue": (-160.0, 240.0),
    }
)
"""Name -> (lower, upper) in Hounsfield units; the usual width and level of each, e.g. lung 1500 at -600."""

PERCENTILES = (0.5, 99.5)  # MedSAM's preprocessing of everything that is not CT
BACKGROUND_SHARE = 0.1
"""If at least this share of the voxels is exactly 0, zeros are background and left out of the percentiles."""
DISPLAY_PEAK = 192
"""8-bit pictures with a grey of at least this much are taken for greys made for a screen."""

_SAMPLE_SIZE = 1_000_000
# Hounsfield units: tissue and air lie between these two, scanners pad with less, metal and bone exceed them.
_HU_RANGE = (-1100.0, 400.0)
_HU_AIR = (-1100.0, -900.0)
_HU_HIGHEST_MINIMUM = -500.0  # some gas or air is in every CT; few MR or PET images fall so low
# Of voxels outside a window in Hounsfield units; more of them, and the numbers are others.
_MOST_WHITE = 0.5
_MOST_WHITE_POSITIVE = 0.1  # where no number is below 0, as in a scan that is stored 1024 higher
_MOST_BLACK = 0.99
_NARROWEST = 0.02  # of the window: finds numbers between 0 and 1, for example


@dataclass(frozen=True)
class Window:
    """The intensities shown as black and as white, and how they were chosen."""

    lower: float
    """Intensity that becomes 0, and everything below."""
    upper: float
    """Intensity that becomes 255, and everything above."""
    source: str
    """"caller", a preset's name, "file", "display" (8-bit greys as they are), "percentiles" or "range"."""
    note: str | None = None
    """A sentence for the user if the window was chosen automatically or does not fit the scan; else None."""

    def __post_init__(self) -> None:
        """Check that there is an interval.

        Raises:
            InputError: A limit is not finite, or lower is not below upper.
        """
        if not (math.isfinite(self.lower) and math.isfinite(self.upper) and self.lower < self.upper):
            raise InputError(
                f"a window is two finite numbers, lower < upper, these are {self.lower:g} and {self.upper:g}"
            )


def check_intensities(array: np.ndarray) -> None:
    """Refuse an image in which nothing can be seen. Readers do not call this, since a mask may be constant.

    Some programs write NaN outside the head; it is shown black, with a warning.

    Args:
        array: (z, y, x) or (y, x), any real dtype.

    Raises:
        InputError: Voxels are infinite, all are NaN, or all others are equal.
    """
    _check_finite(array)
    num_gaps = _num_nan(array)
    if num_gaps == array.size:
        raise InputError("every voxel of the image is NaN; there is nothing to segment")
    if num_gaps:
        warnings.warn(
            f"{num_gaps} of {array.size} voxels of the image are NaN; they are taken for background",
            stacklevel=2,
        )
    lowest, highest = _extremes(array)
    if lowest == highest:
        raise InputError(f"every voxel of the image is {lowest}; there is nothing to segment")


def resolve_window(volume: Volume, window: str | tuple[float, float] | None = None) -> Window:
    """Return the limits of the window to use.

    If no window is given, the first rule that fits decides:
    - 8-bit data of a single picture, or of modality US or CT, that are bright enough for a screen keep their
      greys: 0..255. Stretching an ultrasound still would undo what the operator set.
    - CT gets the window of its file. The scanner's staff chose it in Hounsfield units for the organ: a lung
      series opens in a lung window.
    - Hounsfield units without a window, declared (modality CT) or recognised, get the soft-tissue window.
    - All other images, MR above all, get the percentiles 0.5 and 99.5; zeros that are background do not
      count. The window of an MR file is not used: its units are arbitrary, scanners guess it for each slice,
      and the networks have learnt from percentiles.

    Args:
        volume: The scan.
        window: None, the name of one of `WINDOW_PRESETS`, or (lower, upper) in the scan's own units.

    Raises:
        InputError: No preset has this name, lower is not below upper, or no window is given and the image
            is constant or not finite.
    """
    if isinstance(window, str):
        return _fitting(_preset(window), volume)
    if window is not None:
        return _given(window)
    lowest, highest = (float(extreme) for extreme in _extremes(volume.array))
    if not (math.isfinite(lowest) and math.isfinite(highest)) or not lowest < highest:
        check_intensities(volume.array)
    is_uint8 = volume.array.dtype == np.uint8
    if is_uint8 and highest >= DISPLAY_PEAK and (volume.modality in ("US", "CT") or volume.shape[0] == 1):
        return Window(0.0, 255.0, "display", "no window given; 8-bit greys used as they are (0..255)")
    sample = _sample(volume.array)
    if volume.modality == "CT" and volume.window is not None:
        lower, upper = volume.window
        return Window(lower, upper, "file", f"no window given; the file's own ({lower:g}..{upper:g}) used")
    if volume.modality == "CT" and not is_uint8:
        return _fitting(_soft_tissue("the file says CT"), volume)
    if volume.modality is None and lowest <= _HU_HIGHEST_MINIMUM and _looks_like_hounsfield(sample):
        return _soft_tissue("data look like Hounsfield units")
    return _percentile_window(sample, lowest, highest)


def to_uint8(array: np.ndarray, window: Window) -> np.ndarray:
    """Clip to a window and scale linearly to 0..255.

    Fractions are cut off, not rounded: `np.uint8` of a float, as in the official preprocessing. The window
    (0, 255) does not change 8-bit data.

    Args:
        array: (..., y, x), any real dtype. One slice at a time is converted to float64.
        window: The limits.

    Returns:
        uint8 of the same shape; NaN is 0.

    Raises:
        InputError: Voxels are infinite.
    """
    greys = np.empty(array.shape, np.uint8)
    width = window.upper - window.lower
    for index in np.ndindex(array.shape[:-2]):
        _check_finite(array[index])
        part = array[index].astype(np.float64)
        part[np.isnan(part)] = window.lower
        np.clip(part, window.lower, window.upper, out=part)
        part -= window.lower
        # The order of the official code: another order changes a few greys by one.
        part /= width
        part *= 255.0
        greys[index] = part
    return greys


def _check_finite(array: np.ndarray) -> None:
    if array.dtype.kind != "f":
        return
    if num_bad := sum(int(np.count_nonzero(np.isinf(part))) for part in _parts(array)):
        raise InputError(
            f"{num_bad} of {array.size} voxels are infinite; an image needs finite intensities, and NaN at "
            "most outside the patient"
        )


def _num_nan(array: np.ndarray) -> int:
    if array.dtype.kind != "f":
        return 0
    return sum(int(np.count_nonzero(np.isnan(part))) for part in _parts(array))


def _extremes(array: np.ndarray) -> tuple[np.generic, np.generic]:
    """Lowest and highest value; NaN if there is nothing else."""
    extremes = np.array([(np.fmin.reduce(part, None), np.fmax.reduce(part, None)) for part in _parts(array)])
    return np.fmin.reduce(extremes[:, 0]), np.fmax.reduce(extremes[:, 1])


def _parts(array: np.ndarray) -> Iterator[np.ndarray]:
    """Yield an array part by part along its first axis, and release the memory of mapped files after each."""
    for part in array:
        yield part
        release(part)


def _preset(name: str) -> Window:
    key = name.strip().lower()
    if key not in WINDOW_PRESETS:
        raise InputError(
            f"no window is called {name!r}; windows are {', '.join(WINDOW_PRESETS)}, or a pair (lower, upper)"
        )
    return Window(*WINDOW_PRESETS[key], source=key)


def _fitting(window: Window, volume: Volume) -> Window:
    """Add a note to a window in Hounsfield units if the scan's numbers do not look like these."""
    why = _misfit(_sample(volume.array), window.lower, window.upper, volume.modality)
    if why is None:
        return window
    note = (
        f"window {window.source} ({window.lower:g}..{window.upper:g}) is in Hounsfield units, and the scan's "
        f"numbers do not look like these: {why}; give two limits in the scan's own numbers"
    )
    return replace(window, note=note if window.note is None else f"{window.note}; {note}")


def _given(window: tuple[float, float]) -> Window:
    try:
        lower, upper = (float(limit) for limit in window)
    except (TypeError, ValueError):
        raise InputError(f"a window is a preset's name or a pair (lower, upper), not {window!r}") from None
    return Window(lower, upper, source="caller")


def _soft_tissue(reason: str) -> Window:
    lower, upper = WINDOW_PRESETS["soft-tissue"]
    note = f"no window given; {reason}; soft-tissue window ({lower:g}..{upper:g}) used"
    return Window(lower, upper, "soft-tissue", note)


def _percentile_window(sample: np.ndarray, lowest: float, highest: float) -> Window:
    low, high = PERCENTILES
    foreground, of_what = sample, "of all voxels"
    if np.count_nonzero(sample) <= (1 - BACKGROUND_SHARE) * sample.size:
        foreground, of_what = sample[sample != 0], "of the voxels that are not 0"
    if foreground.size:
        lower, upper = (float(limit) for limit in np.percentile(foreground, PERCENTILES))
        if lower < upper:
            note = f"no window given; percentiles {low:g} and {high:g} {of_what} ({lower:g}..{upper:g}) used"
            return Window(lower, upper, "percentiles", note)
    # Nearly all voxels are equal, as in a label map or around a tiny object: show the whole range.
    note = f"no window given; percentiles fall together, so the whole range ({lowest:g}..{highest:g}) is used"
    return Window(lowest, highest, "range", note)


def _looks_like_hounsfield(sample: np.ndarray) -> bool:
    """Tell CT from other images with large negative values: MR phase, filtered MR, statistics.

    Most of a CT is air or tissue. A resampled CT has no whole numbers any more, but still the air around the
    patient, near -1000.
    """
    unpadded = sample[sample >= _HU_RANGE[0]]
    is_typical = np.count_nonzero(unpadded <= _HU_RANGE[1]) >= 0.5 * max(1, unpadded.size)
    is_whole = bool(np.all(sample == np.rint(sample)))
    num_air = np.count_nonzero((sample >= _HU_AIR[0]) & (sample <= _HU_AIR[1]))
    return bool(is_typical and (is_whole or num_air >= 0.05 * sample.size))


def _sample(array: np.ndarray) -> np.ndarray:
    """Return all voxels of a small array, or a fixed random million of a large one; NaN is left out."""
    picked = _picked(array)
    return picked[~np.isnan(picked)] if picked.dtype.kind == "f" else picked


def _picked(array: np.ndarray) -> np.ndarray:
    if array.size <= _SAMPLE_SIZE:
        return array.ravel()
    # A regular stride would fall into step with rows and slices.
    picks = np.sort(np.random.default_rng(0).integers(0, array.size, _SAMPLE_SIZE))
    part_size = array.size // len(array)
    ends = np.searchsorted(picks, np.arange(1, len(array) + 1) * part_size)
    by_part = zip(_parts(array), np.split(picks, ends[:-1]), strict=True)
    return np.concatenate(
        [part[np.unravel_index(chosen % part_size, part.shape)] for part, chosen in by_part]
    )


def _misfit(sample: np.ndarray, lower: float, upper: float, modality: str | None) -> str | None:
    """Say in a clause why numbers are no Hounsfield units; None if a window shows enough of them."""
    if modality not in (None, "CT"):
        return f"the file says {modality}"
    if sample.dtype.itemsize == 1:
        return "they have 8 bits"
    if not sample.size:
        return None
    lowest, highest = float(sample.min()), float(sample.max())
    white = float(np.mean(sample > upper))
    allowed = _MOST_WHITE_POSITIVE if lowest >= 0 else _MOST_WHITE
    if lowest > _HU_HIGHEST_MINIMUM and white > allowed:
        return f"none is below {lowest:g}, where air has -1000, and {white:.0%} are above the window"
    black = float(np.mean(sample < lower))
    if black > _MOST_BLACK:
        return f"{black:.0%} are below the window"
    if highest - lowest < _NARROWEST * (upper - lower):
        return f"they lie between {lowest:g} and {highest:g}"
    return None
