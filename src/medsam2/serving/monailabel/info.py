"""What a viewer reads first: models, strategies, and how the datastore stands."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version

from medsam2.serving.http_errors import Fault, shown
from medsam2.serving.monailabel.datastore import FINAL, ImageEntry
from medsam2.serving.monailabel.dialect import Dialect
from medsam2.serving.monailabel.infer import MODELS
from medsam2.serving.monailabel.requests import LABEL

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


_NAME = "medsam2"


def describe_server(dialect: Dialect) -> dict[str, object]:
    """Everything that the plug-ins look for, and in the form that each of their versions expects."""
    return {
        "name": _NAME,
        "description": "Draw a box or click on one slice and get the whole 3D structure. Research software, "
        "not a medical device.",
        "version": version(_NAME),
        "labels": [LABEL],
        "models": {name: model.info for name, model in MODELS.items()},
        "trainers": {},
        "strategies": {name: {"description": text} for name, text in DESCRIPTIONS.items()},
        "scoring": {},
        "train_stats": {},
        "datastore": statistics(dialect.studies.entries()),
        # Old plug-ins look into it, newer ones take anything in it for a server that is too old.
        "config": {},
    }


def statistics(entries: Mapping[str, ImageEntry]) -> dict[str, object]:
    """How many images there are, and how many have labels of each tag."""
    tags = Counter(tag for entry in entries.values() for tag in entry.labels)
    return {"total": len(entries), "completed": tags[FINAL], "label_tags": dict(sorted(tags.items()))}
