"""Which image a person should look at next: one that has no approved label yet."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence

from medsam2.serving.faults import Fault, shown
from medsam2.serving.monailabel.formats import FINAL
from medsam2.serving.monailabel.studies import ImageEntry

DESCRIPTIONS: Mapping[str, str] = {
    "first": "The first image without a final label",
    "random": "Any image without a final label; those not offered for long come sooner",
}


def next_image(
    strategy: str, entries: Mapping[str, ImageEntry], *, seed: int | None = None
) -> ImageEntry | None:
    """Choose an image.

    Args:
        strategy: A key of `DESCRIPTIONS`.
        entries: All images.
        seed: Makes chance repeatable.

    Returns:
        None if every image has a final label.

    Raises:
        Fault: 404, there is no such strategy.
    """
    if strategy not in _CHOICES:
        raise Fault(404, f"there is no strategy {shown(strategy)}; {', '.join(_CHOICES)} are")
    left = [entry for entry in entries.values() if FINAL not in entry.labels]
    return _CHOICES[strategy](left, random.Random(seed)) if left else None


def offered(entry: ImageEntry, strategy: str, client: object) -> dict[str, object]:
    """What is to be noted of an image that was offered."""
    return {"strategy": {**_earlier(entry), strategy: {"ts": int(time.time()), "client_id": client}}}


def _first(left: Sequence[ImageEntry], _: random.Random) -> ImageEntry:
    return left[0]


def _any(left: Sequence[ImageEntry], chance: random.Random) -> ImageEntry:
    now = time.time()
    ages = [max(1.0, now - max(_times(entry), default=0.0)) for entry in left]
    return chance.choices(left, ages)[0]


_CHOICES: Mapping[str, Callable[[Sequence[ImageEntry], random.Random], ImageEntry]] = {
    "first": _first,
    "random": _any,
}


def _earlier(entry: ImageEntry) -> dict[str, object]:
    found = entry.info.get("strategy")
    return dict(found) if isinstance(found, dict) else {}


def _times(entry: ImageEntry) -> list[float]:
    offers = [offer for offer in _earlier(entry).values() if isinstance(offer, dict)]
    times = [offer.get("ts") for offer in offers]
    return [float(at) for at in times if isinstance(at, (int, float))]
