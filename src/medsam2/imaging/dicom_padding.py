"""Keep padding, which fills up a picture where nothing was measured, from counting as an intensity."""

from collections.abc import Iterator

import numpy as np


class Padding:
    """Notes where slices are padded while they are read, and fills these places when all are."""

    def __init__(self) -> None:
        """Begin with no slice."""
        self._places: list[np.ndarray | None] = []
        self._claims: list[tuple[int, int]] = []
        self._stored = (np.inf, -np.inf)
        self._lowest = np.inf

    def note(self, pixels: np.ndarray, limits: tuple[int, int] | None) -> np.ndarray | None:
        """Take a slice's stored values, and the lowest and highest of those that are padding.

        Returns:
            Whether each pixel is padding; None if none is.
        """
        is_padding = None
        if limits is not None:
            is_padding = (pixels >= limits[0]) & (pixels <= limits[1])
            if is_padding.any():
                self._claims.append(limits)
            else:
                is_padding = None
        self._places.append(None if is_padding is None else np.packbits(is_padding))
        real = pixels if is_padding is None else pixels[~is_padding]
        if real.size:
            low, high = self._stored
            self._stored = (min(low, int(real.min())), max(high, int(real.max())))
        return is_padding

    def note_intensities(self, intensities: np.ndarray, is_padding: np.ndarray | None) -> None:
        """Take the same slice's intensities."""
        real = intensities if is_padding is None else intensities[~is_padding]
        if real.size:
            self._lowest = min(self._lowest, float(real.min()))

    @property
    def is_there(self) -> bool:
        """Whether any pixel is padding.

        A value that lies among those that were measured is none, whatever the header says: it may be the 0 of
        water.
        """
        low, high = self._stored
        is_outside = all(claim[1] < low or claim[0] > high for claim in self._claims)
        return bool(self._claims) and is_outside and low <= high

    def filled(self, voxels: np.ndarray) -> Iterator[np.ndarray]:
        """Yield the slices with padding at the lowest intensity, at 0 where none is below."""
        value = min(0.0, self._lowest)
        for intensities, places in zip(voxels, self._places, strict=True):
            if places is None:
                yield intensities
                continue
            is_padding = np.unpackbits(places, count=intensities.size).astype(bool)
            filled = intensities.copy()
            filled[is_padding.reshape(intensities.shape)] = value
            yield filled
