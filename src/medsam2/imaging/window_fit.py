"""Tell whether a scan's numbers can be the Hounsfield units that a window speaks of."""

import numpy as np

_HIGHEST_MINIMUM_HU = -500.0  # some gas or air is in every CT
_MOST_WHITE = 0.5
_MOST_WHITE_POSITIVE = 0.1  # where no number is below 0, as in a scan that is stored 1024 higher
_MOST_BLACK = 0.99
_NARROWEST = 0.02  # of the window: numbers between 0 and 1 say


def hounsfield_misfit(sample: np.ndarray, lower: float, upper: float, modality: str | None) -> str | None:
    """Say why numbers are no Hounsfield units, if a window in these shows too little of them.

    Args:
        sample: Intensities, one-dimensional.
        lower: Of the window.
        upper: Of the window.
        modality: As the file says.

    Returns:
        A clause for a sentence, or None if they may well be.
    """
    if modality not in (None, "CT"):
        return f"the file says {modality}"
    if sample.dtype.itemsize == 1:
        return "they have 8 bits"
    if not sample.size:
        return None
    lowest, highest = float(sample.min()), float(sample.max())
    white = float(np.mean(sample > upper))
    allowed = _MOST_WHITE_POSITIVE if lowest >= 0 else _MOST_WHITE
    if lowest > _HIGHEST_MINIMUM_HU and white > allowed:
        return f"none is below {lowest:g}, where air has -1000, and {white:.0%} are above the window"
    black = float(np.mean(sample < lower))
    if black > _MOST_BLACK:
        return f"{black:.0%} are below the window"
    if highest - lowest < _NARROWEST * (upper - lower):
        return f"they lie between {lowest:g} and {highest:g}"
    return None
